//! Methods of Python's texts, lists and dicts that a template may call.

use minijinja::formatting::FormatStyle;
use minijinja::value::Tuple;
use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::Arguments;
use super::budget;
use super::compare::equal;
use super::format::formatted;
use super::text::{self, is_space, lines};
use super::words::{Kind, items, kind, unfit, wrong};

/// Those of texts.
const OF_TEXT: [&str; 42] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
];

/// Those of texts that are written apart.
const OF_TEXT_TOO: [&str; 1] = ["zfill"];

/// Those of texts that Python has and this engine has not: a template that calls one is refused.
pub(super) const MISSING: [&str; 4] = ["encode", "format_map", "maketrans", "translate"];

/// Those of dicts. The second half changes the dict, which Jinja2's sandbox refuses too.
const OF_DICT: [&str; 11] =
    ["copy", "get", "items", "keys", "values", "clear", "fromkeys", "pop", "popitem", "setdefault", "update"];

/// Those of lists, of which only the first three do not change the list.
const OF_LIST: [&str; 11] =
    ["copy", "count", "index", "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];

/// True if a kind of value has a method of this name.
pub(super) fn is_method(of: Kind, name: &str) -> bool {
    match of {
        Kind::Str => OF_TEXT.contains(&name) || OF_TEXT_TOO.contains(&name) || MISSING.contains(&name),
        Kind::Dict => OF_DICT.contains(&name),
        Kind::List => OF_LIST.contains(&name),
        Kind::Tuple => ["count", "index"].contains(&name),
        _ => false,
    }
}

/// True if a template may name the method. Those that change a value do not exist for it.
pub(super) fn is_safe_method(of: Kind, name: &str) -> bool {
    let changes =
        (of == Kind::Dict && OF_DICT[5..].contains(&name)) || (of == Kind::List && OF_LIST[3..].contains(&name));
    is_method(of, name) && !changes
}

/// Calls a method of a value.
///
/// # Errors
/// The value has none of that name, or the method refuses its arguments.
pub(super) fn call(state: &mut State, value: &Value, name: &str, given: &[Value]) -> Result<Value, Error> {
    let of = kind(value);
    match of {
        Kind::Undefined => Err(super::words::undefined()),
        _ if !is_method(of, name) => Err(Error::from(ErrorKind::UnknownMethod)),
        Kind::Str => of_text(state, value.as_str().unwrap_or_default(), name, given),
        Kind::Dict => of_dict(state, value, name, given),
        _ => of_list(state, value, name, given),
    }
}

fn of_dict(state: &mut State, dict: &Value, name: &str, given: &[Value]) -> Result<Value, Error> {
    if name == "get" {
        // Python takes these by position only.
        let (key, default) = match given {
            [key] if !key.is_kwargs() => (key, Value::from(())),
            [key, default] if !default.is_kwargs() => (key, default.clone()),
            _ => return Err(wrong("get takes a key and a default")),
        };
        let found = dict.get_item(key)?;
        return Ok(if found.is_undefined() { default } else { found });
    }
    if !given.is_empty() && OF_DICT[..5].contains(&name) {
        return Err(wrong(format!("{name} takes no arguments")));
    }
    budget::charge_values(state, dict.len().unwrap_or_default())?;
    match name {
        "items" => {
            let made: Value = super::words::pairs(dict)?
                .into_iter()
                .map(|(key, value)| Value::from(Tuple::from([key, value])))
                .collect();
            budget::nested(state, &made).map(|()| made)
        }
        "keys" => Ok(Value::from(items(dict)?)),
        "values" => Ok(super::words::pairs(dict)?.into_iter().map(|(_, value)| value).collect()),
        "copy" => Ok(dict.clone()),
        _ => Err(wrong(format!("{name} would change a dict, which templates may not"))),
    }
}

fn of_list(state: &mut State, list: &Value, name: &str, given: &[Value]) -> Result<Value, Error> {
    budget::charge_values(state, list.len().unwrap_or_default())?;
    let all = items(list)?;
    match (name, given) {
        ("copy", []) => Ok(list.clone()),
        ("count", [wanted]) => {
            let mut count = 0_u64;
            for item in &all {
                count += u64::from(equal(state, item, wanted)?);
            }
            Ok(Value::from(count))
        }
        ("index", [wanted]) => {
            for (place, item) in all.iter().enumerate() {
                if equal(state, item, wanted)? {
                    return Ok(Value::from(place));
                }
            }
            Err(wrong("the value is not in the list"))
        }
        _ => Err(wrong(format!("{name} would change a list, which templates may not, or has other arguments"))),
    }
}

fn of_text(state: &mut State, own: &str, name: &str, given: &[Value]) -> Result<Value, Error> {
    // Those that only look are cheaper than those that make a text.
    let looks = ["find", "rfind", "index", "rindex", "count", "startswith", "endswith"].contains(&name);
    if looks || name.starts_with("is") {
        budget::charge_read(state, own.len())?;
    } else {
        budget::charge(state, own.len())?;
    }
    match name {
        "strip" | "lstrip" | "rstrip" => strip(own, name, given),
        "split" | "rsplit" | "splitlines" | "partition" | "rpartition" => {
            let made = cut(own, name, given)?;
            budget::charge_values(state, made.len().unwrap_or_default()).map(|()| made)
        }
        "find" | "rfind" | "index" | "rindex" | "count" | "startswith" | "endswith" => look(own, name, given),
        "center" | "ljust" | "rjust" | "zfill" | "expandtabs" => pad(state, own, name, given),
        "format" => formatted(state, FormatStyle::StrFormat, own, given),
        "join" => {
            let arguments = Arguments::bind(name, given, &["iterable"])?;
            let all = items(arguments.need(0)?)?;
            if let Some(other) = all.iter().find(|item| item.as_str().is_none()) {
                return Err(unfit(other, "is not a text, and texts are joined"));
            }
            joined(state, &all, own)
        }
        "replace" => {
            let arguments = Arguments::bind(name, given, &["old", "new", "count"])?;
            replaced(state, own, arguments.text(0)?, arguments.text(1)?, arguments.integer(2, -1)?)
        }
        "removeprefix" | "removesuffix" => {
            let arguments = Arguments::bind(name, given, &["part"])?;
            let part = arguments.text(0)?;
            let rest = if name == "removeprefix" { own.strip_prefix(part) } else { own.strip_suffix(part) };
            Ok(Value::from(rest.unwrap_or(own)))
        }
        _ if MISSING.contains(&name) => Err(wrong(format!("the method {name} is not supported"))),
        _ => {
            Arguments::bind(name, given, &[])?;
            Ok(plain(own, name))
        }
    }
}

/// The methods without arguments.
fn plain(own: &str, name: &str) -> Value {
    let every = |is: fn(char) -> bool| !own.is_empty() && own.chars().all(is);
    match name {
        "capitalize" => text::capitalized(own).into(),
        "casefold" => own.to_lowercase().replace('ß', "ss").into(),
        "lower" => own.to_lowercase().into(),
        "upper" => own.to_uppercase().into(),
        "title" => text::title(own).into(),
        "swapcase" => swapped(own).into(),
        "isalnum" => every(char::is_alphanumeric).into(),
        "isalpha" => every(char::is_alphabetic).into(),
        "isascii" => own.is_ascii().into(),
        "isdecimal" | "isdigit" => every(text::is_decimal).into(),
        "isnumeric" => every(char::is_numeric).into(),
        "isidentifier" => {
            let begins = own.starts_with(|c: char| c.is_alphabetic() || c == '_');
            (begins && every(|c| c.is_alphanumeric() || c == '_')).into()
        }
        "isprintable" => own.chars().all(super::json::is_printable).into(),
        "isspace" => every(is_space).into(),
        "istitle" => (text::title(own) == own && own.chars().any(char::is_alphabetic)).into(),
        "islower" => text::is_cased(own, char::is_lowercase).into(),
        _ => text::is_cased(own, char::is_uppercase).into(),
    }
}

fn swapped(own: &str) -> String {
    let mut out = String::with_capacity(own.len());
    for character in own.chars() {
        if character.is_uppercase() {
            out.extend(character.to_lowercase());
        } else {
            out.extend(character.to_uppercase());
        }
    }
    out
}

fn strip(own: &str, name: &str, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind(name, given, &["chars"])?;
    let chars = arguments.maybe_text(0)?;
    Ok(stripped(own, chars, name != "rstrip", name != "lstrip").into())
}

/// A text without some characters (white space where none are named) at its ends.
pub(super) fn stripped<'a>(own: &'a str, chars: Option<&str>, front: bool, back: bool) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let own = if front { own.trim_start_matches(goes) } else { own };
    if back { own.trim_end_matches(goes) } else { own }
}

/// Texts joined by a text.
pub(super) fn joined(state: &mut State, all: &[Value], by: &str) -> Result<Value, Error> {
    budget::charge(state, by.len().saturating_mul(all.len()))?;
    let mut out = String::new();
    for (place, item) in all.iter().enumerate() {
        let item = text::of(state, item)?;
        budget::charge(state, item.len())?;
        if place > 0 {
            out.push_str(by);
        }
        out.push_str(&item);
    }
    Ok(Value::from(out))
}

/// A text with some of its parts replaced; all where `count` is negative.
pub(super) fn replaced(state: &mut State, own: &str, old: &str, new: &str, count: i64) -> Result<Value, Error> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let found = own.matches(old).count().min(count);
    budget::charge(state, own.len().saturating_add(found.saturating_mul(new.len())))?;
    Ok(Value::from(own.replacen(old, new, count)))
}

fn cut(own: &str, name: &str, given: &[Value]) -> Result<Value, Error> {
    match name {
        "splitlines" => {
            let arguments = Arguments::bind(name, given, &["keepends"])?;
            Ok(lines(own, arguments.flag(0)).into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let arguments = Arguments::bind(name, given, &["sep"])?;
            let by = arguments.text(0)?;
            let (last, parts) = (name == "rpartition", [own, "", ""]);
            let found = if last { own.rsplit_once(by) } else { own.split_once(by) };
            let parts = found.map_or(if last { ["", "", own] } else { parts }, |(front, back)| [front, by, back]);
            if by.is_empty() {
                return Err(wrong("empty separator"));
            }
            Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
        }
        _ => {
            let arguments = Arguments::bind(name, given, &["sep", "maxsplit"])?;
            let most = usize::try_from(arguments.integer(1, -1)?).unwrap_or(usize::MAX - 1);
            match (arguments.maybe_text(0)?, name) {
                (Some(""), _) => Err(wrong("empty separator")),
                (Some(by), "split") => Ok(own.splitn(most + 1, by).map(Value::from).collect()),
                (Some(by), _) => {
                    let mut parts: Vec<Value> = own.rsplitn(most + 1, by).map(Value::from).collect();
                    parts.reverse();
                    Ok(Value::from(parts))
                }
                (None, "split") => Ok(at_spaces(own, most).into_iter().map(Value::from).collect()),
                (None, _) => {
                    let turned: String = own.chars().rev().collect();
                    let parts = at_spaces(&turned, most);
                    let turn = |part: &&str| Value::from(part.chars().rev().collect::<String>());
                    Ok(parts.iter().rev().map(turn).collect())
                }
            }
        }
    }
}

/// Words between runs of white space; after `most` cuts the rest is one word.
fn at_spaces(own: &str, most: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = own.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = if words.len() < most { rest.find(is_space).unwrap_or(rest.len()) } else { rest.len() };
        words.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    words
}

fn look(own: &str, name: &str, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind(name, given, &["sub", "start", "end"])?;
    let length = own.chars().count();
    let place = |at: i64| {
        let at = if at < 0 { at.saturating_add(i64::try_from(length).unwrap_or(i64::MAX)).max(0) } else { at };
        usize::try_from(at).unwrap_or(usize::MAX)
    };
    let (start, end) = (place(arguments.integer(1, 0)?), place(arguments.integer(2, i64::MAX)?).min(length));
    let byte = |place: usize| own.char_indices().nth(place).map_or(own.len(), |(byte, _)| byte);
    if name == "startswith" || name == "endswith" {
        let part = if start > end { None } else { Some(&own[byte(start)..byte(end)]) };
        return ends(part, name, arguments.need(0)?).map(Value::from);
    }
    let wanted = arguments.text(0)?;
    if start > end {
        return missing(name);
    }
    let part = &own[byte(start)..byte(end)];
    let found = match name {
        "count" if wanted.is_empty() => return Ok(Value::from(part.chars().count() + 1)),
        "count" => return Ok(Value::from(part.matches(wanted).count())),
        "find" | "index" => part.find(wanted),
        _ => part.rfind(wanted),
    };
    found.map_or_else(|| missing(name), |at| Ok(Value::from(start + part[..at].chars().count())))
}

/// The result of a search that finds nothing.
fn missing(name: &str) -> Result<Value, Error> {
    match name {
        "count" => Ok(Value::from(0)),
        "find" | "rfind" => Ok(Value::from(-1)),
        _ => Err(wrong("substring not found")),
    }
}

fn ends(part: Option<&str>, name: &str, wanted: &Value) -> Result<bool, Error> {
    let all = if kind(wanted) == Kind::Tuple { items(wanted)? } else { vec![wanted.clone()] };
    for one in &all {
        let one = one.as_str().ok_or_else(|| unfit(one, "is not a text"))?;
        let fits = |part: &str| if name == "startswith" { part.starts_with(one) } else { part.ends_with(one) };
        if part.is_some_and(fits) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn pad(state: &mut State, own: &str, name: &str, given: &[Value]) -> Result<Value, Error> {
    if name == "expandtabs" {
        return expanded(state, own, given);
    }
    let arguments = Arguments::bind(name, given, &["width", "fillchar"])?;
    arguments.need(0)?;
    let width = usize::try_from(arguments.integer(0, 0)?).unwrap_or_default();
    let fill = arguments.maybe_text(1)?.unwrap_or(if name == "zfill" { "0" } else { " " });
    padded(state, own, width, fill, name).map(Value::from)
}

/// A text made as wide as asked: `center`, `ljust`, `rjust` or `zfill`.
pub(super) fn padded(state: &mut State, own: &str, width: usize, fill: &str, name: &str) -> Result<String, Error> {
    if fill.chars().count() != 1 {
        return Err(wrong("the fill character must be one character"));
    }
    let length = own.chars().count();
    let lacking = width.saturating_sub(length);
    budget::charge(state, lacking.saturating_mul(fill.len()).saturating_add(own.len()))?;
    let (sign, digits) = match own.strip_prefix(['+', '-']) {
        Some(rest) if name == "zfill" => own.split_at(own.len() - rest.len()),
        _ => ("", own),
    };
    // Python gives the odd character to the left where the width is odd too.
    let left = match name {
        "ljust" => 0,
        "center" => lacking / 2 + (lacking & width & 1),
        _ => lacking,
    };
    Ok([sign, &fill.repeat(left), digits, &fill.repeat(lacking - left)].concat())
}

fn expanded(state: &mut State, own: &str, given: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::bind("expandtabs", given, &["tabsize"])?;
    let size = usize::try_from(arguments.integer(0, 8)?).unwrap_or_default();
    budget::charge(state, own.matches('\t').count().saturating_mul(size))?;
    let (mut out, mut column) = (String::new(), 0);
    for character in own.chars() {
        match character {
            '\t' => {
                let wide = if size == 0 { 0 } else { size - column % size };
                out.extend(std::iter::repeat_n(' ', wide));
                column += wide;
            }
            '\n' | '\r' => {
                out.push(character);
                column = 0;
            }
            _ => {
                out.push(character);
                column += 1;
            }
        }
    }
    Ok(Value::from(out))
}
