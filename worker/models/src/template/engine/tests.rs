//! Jinja2's tests: what stands behind `is`.

use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::words::{Kind, integer, kind, number, unfit};
use super::{budget, compare, filters, text};

/// Every test of Jinja2, for `'name' is test`.
pub(super) const NAMES: [&str; 35] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
];

/// Adds the tests.
pub(super) fn register(environment: &mut Environment<'static>) {
    kinds(environment);
    environment.add_test("even", |value: &Value| rest(value, 2.0).map(|rest| rest == 0.0));
    environment.add_test("odd", |value: &Value| rest(value, 2.0).map(|rest| rest == 1.0));
    environment.add_test("divisibleby", |value: &Value, by: &Value| match number(by) {
        Some(by) if by != 0.0 => rest(value, by).map(|rest| rest == 0.0),
        _ => Err(unfit(by, "does not divide")),
    });
    environment.add_test("lower", |state: &mut State, value: &Value| {
        let own = text::of(state, value)?;
        budget::charge(state, own.len()).map(|()| text::is_cased(&own, char::is_lowercase))
    });
    environment.add_test("upper", |state: &mut State, value: &Value| {
        let own = text::of(state, value)?;
        budget::charge(state, own.len()).map(|()| text::is_cased(&own, char::is_uppercase))
    });
    environment.add_test("sameas", |value: &Value, other: &Value| {
        kind(value) == kind(other) && value == other && !matches!(kind(value), Kind::List | Kind::Dict | Kind::Tuple)
    });
    environment.add_test("filter", |value: &Value| value.as_str().is_some_and(filters::is_filter));
    environment.add_test("test", |value: &Value| {
        value
            .as_str()
            .is_some_and(|name| NAMES.contains(&name) || ["test", "true", "undefined", "upper"].contains(&name))
    });
    let comparisons: [(&'static [&'static str], &'static str); 7] = [
        (&["==", "eq", "equalto"], "=="),
        (&["!=", "ne"], "!="),
        (&["<", "lt", "lessthan"], "<"),
        (&["<=", "le"], "<="),
        (&[">", "gt", "greaterthan"], ">"),
        (&[">=", "ge"], ">="),
        (&["in"], "in"),
    ];
    for (names, operator) in comparisons {
        for name in names {
            environment.add_test(*name, move |state: &mut State, value: &Value, other: &Value| {
                compare::holds(state, value, operator, other)
            });
        }
    }
}

type Is = fn(&Value) -> bool;

fn kinds(environment: &mut Environment<'static>) {
    let is: [(&str, Is); 15] = [
        ("defined", |value| kind(value) != Kind::Undefined),
        ("undefined", |value| kind(value) == Kind::Undefined),
        ("none", |value| kind(value) == Kind::None),
        ("boolean", |value| kind(value) == Kind::Bool),
        ("true", |value| kind(value) == Kind::Bool && value.is_true()),
        ("false", |value| kind(value) == Kind::Bool && !value.is_true()),
        ("integer", |value| kind(value) == Kind::Int),
        ("float", |value| kind(value) == Kind::Float),
        ("number", |value| matches!(kind(value), Kind::Bool | Kind::Int | Kind::Float)),
        ("string", |value| kind(value) == Kind::Str),
        ("mapping", |value| kind(value) == Kind::Dict),
        ("sequence", |value| {
            matches!(kind(value), Kind::Str | Kind::List | Kind::Tuple | Kind::Dict | Kind::Undefined)
        }),
        ("iterable", |value| {
            let others = matches!(kind(value), Kind::Dict | Kind::Undefined | Kind::Iterator);
            others || matches!(kind(value), Kind::Str | Kind::List | Kind::Tuple)
        }),
        ("escaped", Value::is_safe),
        ("callable", |value| kind(value) == Kind::Other),
    ];
    for (name, test) in is {
        environment.add_test(name, move |value: &Value| test(value));
    }
}

/// The rest of a division, as Python's `%` has it.
fn rest(value: &Value, by: f64) -> Result<f64, Error> {
    if let (Some(whole), true) = (integer(value), by.fract() == 0.0) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "a small divisor, a whole number"
        )]
        return Ok(whole.rem_euclid((by.abs() as i128).max(1)) as f64);
    }
    let number = number(value).ok_or_else(|| match kind(value) {
        Kind::Undefined => Error::from(ErrorKind::UndefinedError),
        _ => unfit(value, "is not a number"),
    })?;
    Ok(number.rem_euclid(by.abs()))
}
