//! Arguments of filters and methods, by position or by name, as Python binds them.

use minijinja::value::Kwargs;
use minijinja::{Error, Value};

use super::words::{Kind, integer, kind, unfit, wrong};

/// The bound arguments of one call, in the order of the parameters' names.
pub(super) struct Arguments(Vec<Option<Value>>);

impl Arguments {
    /// Binds a call's arguments to parameters.
    pub(super) fn bind(call: &str, given: &[Value], names: &[&str]) -> Result<Self, Error> {
        let keywords = given.last().filter(|last| last.is_kwargs());
        let keywords = keywords.map(|keywords| Kwargs::try_from(keywords.clone())).transpose()?;
        let positional = &given[..given.len() - usize::from(keywords.is_some())];
        if positional.len() > names.len() {
            return Err(wrong(format!("{call} takes {} arguments, {} are given", names.len(), positional.len())));
        }
        let mut bound: Vec<Option<Value>> = positional.iter().cloned().map(Some).collect();
        bound.resize(names.len(), None);
        for name in keywords.iter().flat_map(Kwargs::args) {
            let place = names.iter().position(|own| *own == name);
            let place = place.ok_or_else(|| wrong(format!("{call} has no argument `{name}`")))?;
            if bound[place].is_some() {
                return Err(wrong(format!("{call} is given `{name}` twice")));
            }
            bound[place] = keywords.as_ref().map(|keywords| keywords.get(name)).transpose()?;
        }
        Ok(Self(bound))
    }

    /// The argument, if it was given.
    pub(super) fn get(&self, place: usize) -> Option<&Value> {
        self.0.get(place)?.as_ref()
    }

    /// The argument, given or an error.
    pub(super) fn need(&self, place: usize) -> Result<&Value, Error> {
        self.get(place).ok_or_else(|| wrong("an argument is missing"))
    }

    /// A text that must be given.
    pub(super) fn text(&self, place: usize) -> Result<&str, Error> {
        let value = self.need(place)?;
        value.as_str().ok_or_else(|| unfit(value, "is not a text"))
    }

    /// A text, where `None` and nothing are the same.
    pub(super) fn maybe_text(&self, place: usize) -> Result<Option<&str>, Error> {
        match self.get(place) {
            None => Ok(None),
            Some(value) if kind(value) == Kind::None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| unfit(value, "is not a text")),
        }
    }

    /// A whole number; `None` and nothing are the default.
    pub(super) fn integer(&self, place: usize, default: i64) -> Result<i64, Error> {
        match self.get(place) {
            None => Ok(default),
            Some(value) if kind(value) == Kind::None => Ok(default),
            Some(value) => {
                let number = integer(value).ok_or_else(|| unfit(value, "is not a whole number"))?;
                Ok(i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX }))
            }
        }
    }

    /// True if the argument is given and true.
    pub(super) fn flag(&self, place: usize) -> bool {
        self.get(place).is_some_and(Value::is_true)
    }
}
