//! Kinds of values and their errors, in Python's words.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::namespace::Namespace;

/// Python's name for the kind of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Undefined,
    None,
    Bool,
    Int,
    Float,
    Str,
    List,
    Tuple,
    Dict,
    /// The library's lazy sequences.
    Iterator,
    Namespace,
    /// Functions, macros, the loop.
    Other,
}

/// The kind of a value.
pub(super) fn kind(value: &Value) -> Kind {
    match value.kind() {
        ValueKind::Undefined => Kind::Undefined,
        ValueKind::None => Kind::None,
        ValueKind::Bool => Kind::Bool,
        ValueKind::Number if value.is_integer() => Kind::Int,
        ValueKind::Number => Kind::Float,
        ValueKind::String => Kind::Str,
        ValueKind::Seq if value.is_tuple() => Kind::Tuple,
        ValueKind::Seq => Kind::List,
        ValueKind::Map => Kind::Dict,
        ValueKind::Iterable => Kind::Iterator,
        _ if value.downcast_object_ref::<Namespace>().is_some() => Kind::Namespace,
        _ => Kind::Other,
    }
}

/// The kind's name in errors.
pub(super) const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Undefined => "Undefined",
        Kind::None => "NoneType",
        Kind::Bool => "bool",
        Kind::Int => "int",
        Kind::Float => "float",
        Kind::Str => "str",
        Kind::List => "list",
        Kind::Tuple => "tuple",
        Kind::Dict => "dict",
        Kind::Iterator => "generator",
        Kind::Namespace => "Namespace",
        Kind::Other => "object",
    }
}

/// An error of the template.
pub(super) fn wrong(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// A value that was used and is not there.
pub(super) fn undefined() -> Error {
    Error::new(ErrorKind::UndefinedError, "a variable or field that is not there is used")
}

/// A value of a kind that does not go here.
pub(super) fn unfit(value: &Value, what: &str) -> Error {
    match kind(value) {
        Kind::Undefined => undefined(),
        kind => wrong(format!("{} object {what}", name(kind))),
    }
}

/// A whole number; truth values count.
pub(super) fn integer(value: &Value) -> Option<i128> {
    match kind(value) {
        Kind::Bool => Some(i128::from(value.is_true())),
        Kind::Int => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// A number; truth values count.
#[expect(clippy::cast_precision_loss, reason = "as Python converts")]
pub(super) fn number(value: &Value) -> Option<f64> {
    match kind(value) {
        Kind::Float => f64::try_from(value.clone()).ok(),
        _ => integer(value).map(|number| number as f64),
    }
}

/// The items of a value, as a `for` sees them.
pub(super) fn items(value: &Value) -> Result<Vec<Value>, Error> {
    match kind(value) {
        Kind::Undefined => Ok(Vec::new()),
        Kind::Str | Kind::List | Kind::Tuple | Kind::Dict | Kind::Iterator => Ok(value.try_iter()?.collect()),
        _ => Err(unfit(value, "is not iterable")),
    }
}

/// Keys and values of a mapping, or of a list of pairs.
pub(super) fn pairs(value: &Value) -> Result<Vec<(Value, Value)>, Error> {
    if kind(value) == Kind::Dict {
        let keys: Vec<Value> = value.try_iter()?.collect();
        return keys.into_iter().map(|key| value.get_item(&key).map(|item| (key, item))).collect();
    }
    let pair = |item: Value| match items(&item)?.as_slice() {
        [key, value] => Ok((key.clone(), value.clone())),
        _ => Err(wrong("expected a list of pairs")),
    };
    items(value)?.into_iter().map(pair).collect()
}
