//! Values in and out of templates, written as Python writes them: `tojson` is `json.dumps`, and `{{ true }}` is `True`.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use serde_json::Value as Json;

/// Nesting beyond which `tojson` gives up; the parser of requests stops at 128.
const DEPTH_MAX: usize = 256;

/// A JSON value as a template sees it.
pub(super) fn to_value(json: &Json) -> Value {
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
pub(super) fn tojson(value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    let ensure_ascii: Option<bool> = arguments.get("ensure_ascii")?;
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    let sort_keys: Option<bool> = arguments.get("sort_keys")?;
    arguments.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be two strings")),
        None => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
    };
    let style = Style {
        indent,
        item,
        key,
        ensure_ascii: ensure_ascii.unwrap_or_default(),
        sort_keys: sort_keys.unwrap_or_default(),
    };
    let mut text = String::new();
    style.write(&mut text, value, 0)?;
    Ok(Value::from(text))
}

struct Style {
    indent: Option<usize>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Style {
    fn write(&self, text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::new(ErrorKind::InvalidOperation, "value is nested too deeply for JSON"));
        }
        match value.kind() {
            ValueKind::None => text.push_str("null"),
            ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => text.push_str(&number(value)),
            ValueKind::String => self.write_string(text, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.write_list(text, value, depth)?,
            ValueKind::Map => self.write_object(text, value, depth)?,
            kind => {
                let reason = format!("a value of kind {kind} has no JSON form");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
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
            self.write_string(text, key.as_str().unwrap_or(&key.to_string()));
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
        if let Some(indent) = self.indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent * depth));
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

/// The value's text where Python's differs from the template engine's: `True`, `None`, floats, lists and maps.
pub(super) fn python_word(value: &Value) -> Option<String> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool => python_repr(value, 0),
        ValueKind::Number if !value.is_integer() => Some(number(value)),
        ValueKind::Seq | ValueKind::Map => python_repr(value, 0),
        _ => None,
    }
}

/// Python's `repr`; `None` for a value Python would not have.
fn python_repr(value: &Value, depth: usize) -> Option<String> {
    if depth > DEPTH_MAX {
        return None;
    }
    Some(match value.kind() {
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number => number(value),
        ValueKind::String => python_quoted(value.as_str()?),
        ValueKind::Seq => {
            let items: Option<Vec<_>> = value.try_iter().ok()?.map(|item| python_repr(&item, depth + 1)).collect();
            let items = items?.join(", ");
            if value.is_tuple() { format!("({items})") } else { format!("[{items}]") }
        }
        ValueKind::Map => {
            let pair = |key: Value| {
                let item = value.get_item(&key).ok()?;
                Some(format!("{}: {}", python_repr(&key, depth + 1)?, python_repr(&item, depth + 1)?))
            };
            let pairs: Option<Vec<_>> = value.try_iter().ok()?.map(pair).collect();
            format!("{{{}}}", pairs?.join(", "))
        }
        _ => return None,
    })
}

fn python_quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::from(quote);
    for character in text.chars() {
        match character {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            same if same == quote => quoted.extend(['\\', same]),
            control if control < ' ' || control == '\u{7F}' => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(control)))
            }
            other => quoted.push(other),
        }
    }
    quoted.push(quote);
    quoted
}

/// A number as Python's `repr` writes it: a float always shows that it is one.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else { return value.to_string() };
    let magnitude = float.abs();
    if float.is_nan() {
        "NaN".to_owned()
    } else if float.is_infinite() {
        (if float > 0.0 { "Infinity" } else { "-Infinity" }).to_owned()
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

    fn dumps(json: &str, arguments: &[(&str, Value)]) -> String {
        let value = to_value(&serde_json::from_str(json).expect("a test's JSON"));
        let arguments = arguments.iter().map(|(name, value)| (*name, value.clone())).collect();
        tojson(&value, arguments).expect("has a JSON form").to_string()
    }

    // Expected texts are what Python 3's json.dumps(value, ensure_ascii=False) prints.
    #[test]
    fn json_is_spaced_and_escaped_as_python_does() {
        assert_eq!(
            dumps(r#"{"b":[1,2.0,-0.5,null,true],"a":{},"c":[]}"#, &[]),
            r#"{"b": [1, 2.0, -0.5, null, true], "a": {}, "c": []}"#
        );
        assert_eq!(dumps(r#""<é'\" \u0001\u007f\n>""#, &[]), "\"<é'\\\" \\u0001\u{7F}\\n>\"");
        assert_eq!(
            dumps("[1e-5, 1e16, 123456789.125, 1e22, 0.0001]", &[]),
            "[1e-05, 1e+16, 123456789.125, 1e+22, 0.0001]"
        );
        assert_eq!(dumps("[18446744073709551615]", &[]), "[18446744073709551615]");
    }

    #[test]
    fn json_honours_its_arguments() {
        let indented = "{\n  \"b\": [\n    1,\n    2\n  ],\n  \"a\": {}\n}";
        assert_eq!(dumps(r#"{"b":[1,2],"a":{}}"#, &[("indent", Value::from(2))]), indented);
        assert_eq!(dumps(r#"{"b":1,"a":2}"#, &[("sort_keys", Value::from(true))]), r#"{"a": 2, "b": 1}"#);
        assert_eq!(dumps(r#"["é🙂"]"#, &[("ensure_ascii", Value::from(true))]), r#"["\u00e9\ud83d\ude42"]"#);
        let separators: Value = [",", ":"].into_iter().map(Value::from).collect();
        assert_eq!(dumps(r#"{"b":[1,2]}"#, &[("separators", separators)]), r#"{"b":[1,2]}"#);
    }

    #[test]
    fn printed_values_read_as_in_python() {
        let word = |json: &str| python_word(&to_value(&serde_json::from_str(json).expect("a test's JSON")));
        assert_eq!(word("true").as_deref(), Some("True"));
        assert_eq!(
            word(r#"{"a": [null, "it's", "\"'"], "b": 1.0}"#).as_deref(),
            Some(r#"{'a': [None, "it's", '"\''], 'b': 1.0}"#)
        );
        assert_eq!(word("3"), None);
    }
}
