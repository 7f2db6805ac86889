//! Operators, subscripts and attributes, as Python and Jinja2 mean them; the names that [lowered](super::lower)
//! templates call them by.

use std::fmt;
use std::sync::Arc;

use minijinja::formatting::FormatStyle;
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Tuple};
use minijinja::{Environment, Error, State, Value};

use super::compare::{contains, holds, integers, key, numbers, operands};
use super::format::formatted;
use super::namespace::Namespace;
use super::words::{Kind, integer, items, kind, name, number, pairs, undefined, unfit, wrong};
use super::{budget, methods, text};

/// The prefix of our own names, which a template may not use.
pub(super) const PREFIX: &str = "_fb_";

/// The largest list that `range` makes, as in Jinja2's sandbox.
const RANGE_MAX: i128 = 100_000;

type Operator = fn(&mut State, &Value, &Value) -> Result<Value, Error>;

/// Adds the operators and Jinja2's functions.
pub(super) fn register(environment: &mut Environment<'static>) {
    let binary: [(&str, Operator); 9] = [
        ("sub", sub),
        ("mul", mul),
        ("div", div),
        ("floordiv", floordiv),
        ("mod", rem),
        ("pow", pow),
        ("in", contains_value),
        ("item", item),
        ("attr", attribute_value),
    ];
    for (name, operator) in binary {
        let call = move |state: &mut State, left: &Value, right: &Value| operator(state, left, right);
        environment.add_function(format!("{PREFIX}{name}"), call);
    }
    environment.add_function(format!("{PREFIX}add"), |state: &mut State, all: Rest<Value>| {
        let (first, rest) = all.split_first().ok_or_else(|| wrong("nothing to add"))?;
        rest.iter().try_fold(first.clone(), |sum, next| add(state, &sum, next))
    });
    environment.add_function(format!("{PREFIX}concat"), |state: &mut State, all: Rest<Value>| {
        methods::joined(state, &all, "")
    });
    environment.add_function(format!("{PREFIX}neg"), |value: &Value| neg(value));
    environment.add_function(format!("{PREFIX}compare"), compare);
    environment.add_function(format!("{PREFIX}slice"), slice);
    environment.add_function(format!("{PREFIX}iter"), iterable);
    environment.add_function(format!("{PREFIX}nested"), |state: &mut State, value: Value| {
        budget::nested(state, &value).map(|()| value)
    });
    environment
        .add_function(format!("{PREFIX}assign"), |state: &mut State, target: &Value, name: &str, value: Value| {
            assign(state, target, name, value)
        });
    environment.add_function("namespace", namespace);
    environment.add_function("range", range);
    environment.add_function("dict", dict);
}

fn overflow() -> Error {
    wrong("a number is too large")
}

/// A whole number as the library holds it.
pub(super) fn whole(number: Option<i128>) -> Result<Value, Error> {
    let number = number.ok_or_else(overflow)?;
    Ok(i64::try_from(number).map_or_else(|_| Value::from(number), Value::from))
}

pub(super) fn add(state: &mut State, left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some((left, right)) = integers(left, right) {
        return whole(left.checked_add(right));
    }
    if let Some((left, right)) = numbers(left, right) {
        return Ok(Value::from(left + right));
    }
    match (kind(left), kind(right)) {
        (Kind::Str, Kind::Str) => {
            let (one, other) = (left.as_str().unwrap_or_default(), right.as_str().unwrap_or_default());
            budget::charge(state, one.len() + other.len())?;
            // A text that was marked as safe escapes the one that it is added to.
            match (left.is_safe(), right.is_safe()) {
                (false, false) => Ok(Value::from([one, other].concat())),
                (true, true) => Ok(Value::from_safe_string([one, other].concat())),
                (true, false) => Ok(Value::from_safe_string(format!("{one}{}", text::escaped(state, other)?))),
                (false, true) => Ok(Value::from_safe_string(format!("{}{other}", text::escaped(state, one)?))),
            }
        }
        (Kind::List, Kind::List) | (Kind::Tuple, Kind::Tuple) => {
            budget::charge_values(state, left.len().unwrap_or(0) + right.len().unwrap_or(0))?;
            let all = items(left)?.into_iter().chain(items(right)?);
            Ok(if left.is_tuple() { Value::from(Tuple::from(all.collect::<Vec<_>>())) } else { all.collect() })
        }
        _ => Err(operands("+", left, right)),
    }
}

fn sub(_: &mut State, left: &Value, right: &Value) -> Result<Value, Error> {
    match (integers(left, right), numbers(left, right)) {
        (Some((left, right)), _) => whole(left.checked_sub(right)),
        (_, Some((left, right))) => Ok(Value::from(left - right)),
        _ => Err(operands("-", left, right)),
    }
}

fn mul(state: &mut State, left: &Value, right: &Value) -> Result<Value, Error> {
    match (integers(left, right), numbers(left, right)) {
        (Some((left, right)), _) => return whole(left.checked_mul(right)),
        (_, Some((left, right))) => return Ok(Value::from(left * right)),
        _ => {}
    }
    match (integer(left), integer(right)) {
        (None, Some(times)) => repeat(state, left, times).ok_or_else(|| operands("*", left, right))?,
        (Some(times), None) => repeat(state, right, times).ok_or_else(|| operands("*", left, right))?,
        _ => Err(operands("*", left, right)),
    }
}

/// A text, list or tuple some times over; none for other values.
fn repeat(state: &mut State, value: &Value, times: i128) -> Option<Result<Value, Error>> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    let (length, charged) = match kind(value) {
        Kind::Str => {
            let length = value.as_str().map_or(0, str::len);
            (length, budget::charge(state, length.saturating_mul(times)))
        }
        Kind::List | Kind::Tuple => {
            let length = value.len().unwrap_or(0);
            (length, budget::charge_values(state, length.saturating_mul(times)))
        }
        _ => return None,
    };
    if let Err(error) = charged {
        return Some(Err(error));
    }
    let times = if length == 0 { 0 } else { times };
    if let Some(text) = value.as_str() {
        return Some(Ok(Value::from(text.repeat(times))));
    }
    let all = items(value).map(|items| std::iter::repeat_n(items, times).flatten().collect::<Vec<Value>>());
    Some(all.map(|all| if value.is_tuple() { Value::from(Tuple::from(all)) } else { Value::from(all) }))
}

fn div(_: &mut State, left: &Value, right: &Value) -> Result<Value, Error> {
    match numbers(left, right) {
        Some((_, 0.0)) => Err(wrong("division by zero")),
        Some((left, right)) => Ok(Value::from(left / right)),
        None => Err(operands("/", left, right)),
    }
}

fn floordiv(_: &mut State, left: &Value, right: &Value) -> Result<Value, Error> {
    match (integers(left, right), numbers(left, right)) {
        (_, Some((_, 0.0))) => Err(wrong("division by zero")),
        (Some((left, right)), _) => {
            let quotient = left.checked_div(right).ok_or_else(overflow)?;
            let below = left % right != 0 && (left < 0) != (right < 0);
            whole(Some(quotient - i128::from(below)))
        }
        (_, Some((left, right))) => Ok(Value::from((left / right).floor())),
        _ => Err(operands("//", left, right)),
    }
}

fn rem(state: &mut State, left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(pattern) = left.as_str() {
        return percent(state, pattern, right);
    }
    match (integers(left, right), numbers(left, right)) {
        (_, Some((_, 0.0))) => Err(wrong("modulo by zero")),
        (Some((left, right)), _) => {
            let rest = left.checked_rem(right).ok_or_else(overflow)?;
            whole(Some(if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest }))
        }
        (_, Some((left, right))) => {
            let rest = left % right;
            Ok(Value::from(if rest != 0.0 && (rest < 0.0) != (right < 0.0) { rest + right } else { rest }))
        }
        _ => Err(operands("%", left, right)),
    }
}

/// `'…%s…' % values`, of a tuple's values, a mapping's or one.
fn percent(state: &mut State, pattern: &str, right: &Value) -> Result<Value, Error> {
    let arguments = match kind(right) {
        Kind::Tuple => items(right)?,
        Kind::Undefined => return Err(undefined()),
        _ => vec![right.clone()],
    };
    if !pattern.contains('%') && !matches!(kind(right), Kind::Dict | Kind::List) && !arguments.is_empty() {
        return Err(wrong("not all arguments converted during string formatting"));
    }
    formatted(state, FormatStyle::Printf, pattern, &arguments)
}

#[expect(clippy::cast_precision_loss, reason = "as Python converts")]
fn pow(_: &mut State, left: &Value, right: &Value) -> Result<Value, Error> {
    match (integers(left, right), numbers(left, right)) {
        (Some((base, power)), _) if power >= 0 => {
            let power = u32::try_from(power).map_err(|_| overflow())?;
            whole(base.checked_pow(power))
        }
        (Some((0, _)), _) => Err(wrong("zero cannot be raised to a negative power")),
        (Some((base, power)), _) => Ok(Value::from((base as f64).powf(power as f64))),
        (_, Some((0.0, power))) if power < 0.0 => Err(wrong("zero cannot be raised to a negative power")),
        (_, Some((base, power))) => Ok(Value::from(base.powf(power))),
        _ => Err(operands("**", left, right)),
    }
}

fn neg(value: &Value) -> Result<Value, Error> {
    match (integer(value), number(value)) {
        (Some(number), _) => whole(number.checked_neg()),
        (_, Some(number)) => Ok(Value::from(-number)),
        _ => Err(unfit(value, "cannot be negated")),
    }
}

/// `a < b <= c …`: values and the words between them.
fn compare(state: &mut State, all: Rest<Value>) -> Result<Value, Error> {
    for three in all.windows(3).step_by(2) {
        let [left, operator, right] = three else { continue };
        if !holds(state, left, operator.as_str().unwrap_or_default(), right)? {
            return Ok(Value::from(false));
        }
    }
    Ok(Value::from(true))
}

fn contains_value(state: &mut State, value: &Value, container: &Value) -> Result<Value, Error> {
    contains(state, container, value).map(Value::from)
}

/// `value[key]`.
fn item(state: &mut State, value: &Value, key_value: &Value) -> Result<Value, Error> {
    budget::charge(state, value.as_str().map_or(0, str::len))?;
    let found = match kind(value) {
        Kind::Undefined => return Err(undefined()),
        Kind::Dict if matches!(kind(key_value), Kind::List | Kind::Dict) => None,
        Kind::Dict => key(value, key_value)?,
        Kind::Str | Kind::List | Kind::Tuple => integer(key_value).and_then(|index| at(value, index)),
        _ => None,
    };
    match (found, key_value.as_str()) {
        (Some(found), _) => Ok(found),
        // Jinja2 falls back to the attribute of that name.
        (None, Some(name)) => attribute(value, name),
        (None, None) => Ok(Value::UNDEFINED),
    }
}

/// The item at a place, counted from the end where it is negative.
fn at(value: &Value, index: i128) -> Option<Value> {
    let length = i128::try_from(value.len()?).ok()?;
    let index = if index < 0 { index + length } else { index };
    let index = usize::try_from(index).ok()?;
    match value.as_str() {
        Some(text) => text.chars().nth(index).map(Value::from),
        None => value.get_item(&Value::from(index)).ok().filter(|_| index < value.len().unwrap_or(0)),
    }
}

fn attribute_value(_: &mut State, value: &Value, name: &Value) -> Result<Value, Error> {
    attribute(value, name.as_str().unwrap_or_default())
}

/// `value.name`: a method before an item of that name, as in Jinja2.
pub(super) fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    match kind(value) {
        Kind::Undefined => Err(undefined()),
        _ if name.starts_with("__") => Ok(Value::UNDEFINED),
        kind if methods::is_safe_method(kind, name) => {
            Ok(Value::from_object(Bound { value: value.clone(), name: name.to_owned() }))
        }
        Kind::Dict | Kind::Other | Kind::List => value.get_attr(name),
        Kind::Namespace => Ok(value.get_item(&Value::from(name)).unwrap_or_default()),
        _ => Ok(Value::UNDEFINED),
    }
}

/// A method that is named and not called.
#[derive(Debug)]
struct Bound {
    value: Value,
    name: String,
}

impl Object for Bound {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
        methods::call(state, &self.value, &self.name, arguments)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<built-in method {} of {} object>", self.name, name(kind(&self.value)))
    }
}

/// `value[start:stop:step]`.
fn slice(state: &mut State, value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    if !matches!(kind(value), Kind::Str | Kind::List | Kind::Tuple) {
        return Err(unfit(value, "cannot be sliced"));
    }
    let bound = |value: &Value| match kind(value) {
        Kind::None => Ok(None),
        _ => integer(value).map(Some).ok_or_else(|| unfit(value, "is not a place in a list")),
    };
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return Err(wrong("slice step cannot be zero"));
    }
    if let Some(own) = value.as_str() {
        budget::charge(state, own.len())?;
        let all: Vec<char> = own.chars().collect();
        let places = places(i128::try_from(all.len()).unwrap_or_default(), start, stop, step);
        return Ok(Value::from(places.filter_map(|place| all.get(place)).collect::<String>()));
    }
    budget::charge_values(state, value.len().unwrap_or_default())?;
    let all = items(value)?;
    let places = places(i128::try_from(all.len()).unwrap_or_default(), start, stop, step);
    let taken = places.filter_map(|place| all.get(place).cloned());
    Ok(match kind(value) {
        Kind::Tuple => Value::from(Tuple::from(taken.collect::<Vec<_>>())),
        _ => taken.collect(),
    })
}

/// The places that Python's `slice.indices` yields.
fn places(length: i128, start: Option<i128>, stop: Option<i128>, step: i128) -> impl Iterator<Item = usize> {
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |place: i128| (if place < 0 { place.saturating_add(length) } else { place }).clamp(low, high);
    let first = start.map_or(if step > 0 { low } else { high }, clamp);
    let last = stop.map_or(if step > 0 { high } else { low }, clamp);
    let within = move |place: &i128| if step > 0 { *place < last } else { *place > last };
    std::iter::successors(Some(first), move |place| place.checked_add(step))
        .take_while(within)
        .filter_map(|place| usize::try_from(place).ok())
}

/// The values that a `for` iterates over.
fn iterable(state: &mut State, value: Value) -> Result<Value, Error> {
    budget::charge_values(state, value.len().unwrap_or(1))?;
    match kind(&value) {
        Kind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        Kind::Str | Kind::List | Kind::Tuple | Kind::Dict | Kind::Iterator => Ok(value),
        _ => Err(unfit(&value, "is not iterable")),
    }
}

fn range(state: &mut State, first: i64, second: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (start, stop) = second.map_or((0, first), |stop| (first, stop));
    let (start, stop, step) = (i128::from(start), i128::from(stop), i128::from(step.unwrap_or(1)));
    if step == 0 {
        return Err(wrong("the step of a range cannot be zero"));
    }
    let count = ((stop - start + step - step.signum()) / step).max(0);
    if count > RANGE_MAX {
        return Err(wrong(format!("a range of {count} numbers is longer than {RANGE_MAX}")));
    }
    budget::charge_values(state, usize::try_from(count).unwrap_or(usize::MAX))?;
    (0..count).map(|at| whole(Some(start + at * step))).collect()
}

fn dict(state: &mut State, first: Option<Value>, keywords: Kwargs) -> Result<Value, Error> {
    let mut pairs = first.as_ref().map_or_else(|| Ok(Vec::new()), pairs)?;
    let names: Vec<String> = keywords.args().map(str::to_owned).collect();
    for name in names {
        pairs.push((Value::from(name.as_str()), keywords.get(&name)?));
    }
    let dict = Value::from_pairs(pairs);
    budget::nested(state, &dict).map(|()| dict)
}

/// `namespace(…)`: of a mapping or pairs, and of keywords.
fn namespace(state: &mut State, first: Option<Value>, keywords: Kwargs) -> Result<Value, Error> {
    let namespace = Namespace::default();
    if let Some(first) = first {
        for (key, value) in pairs(&first)? {
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
fn assign(state: &mut State, target: &Value, name: &str, value: Value) -> Result<Value, Error> {
    let namespace = target.downcast_object_ref::<Namespace>();
    let namespace = namespace.ok_or_else(|| wrong("cannot assign attribute on non-namespace object"))?;
    put(state, namespace, name, value)?;
    Ok(Value::UNDEFINED)
}

fn put(state: &mut State, namespace: &Namespace, name: &str, value: Value) -> Result<(), Error> {
    if name.starts_with('_') {
        let reason = format!("a namespace cannot have the attribute `{name}`: it begins with an underscore");
        return Err(wrong(reason));
    }
    budget::nested(state, &value)?;
    namespace.set(name, value);
    Ok(())
}
