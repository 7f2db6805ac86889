//! Jinja2's filters.

use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, Tuple, ValueOrKwargs};
use minijinja::{Environment, Error, State, Value, filters};

use super::arguments::Arguments;
use super::methods::{joined, padded, replaced, stripped};
use super::words::{Kind, integer, items, kind, number, undefined, unfit, wrong};
use super::{budget, compare, format, json, operators, text};

/// Filters of Jinja2 that are here.
const HERE: [&str; 44] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
];

/// The rest of those that are here.
const HERE_TOO: [&str; 2] = ["upper", "wordcount"];

/// Filters of Jinja2 that are missing here: a template that uses one is refused.
pub(super) const MISSING: [&str; 8] =
    ["filesizeformat", "pprint", "random", "striptags", "urlencode", "urlize", "wordwrap", "xmlattr"];

/// True if Jinja2 has a filter of this name.
pub(super) fn is_filter(name: &str) -> bool {
    HERE.contains(&name) || HERE_TOO.contains(&name) || MISSING.contains(&name)
}

type Filter = fn(&mut State, &Value, &[Value]) -> Result<Value, Error>;

/// Adds the filters.
pub(super) fn register(environment: &mut Environment<'static>) {
    let ours: [(&str, Filter); 33] = [
        ("abs", abs),
        ("attr", attr),
        ("capitalize", |state, value, given| of_text(state, value, given, text::capitalized)),
        ("center", center),
        ("count", length),
        ("dictsort", dictsort),
        ("e", escape),
        ("escape", escape),
        ("first", |state, value, given| end(state, value, given, false)),
        ("float", float),
        ("forceescape", forceescape),
        ("format", format_filter),
        ("groupby", groupby),
        ("indent", indent),
        ("int", int),
        ("items", pairs),
        ("join", join),
        ("last", |state, value, given| end(state, value, given, true)),
        ("length", length),
        ("list", list),
        ("lower", |state, value, given| of_text(state, value, given, str::to_lowercase)),
        ("replace", replace),
        ("reverse", reverse),
        ("round", round),
        ("safe", safe),
        ("string", string),
        ("sum", sum),
        ("title", |state, value, given| of_text(state, value, given, text::title_words)),
        ("tojson", json::tojson),
        ("trim", trim),
        ("truncate", truncate),
        ("upper", |state, value, given| of_text(state, value, given, str::to_uppercase)),
        ("wordcount", wordcount),
    ];
    for (name, filter) in ours {
        environment.add_filter(name, move |state: &mut State, value: &Value, given: Rest<ValueOrKwargs>| {
            let given: Vec<Value> = given.0.into_iter().map(Value::from).collect();
            filter(state, value, &given)
        });
    }
    register_theirs(environment);
}

/// The library's own, where they do what Jinja2's do.
fn register_theirs(environment: &mut Environment<'static>) {
    environment.add_filter("default", filters::default);
    environment.add_filter("d", filters::default);
    let of_lists = [
        ("batch", Value::from_function(filters::batch)),
        ("map", Value::from_function(filters::map)),
        ("max", Value::from_function(filters::max)),
        ("min", Value::from_function(filters::min)),
        ("reject", Value::from_function(filters::reject)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("select", Value::from_function(filters::select)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("slice", Value::from_function(filters::slice)),
        ("sort", Value::from_function(filters::sort)),
        ("unique", Value::from_function(filters::unique)),
    ];
    for (name, filter) in of_lists {
        let nests = ["batch", "slice"].contains(&name);
        let lazy = ["map", "reject", "rejectattr", "select", "selectattr"].contains(&name);
        let call = move |state: &mut State, value: Value, given: Rest<ValueOrKwargs>| {
            // Jinja2's generators begin with `if seq:`.
            let all = if lazy && !value.is_true() { Vec::new() } else { items(&value)? };
            let count = given.first().filter(|_| nests).and_then(|count| count.as_usize()).unwrap_or_default();
            budget::charge_values(state, all.len().saturating_add(count))?;
            if given.0.iter().all(|given| !names_attribute(given)) {
                comparable(state, name, &all)?;
            }
            let given = given.0.into_iter().map(Value::from);
            let given: Vec<Value> = std::iter::once(Value::from(all)).chain(given).collect();
            let made = filter.call(state, &given)?;
            if nests { watched(state, made) } else { Ok(made) }
        };
        environment.add_filter(name, call);
    }
}

fn names_attribute(given: &Value) -> bool {
    given.is_kwargs() && given.get_attr("attribute").is_ok_and(|attribute| !attribute.is_undefined())
}

/// Refuses what Python cannot sort or hash. The library orders everything somehow.
fn comparable(state: &mut State, name: &str, all: &[Value]) -> Result<(), Error> {
    match name {
        "sort" | "max" | "min" => {
            all.windows(2).try_for_each(|pair| compare::order(state, &pair[0], &pair[1]).map(drop))
        }
        "unique" => match all.iter().find(|item| matches!(kind(item), Kind::List | Kind::Dict)) {
            Some(item) => Err(unfit(item, "cannot be told from others")),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn watched(state: &mut State, made: Value) -> Result<Value, Error> {
    budget::nested(state, &made).map(|()| made)
}

fn of_text<T: Into<Value>>(
    state: &mut State,
    value: &Value,
    given: &[Value],
    make: fn(&str) -> T,
) -> Result<Value, Error> {
    Arguments::bind("the filter", given, &[])?;
    let own = text::of(state, value)?;
    // A character may become three in another case.
    budget::charge(state, own.len() * 3)?;
    Ok(make(&own).into())
}

fn abs(_: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    Arguments::bind("abs", given, &[])?;
    match (integer(value), number(value)) {
        (Some(whole), _) => Ok(Value::from(i64::try_from(whole.abs()).map_err(|_| wrong("a number is too large"))?)),
        (_, Some(number)) => Ok(Value::from(number.abs())),
        _ => Err(unfit(value, "has no absolute value")),
    }
}

fn attr(_: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("attr", given, &["name"])?;
    // Never an item of that name.
    match kind(value) {
        Kind::Dict => {
            let name = arguments.text(0)?;
            let is_method = super::methods::is_method(Kind::Dict, name);
            if is_method { operators::attribute(value, name) } else { Ok(Value::UNDEFINED) }
        }
        _ => operators::attribute(value, arguments.text(0)?),
    }
}

fn center(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("center", given, &["width"])?;
    let width = usize::try_from(arguments.integer(0, 80)?).unwrap_or_default();
    let own = text::of(state, value)?;
    padded(state, &own, width, " ", "center").map(Value::from)
}

fn length(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    Arguments::bind("length", given, &[])?;
    budget::charge_read(state, value.as_str().map_or(0, str::len))?;
    match kind(value) {
        Kind::Undefined => Ok(Value::from(0)),
        _ => value.len().map(Value::from).ok_or_else(|| unfit(value, "has no length")),
    }
}

fn dictsort(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("dictsort", given, &["case_sensitive", "by", "reverse"])?;
    if kind(value) != Kind::Dict {
        return Err(unfit(value, "is not a mapping"));
    }
    let by_value = match arguments.maybe_text(1)? {
        None | Some("key") => false,
        Some("value") => true,
        Some(_) => return Err(wrong("dictsort sorts by `key` or by `value`")),
    };
    budget::charge_values(state, value.len().unwrap_or_default())?;
    let mut pairs = super::words::pairs(value)?;
    let exact = arguments.flag(0);
    let fold = |value: &Value| match value.as_str() {
        Some(text) if !exact => Value::from(text.to_lowercase()),
        _ => value.clone(),
    };
    let mut failed = None;
    pairs.sort_by(|one, other| {
        let (one, other) = if by_value { (&one.1, &other.1) } else { (&one.0, &other.0) };
        match compare::order(state, &fold(one), &fold(other)) {
            Ok(order) => order.unwrap_or(std::cmp::Ordering::Equal),
            Err(error) => {
                failed = Some(error);
                std::cmp::Ordering::Equal
            }
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    if arguments.flag(2) {
        pairs.reverse();
    }
    let made: Value = pairs.into_iter().map(|(key, value)| Value::from(Tuple::from([key, value]))).collect();
    budget::nested(state, &made).map(|()| made)
}

fn escape(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    Arguments::bind("escape", given, &[])?;
    if value.is_safe() {
        return Ok(value.clone());
    }
    let own = text::of(state, value)?;
    text::escaped(state, &own).map(Value::from_safe_string)
}

fn forceescape(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    Arguments::bind("forceescape", given, &[])?;
    let own = text::of(state, value)?;
    text::escaped(state, &own).map(Value::from_safe_string)
}

fn safe(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    Arguments::bind("safe", given, &[])?;
    let own = text::of(state, value)?;
    budget::charge(state, own.len())?;
    Ok(Value::from_safe_string(own.into_owned()))
}

/// The first item, or the last.
fn end(state: &mut State, value: &Value, given: &[Value], last: bool) -> Result<Value, Error> {
    Arguments::bind("first", given, &[])?;
    if let Some(own) = value.as_str() {
        let found = if last { own.chars().next_back() } else { own.chars().next() };
        return Ok(found.map(Value::from).unwrap_or_default());
    }
    budget::charge_values(state, value.len().unwrap_or_default())?;
    let all = items(value)?;
    let found = if last { all.last() } else { all.first() };
    Ok(found.cloned().unwrap_or_default())
}

fn float(_: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("float", given, &["default"])?;
    let default = || arguments.get(0).cloned().unwrap_or_else(|| Value::from(0.0));
    if kind(value) == Kind::Undefined {
        return Err(undefined());
    }
    let read = |text: &str| stripped(text, None, true, true).replace('_', "").parse::<f64>().ok();
    let found = number(value).or_else(|| value.as_str().and_then(read));
    Ok(found.map_or_else(default, Value::from))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "checked against the bounds")]
fn int(_: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("int", given, &["default", "base"])?;
    let base = u32::try_from(arguments.integer(1, 10)?).ok().filter(|base| (2..=36).contains(base));
    let base = base.ok_or_else(|| wrong("int reads numbers of the bases 2 to 36"))?;
    if kind(value) == Kind::Undefined {
        return Err(undefined());
    }
    let cut = |number: f64| (number.is_finite() && number.abs() < i128::MAX as f64).then_some(number.trunc() as i128);
    let read = |text: &str| {
        let text = stripped(text, None, true, true).replace('_', "");
        let prefix = match base {
            16 => "0x",
            8 => "0o",
            2 => "0b",
            _ => "",
        };
        let digits = text.to_lowercase();
        let digits = digits.strip_prefix(prefix).unwrap_or(&digits);
        i128::from_str_radix(digits, base).ok().or_else(|| text.parse::<f64>().ok().and_then(cut))
    };
    let found = match (integer(value), number(value), value.as_str()) {
        (Some(whole), ..) => Some(whole),
        (_, Some(number), _) => cut(number),
        (.., Some(text)) => read(text),
        _ => None,
    };
    found.map_or_else(
        || Ok(arguments.get(0).cloned().unwrap_or_else(|| Value::from(0))),
        |found| operators::whole(Some(found)),
    )
}

fn format_filter(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let pattern = text::of(state, value)?.into_owned();
    format::formatted(state, minijinja::formatting::FormatStyle::Printf, &pattern, given)
}

fn groupby(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("groupby", given, &["attribute", "default", "case_sensitive"])?;
    let mut keywords = vec![("attribute", arguments.need(0)?.clone())];
    keywords.extend(arguments.get(1).map(|default| ("default", default.clone())));
    keywords.push(("case_sensitive", Value::from(arguments.flag(2))));
    let keywords: Kwargs = keywords.into_iter().collect();
    budget::charge_values(state, value.len().unwrap_or_default())?;
    let all = items(value)?;
    let keys = attributes(state, all.clone(), arguments.need(0)?)?;
    if arguments.get(1).is_none() && keys.iter().any(Value::is_undefined) {
        return Err(undefined());
    }
    let made = Value::from_function(filters::groupby).call(state, &[Value::from(all), keywords.into()])?;
    let group = |group: Value| Group {
        key: group.get_item(&Value::from(0)).unwrap_or_default(),
        all: group.get_item(&Value::from(1)).unwrap_or_default(),
    };
    let made = items(&made)?.into_iter().map(|pair| Value::from_object(group(pair))).collect();
    watched(state, made)
}

/// One group of `groupby`: a pair whose parts have names.
#[derive(Debug)]
struct Group {
    key: Value,
    all: Value,
}

impl Object for Group {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_usize(), key.as_str()) {
            (Some(0), _) | (_, Some("grouper")) => Some(self.key.clone()),
            (Some(1), _) | (_, Some("list")) => Some(self.all.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}

fn indent(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("indent", given, &["width", "first", "blank"])?;
    let own = value.as_str().ok_or_else(|| unfit(value, "is not a text, and is indented"))?;
    let by = match arguments.get(0).and_then(Value::as_str) {
        Some(by) => by.to_owned(),
        None => {
            let width = usize::try_from(arguments.integer(0, 4)?).unwrap_or_default();
            budget::charge(state, width)?;
            " ".repeat(width)
        }
    };
    // As Jinja2 does: with a line feed more, so that a last one is kept.
    let with_end = format!("{own}\n");
    let all = text::lines(&with_end, false);
    budget::charge(state, own.len().saturating_add(all.len().saturating_mul(by.len() + 1)))?;
    let blank = arguments.flag(2);
    let mut out = if arguments.flag(1) { by.clone() } else { String::new() };
    for (place, line) in all.iter().enumerate() {
        if place > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&by);
            }
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

fn pairs(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    Arguments::bind("items", given, &[])?;
    match kind(value) {
        Kind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        Kind::Dict => super::methods::call(state, value, "items", &[]),
        _ => Err(unfit(value, "is not a mapping")),
    }
}

fn join(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("join", given, &["d", "attribute"])?;
    budget::charge_values(state, value.len().unwrap_or_default())?;
    let mut all = items(value)?;
    if let Some(attribute) = arguments.get(1) {
        all = attributes(state, all, attribute)?;
    }
    let by = arguments.get(0).map(|by| text::of(state, by)).transpose()?.unwrap_or_default();
    joined(state, &all, &by)
}

/// The list that `map(attribute=…)` makes.
fn attributes(state: &mut State, all: Vec<Value>, attribute: &Value) -> Result<Vec<Value>, Error> {
    let keywords: Kwargs = [("attribute", attribute.clone())].into_iter().collect();
    items(&state.apply_filter("map", &[Value::from(all), keywords.into()])?)
}

fn list(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    Arguments::bind("list", given, &[])?;
    budget::charge_values(state, value.len().unwrap_or_default())?;
    Ok(Value::from(items(value)?))
}

fn replace(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("replace", given, &["old", "new", "count"])?;
    let own = text::of(state, value)?;
    let old = text::of(state, arguments.need(0)?)?;
    let new = text::of(state, arguments.need(1)?)?;
    replaced(state, &own, &old, &new, arguments.integer(2, -1)?)
}

fn reverse(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    Arguments::bind("reverse", given, &[])?;
    match value.as_str() {
        Some(text) => budget::charge(state, text.len())?,
        None => budget::charge_values(state, value.len().unwrap_or_default())?,
    }
    match value.as_str() {
        Some(text) => Ok(Value::from(text.chars().rev().collect::<String>())),
        None => Ok(items(value)?.into_iter().rev().collect()),
    }
}

fn round(_: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("round", given, &["precision", "method"])?;
    let places = arguments.integer(0, 0)?;
    let method = arguments.maybe_text(1)?.unwrap_or("common");
    let own = number(value).ok_or_else(|| unfit(value, "cannot be rounded"))?;
    let power = 10_f64.powi(i32::try_from(places.clamp(-308, 308)).unwrap_or_default());
    match method {
        "ceil" => Ok(Value::from((own * power).ceil() / power)),
        "floor" => Ok(Value::from((own * power).floor() / power)),
        "common" => match integer(value) {
            Some(whole) if places >= 0 => Ok(Value::from(i64::try_from(whole).unwrap_or(i64::MAX))),
            #[expect(clippy::cast_possible_truncation, reason = "a whole number, as Python rounds one")]
            Some(_) => Ok(Value::from(((own * power).round_ties_even() / power) as i64)),
            None if places > 15 => Ok(Value::from(own)),
            // Rust prints the nearest decimal, halves to even where the float is exactly between: as Python's round.
            None if places >= 0 => {
                let digits = usize::try_from(places).unwrap_or_default();
                Ok(Value::from(format!("{own:.digits$}").parse::<f64>().unwrap_or(own)))
            }
            None => Ok(Value::from((own * power).round_ties_even() / power)),
        },
        _ => Err(wrong("round's method is common, ceil or floor")),
    }
}

fn string(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    Arguments::bind("string", given, &[])?;
    if value.as_str().is_some() {
        return Ok(value.clone());
    }
    let own = text::of(state, value)?;
    budget::charge(state, own.len())?;
    Ok(Value::from(own.into_owned()))
}

fn sum(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("sum", given, &["attribute", "start"])?;
    budget::charge_values(state, value.len().unwrap_or_default())?;
    let mut all = items(value)?;
    if let Some(attribute) = arguments.get(0).filter(|attribute| !attribute.is_none()) {
        all = attributes(state, all, attribute)?;
    }
    let mut total = arguments.get(1).cloned().unwrap_or_else(|| Value::from(0));
    for item in &all {
        total = operators::add(state, &total, item)?;
    }
    Ok(total)
}

fn trim(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("trim", given, &["chars"])?;
    let own = text::of(state, value)?;
    budget::charge(state, own.len())?;
    Ok(Value::from(stripped(&own, arguments.maybe_text(0)?, true, true)))
}

fn truncate(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("truncate", given, &["length", "killwords", "end", "leeway"])?;
    let own = value.as_str().ok_or_else(|| unfit(value, "is not a text, and is truncated"))?;
    budget::charge(state, own.len())?;
    let end = arguments.maybe_text(2)?.unwrap_or("...");
    let (most, leeway) = (arguments.integer(0, 255)?, arguments.integer(3, 5)?);
    let room = usize::try_from(most).ok().and_then(|most| most.checked_sub(end.chars().count()));
    let room = room.ok_or_else(|| wrong("truncate's length must be that of its end or more"))?;
    let length = i64::try_from(own.chars().count()).unwrap_or(i64::MAX);
    if length <= most.saturating_add(leeway.max(0)) {
        return Ok(value.clone());
    }
    let kept: String = own.chars().take(room).collect();
    let kept = match kept.rsplit_once(' ') {
        Some((words, _)) if !arguments.flag(1) => words,
        _ => &kept,
    };
    Ok(Value::from(format!("{kept}{end}")))
}

fn wordcount(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    Arguments::bind("wordcount", given, &[])?;
    let own = text::of(state, value)?;
    budget::charge(state, own.len())?;
    let words = own.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    Ok(Value::from(words.count()))
}
