//! The spelling of a text in the language that the engine of grammars reads.

use serde_json::Value;

/// Lark's spelling of a text: its strings are JSON's, without the one control character that JSON takes.
pub(super) fn literal(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
