//! Bounds on what one rendering makes besides its output: the bytes of its texts, the values of its lists, and how
//! deep they are nested.
//!
//! The library counts instructions, and one instruction can double a text. Everything that makes a text or a list
//! charges its size here first.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::namespace::Namespace;

/// Bytes of texts and values that one rendering makes, all together, and an eighth of those it reads.
const MADE_MAX: usize = 128 << 20;

/// Bytes that one value of a list takes.
const VALUE_BYTES: usize = 32;

/// Nesting of values. The parser of requests stops at 128.
const DEPTH_MAX: usize = 256;

struct Left(usize);

/// Takes the bytes of a text from the budget of the rendering.
pub(super) fn charge(state: &mut State, bytes: usize) -> Result<(), Error> {
    let left = state.get_or_insert_extension_with(|| Left(MADE_MAX));
    left.0 = left.0.checked_sub(bytes).ok_or_else(exhausted)?;
    Ok(())
}

/// Takes values of a list, that are made or gone through.
pub(super) fn charge_values(state: &mut State, count: usize) -> Result<(), Error> {
    charge(state, count.saturating_mul(VALUE_BYTES))
}

/// Takes the bytes of a text that is read from end to end.
pub(super) fn charge_read(state: &mut State, bytes: usize) -> Result<(), Error> {
    charge(state, bytes / 8)
}

/// The rest of the budget.
pub(super) fn left(state: &mut State) -> usize {
    state.get_or_insert_extension_with(|| Left(MADE_MAX)).0
}

pub(super) fn exhausted() -> Error {
    Error::new(ErrorKind::OutOfFuel, "the template makes too much")
}

/// Refuses a value that is nested too deeply to be walked and freed on one stack, or that holds a namespace, which
/// could come to hold itself.
pub(super) fn nested(state: &mut State, value: &Value) -> Result<(), Error> {
    let mut left = left(state);
    let before = left;
    walk(value, 0, &mut left)?;
    charge(state, before - left)
}

fn walk(value: &Value, depth: usize, left: &mut usize) -> Result<(), Error> {
    *left = left.checked_sub(VALUE_BYTES).ok_or_else(exhausted)?;
    if depth > DEPTH_MAX {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply"));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.try_for_each(|item| walk(&item, depth + 1, left)),
        ValueKind::Map => value.try_iter()?.try_for_each(|key| walk(&value.get_item(&key)?, depth + 1, left)),
        _ if value.downcast_object_ref::<Namespace>().is_some() => {
            Err(Error::new(ErrorKind::InvalidOperation, "a namespace cannot be kept inside another value"))
        }
        _ => Ok(()),
    }
}
