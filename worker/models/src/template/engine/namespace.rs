//! `namespace()`: the one value that a template may change.

use std::fmt;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectRepr};
use parking_lot::Mutex;

/// Attributes that outlive the loop in which they are set.
#[derive(Debug, Default)]
pub(super) struct Namespace {
    /// In the order they were first set.
    fields: Mutex<Vec<(String, Value)>>,
}

impl Namespace {
    /// Sets an attribute.
    pub(super) fn set(&self, name: &str, value: Value) {
        let mut fields = self.fields.lock();
        match fields.iter_mut().find(|(own, _)| own == name) {
            Some((_, old)) => *old = value,
            None => fields.push((name.to_owned(), value)),
        }
    }

    /// Its attributes, in order.
    pub(super) fn fields(&self) -> Vec<(String, Value)> {
        self.fields.lock().clone()
    }
}

impl Object for Namespace {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        self.fields.lock().iter().find(|(own, _)| own == name).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<Namespace>")
    }
}
