//! Values in and out of templates, written as Python writes them: `tojson` is `json.dumps`, and `{{ true }}` is `True`.

use minijinja::{Error, State, Value};
use serde_json::Value as Json;

use super::arguments::Arguments;
use super::budget;
use super::words::{self, Kind, kind};

/// Nesting beyond which `tojson` gives up; the parser of requests stops at 128.
const DEPTH_MAX: usize = 256;

/// The widest indent of `tojson`.
const INDENT_MAX: i128 = 64;

/// A JSON value as a template sees it.
pub(in crate::template) fn to_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(to_value).collect(),
        Json::Object(fields) => Value::from_pairs(fields.iter().map(|(name, value)| (name.as_str(), to_value(value)))),
    }
}

/// The `tojson` filter as transformers defines it: no HTML escapes, no ASCII escapes, Python's separators.
pub(super) fn tojson(state: &mut State, value: &Value, given: &[Value]) -> Result<Value, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let arguments = Arguments::bind("tojson", given, &names)?;
    let indent = arguments.get(1).filter(|indent| !indent.is_none()).map(indentation).transpose()?;
    let separators = arguments.get(2).filter(|separators| !separators.is_none()).map(words::items).transpose()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.to_string(), key.to_string()),
        Some(_) => return Err(words::wrong("separators must be two strings")),
        None => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
    };
    let (ensure_ascii, sort_keys) = (arguments.flag(0), arguments.flag(3));
    let style = Style { indent, item, key, ensure_ascii, sort_keys, bytes_max: budget::left(state) };
    let mut text = String::new();
    style.write(&mut text, value, 0)?;
    budget::charge(state, text.len())?;
    Ok(Value::from(text))
}

/// The text that `indent` puts before a line, once a level.
fn indentation(indent: &Value) -> Result<String, Error> {
    match (indent.as_str(), words::integer(indent)) {
        (Some(text), _) => Ok(text.to_owned()),
        (_, Some(width @ 0..=INDENT_MAX)) => Ok(" ".repeat(usize::try_from(width).unwrap_or_default())),
        _ => Err(words::wrong(format!("tojson's indent must be a text or a number up to {INDENT_MAX}"))),
    }
}

struct Style {
    indent: Option<String>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
    /// The longest text it may write.
    bytes_max: usize,
}

impl Style {
    fn write(&self, text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(words::wrong("value is nested too deeply for JSON"));
        }
        if text.len() > self.bytes_max {
            return Err(budget::exhausted());
        }
        match kind(value) {
            Kind::None => text.push_str("null"),
            Kind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
            Kind::Int | Kind::Float => text.push_str(&number(value, true)),
            Kind::Str => self.write_string(text, value.as_str().unwrap_or_default()),
            Kind::List | Kind::Tuple => self.write_list(text, value, depth)?,
            Kind::Dict => self.write_object(text, value, depth)?,
            Kind::Undefined => return Err(words::undefined()),
            other => return Err(words::wrong(format!("a {} has no JSON form", words::name(other)))),
        }
        Ok(())
    }

    fn write_list(&self, text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        text.push('[');
        let mut count = 0;
        for item in value.try_iter()? {
            self.begin_item(text, count, depth + 1);
            self.write(text, &item, depth + 1)?;
            count += 1;
        }
        self.end(text, count, depth, ']');
        Ok(())
    }

    fn write_object(&self, text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        text.push('{');
        for (count, key) in keys.iter().enumerate() {
            self.begin_item(text, count, depth + 1);
            let name = match kind(key) {
                Kind::Str => key.to_string(),
                Kind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
                Kind::None => "null".to_owned(),
                Kind::Int | Kind::Float => number(key, true),
                other => return Err(words::wrong(format!("a {} cannot be a key of JSON", words::name(other)))),
            };
            self.write_string(text, &name);
            text.push_str(&self.key);
            self.write(text, &value.get_item(key)?, depth + 1)?;
        }
        self.end(text, keys.len(), depth, '}');
        Ok(())
    }

    fn begin_item(&self, text: &mut String, count: usize, depth: usize) {
        if count > 0 {
            text.push_str(&self.item);
        }
        self.new_line(text, depth);
    }

    fn end(&self, text: &mut String, count: usize, depth: usize, bracket: char) {
        if count > 0 {
            self.new_line(text, depth);
        }
        text.push(bracket);
    }

    fn new_line(&self, text: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn write_string(&self, text: &mut String, string: &str) {
        text.push('"');
        for character in string.chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{C}' => text.push_str("\\f"),
                control if control < ' ' => text.push_str(&format!("\\u{:04x}", u32::from(control))),
                other if self.ensure_ascii && other > '~' => {
                    let mut units = [0; 2];
                    let escapes = other.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}"));
                    text.extend(escapes);
                }
                other => text.push(other),
            }
        }
        text.push('"');
    }
}

/// Python's `repr`; `None` where it is longer than `bytes_max`, or nested too deeply.
pub(super) fn python_repr(value: &Value, bytes_max: usize) -> Option<String> {
    let mut text = String::new();
    write_repr(&mut text, value, 0, bytes_max)?;
    Some(text)
}

fn write_repr(text: &mut String, value: &Value, depth: usize, bytes_max: usize) -> Option<()> {
    if depth > DEPTH_MAX || text.len() > bytes_max {
        return None;
    }
    match kind(value) {
        Kind::Undefined => text.push_str("Undefined"),
        Kind::None => text.push_str("None"),
        Kind::Bool => text.push_str(if value.is_true() { "True" } else { "False" }),
        Kind::Int | Kind::Float => text.push_str(&number(value, false)),
        Kind::Str => quote(text, value.as_str()?),
        Kind::List | Kind::Tuple => {
            let is_tuple = kind(value) == Kind::Tuple;
            text.push(if is_tuple { '(' } else { '[' });
            for (place, item) in value.try_iter().ok()?.enumerate() {
                text.push_str(if place > 0 { ", " } else { "" });
                write_repr(text, &item, depth + 1, bytes_max)?;
            }
            text.push_str(if is_tuple && value.len() == Some(1) { "," } else { "" });
            text.push(if is_tuple { ')' } else { ']' });
        }
        Kind::Dict => {
            text.push('{');
            for (place, key) in value.try_iter().ok()?.enumerate() {
                text.push_str(if place > 0 { ", " } else { "" });
                write_repr(text, &key, depth + 1, bytes_max)?;
                text.push_str(": ");
                write_repr(text, &value.get_item(&key).ok()?, depth + 1, bytes_max)?;
            }
            text.push('}');
        }
        Kind::Iterator | Kind::Namespace | Kind::Other => text.push_str(&value.to_string()),
    }
    Some(())
}

/// A text in quotes, as Python's `repr` quotes it.
fn quote(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match (character, u32::from(character)) {
            ('\n', _) => out.push_str("\\n"),
            ('\r', _) => out.push_str("\\r"),
            ('\t', _) => out.push_str("\\t"),
            ('\\', _) => out.push_str("\\\\"),
            (same, _) if same == quote => out.extend(['\\', same]),
            (other, _) if is_printable(other) => out.push(other),
            (_, code @ ..=0xFF) => out.push_str(&format!("\\x{code:02x}")),
            (_, code @ ..=0xFFFF) => out.push_str(&format!("\\u{code:04x}")),
            (_, code) => out.push_str(&format!("\\U{code:08x}")),
        }
    }
    out.push(quote);
}

/// Marks that combine with the character before them: printed by Python, escaped by Rust.
const MARKS: [(u32, u32); 21] = [
    (0x300, 0x36F),
    (0x483, 0x489),
    (0x591, 0x5C7),
    (0x610, 0x61A),
    (0x64B, 0x65F),
    (0x670, 0x670),
    (0x6D6, 0x6DC),
    (0x6DF, 0x6ED),
    (0x900, 0xDFF),
    (0xE31, 0xEBC),
    (0xF18, 0xFBC),
    (0x102B, 0x109D),
    (0x1AB0, 0x1ACE),
    (0x1DC0, 0x1DFF),
    (0x20D0, 0x20F0),
    (0x302A, 0x302F),
    (0x3099, 0x309A),
    (0xA66F, 0xA6F1),
    (0xFE00, 0xFE0F),
    (0xFE20, 0xFE2F),
    (0xE0100, 0xE01EF),
];

/// True if Python prints a character as it is.
pub(super) fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    let code = u32::from(character);
    MARKS.iter().any(|(first, last)| (*first..=*last).contains(&code)) || character.escape_debug().len() == 1
}

/// A number as Python's `repr` writes it, or its `json.dumps`: a float always shows that it is one.
fn number(value: &Value, json: bool) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else { return value.to_string() };
    let magnitude = float.abs();
    if float.is_nan() {
        (if json { "NaN" } else { "nan" }).to_owned()
    } else if float.is_infinite() {
        let sign = if float > 0.0 { "" } else { "-" };
        format!("{sign}{}", if json { "Infinity" } else { "inf" })
    } else if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        format!("{digits}e{sign}{exponent:0>2}")
    } else {
        format!("{float:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::engine::Engine;

    /// The rendering of `{{ v … }}`.
    fn rendered(json: &str, behind: &str) -> String {
        let value = to_value(&serde_json::from_str(json).expect("a test's JSON"));
        let engine = Engine::compile(&format!("{{{{ v{behind} }}}}")).expect("compiles");
        engine.render([("v", value)].into(), 0).expect("renders")
    }

    // Expected texts are what Python 3's json.dumps(value, ensure_ascii=False) prints.
    #[test]
    fn json_is_spaced_and_escaped_as_python_does() {
        let dumps = |json: &str| rendered(json, "|tojson");
        assert_eq!(
            dumps(r#"{"b":[1,2.0,-0.5,null,true],"a":{},"c":[]}"#),
            r#"{"b": [1, 2.0, -0.5, null, true], "a": {}, "c": []}"#
        );
        assert_eq!(dumps(r#""<é'\" \u0001\u007f\n>""#), "\"<é'\\\" \\u0001\u{7F}\\n>\"");
        assert_eq!(dumps("[1e-5, 1e16, 123456789.125, 1e22, 0.0001]"), "[1e-05, 1e+16, 123456789.125, 1e+22, 0.0001]");
        assert_eq!(dumps("[18446744073709551615]"), "[18446744073709551615]");
    }

    #[test]
    fn json_honours_its_arguments() {
        let indented = "{\n  \"b\": [\n    1,\n    2\n  ],\n  \"a\": {}\n}";
        assert_eq!(rendered(r#"{"b":[1,2],"a":{}}"#, "|tojson(indent=2)"), indented);
        assert_eq!(rendered(r#"{"b":1,"a":2}"#, "|tojson(sort_keys=true)"), r#"{"a": 2, "b": 1}"#);
        assert_eq!(rendered(r#"["é🙂"]"#, "|tojson(ensure_ascii=true)"), r#"["\u00e9\ud83d\ude42"]"#);
        assert_eq!(rendered(r#"{"b":[1,2]}"#, "|tojson(separators=(',',':'))"), r#"{"b":[1,2]}"#);
    }

    #[test]
    fn printed_values_read_as_in_python() {
        assert_eq!(rendered("true", ""), "True");
        assert_eq!(
            rendered(r#"{"a": [null, "it's", "\"'"], "b": 1.0}"#, ""),
            r#"{'a': [None, "it's", '"\''], 'b': 1.0}"#
        );
        assert_eq!(rendered(r#""\u00a0\u200b\u0301""#, " ~ [v]"), "\u{a0}\u{200b}\u{301}['\\xa0\\u200b\u{301}']");
        assert_eq!(rendered("3", ""), "3");
    }
}
