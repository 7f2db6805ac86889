//! Comparisons as Python makes them: equality, order and membership.

use std::cmp::Ordering;

use minijinja::{Error, State, Value};

use super::budget;
use super::words::{Kind, integer, items, kind, name, number, undefined, unfit, wrong};

/// Two whole numbers.
pub(super) fn integers(left: &Value, right: &Value) -> Option<(i128, i128)> {
    Some((integer(left)?, integer(right)?))
}

/// Two numbers.
pub(super) fn numbers(left: &Value, right: &Value) -> Option<(f64, f64)> {
    Some((number(left)?, number(right)?))
}

/// The error of operands that do not go together.
pub(super) fn operands(operator: &str, left: &Value, right: &Value) -> Error {
    match (kind(left), kind(right)) {
        (Kind::Undefined, _) | (_, Kind::Undefined) => undefined(),
        (left, right) => wrong(format!("unsupported operand types for {operator}: {} and {}", name(left), name(right))),
    }
}

/// True if two values are equal. Charges for every part that is compared.
pub(super) fn equal(state: &mut State, left: &Value, right: &Value) -> Result<bool, Error> {
    budget::charge_values(state, 1)?;
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        budget::charge_read(state, left.len().min(right.len()))?;
        return Ok(left == right);
    }
    if let Some((left, right)) = integers(left, right) {
        return Ok(left == right);
    }
    #[expect(clippy::float_cmp, reason = "a template's own comparison")]
    if let Some((left, right)) = numbers(left, right) {
        return Ok(left == right);
    }
    match (kind(left), kind(right)) {
        (Kind::List, Kind::List) | (Kind::Tuple, Kind::Tuple) => {
            let (left, right) = (items(left)?, items(right)?);
            if left.len() != right.len() {
                return Ok(false);
            }
            for (left, right) in left.iter().zip(&right) {
                if !equal(state, left, right)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Kind::Dict, Kind::Dict) => equal_dicts(state, left, right),
        (one, other) => Ok(one == other && left == right),
    }
}

fn equal_dicts(state: &mut State, left: &Value, right: &Value) -> Result<bool, Error> {
    if left.len() != right.len() {
        return Ok(false);
    }
    for key in items(left)? {
        let (one, other) = (left.get_item(&key)?, right.get_item(&key)?);
        if !equal(state, &one, &other)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The order of two values that have one.
pub(super) fn order(state: &mut State, left: &Value, right: &Value) -> Result<Option<Ordering>, Error> {
    budget::charge_values(state, 1)?;
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        budget::charge_read(state, left.len().min(right.len()))?;
        return Ok(Some(left.cmp(right)));
    }
    if let Some((left, right)) = integers(left, right) {
        return Ok(Some(left.cmp(&right)));
    }
    if let Some((left, right)) = numbers(left, right) {
        return Ok(left.partial_cmp(&right));
    }
    match (kind(left), kind(right)) {
        (Kind::List, Kind::List) | (Kind::Tuple, Kind::Tuple) => {
            let (left, right) = (items(left)?, items(right)?);
            for (left, right) in left.iter().zip(&right) {
                if !equal(state, left, right)? {
                    return order(state, left, right);
                }
            }
            Ok(Some(left.len().cmp(&right.len())))
        }
        _ => Err(operands("an order", left, right)),
    }
}

/// True if one comparison holds.
pub(super) fn holds(state: &mut State, left: &Value, operator: &str, right: &Value) -> Result<bool, Error> {
    match operator {
        "==" => return equal(state, left, right),
        "!=" => return equal(state, left, right).map(|same| !same),
        "in" => return contains(state, right, left),
        "not in" => return contains(state, right, left).map(|there| !there),
        _ => {}
    }
    let order = order(state, left, right)?;
    Ok(match operator {
        "<" => order == Some(Ordering::Less),
        "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        ">" => order == Some(Ordering::Greater),
        _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    })
}

/// True if a container holds a value.
pub(super) fn contains(state: &mut State, container: &Value, value: &Value) -> Result<bool, Error> {
    match kind(container) {
        Kind::Undefined => Ok(false),
        Kind::Str => {
            let part = value.as_str().ok_or_else(|| unfit(value, "is not a text, and is looked for in one"))?;
            let own = container.as_str().unwrap_or_default();
            budget::charge_read(state, own.len())?;
            Ok(own.contains(part))
        }
        Kind::Dict => Ok(key(container, value)?.is_some()),
        Kind::List | Kind::Tuple | Kind::Iterator => {
            for item in items(container)? {
                if equal(state, &item, value)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => Err(unfit(container, "is not iterable")),
    }
}

/// The value of a mapping under a key.
pub(super) fn key(dict: &Value, key: &Value) -> Result<Option<Value>, Error> {
    if matches!(kind(key), Kind::List | Kind::Dict) {
        return Err(unfit(key, "cannot be a key"));
    }
    let found = dict.get_item(key)?;
    Ok((!found.is_undefined()).then_some(found))
}
