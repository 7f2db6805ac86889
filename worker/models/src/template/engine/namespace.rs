//! `namespace()`: the one value that a template may change.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr};
use minijinja::{Error, ErrorKind, State, Value};
use parking_lot::Mutex;

use super::{budget, words};

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

/// `namespace(…)`: of a mapping or pairs, and of keywords.
pub(super) fn make(state: &mut State, first: Option<Value>, keywords: Kwargs) -> Result<Value, Error> {
    let namespace = Namespace::default();
    if let Some(first) = first {
        for (key, value) in words::pairs(&first)? {
            put(state, &namespace, key.as_str().unwrap_or_default(), value)?;
        }
    }
    let names: Vec<String> = keywords.args().map(str::to_owned).collect();
    for name in names {
        let value: Value = keywords.get(&name)?;
        put(state, &namespace, &name, value)?;
    }
    Ok(Value::from_object(namespace))
}

/// `{% set ns.name = value %}`.
pub(super) fn assign(state: &mut State, target: &Value, name: &str, value: Value) -> Result<Value, Error> {
    let namespace = target.downcast_object_ref::<Namespace>();
    let namespace = namespace.ok_or_else(|| words::wrong("cannot assign attribute on non-namespace object"))?;
    put(state, namespace, name, value)?;
    Ok(Value::UNDEFINED)
}

fn put(state: &mut State, namespace: &Namespace, name: &str, value: Value) -> Result<(), Error> {
    if name.starts_with('_') {
        let reason = format!("a namespace cannot have the attribute `{name}`: it begins with an underscore");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    budget::nested(state, &value)?;
    namespace.set(name, value);
    Ok(())
}
