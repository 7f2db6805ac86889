//! Where a model keeps its chat template, and what must be changed in it before it compiles here.

use crate::tokenizer::settings::object;
use crate::tokenizer::{TextError, TextFiles};
use serde_json::Value;

const CONFIG: &str = "tokenizer_config.json";

/// A template as its makers wrote it.
pub(super) struct Found {
    pub(super) file: &'static str,
    pub(super) text: String,
}

/// Looks in `chat_template.jinja`, then in `tokenizer_config.json`.
pub(super) fn find(files: &TextFiles<'_>) -> Result<Option<Found>, TextError> {
    if let Some(text) = files.chat_template_jinja {
        return Ok(Some(Found { file: "chat_template.jinja", text: text.to_owned() }));
    }
    let config = object(CONFIG, files.tokenizer_config_json)?;
    let text = match config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(named)) => default_of(named).ok_or(wrong())?,
        Some(_) => return Err(wrong()),
    };
    Ok(Some(Found { file: CONFIG, text }))
}

fn wrong() -> TextError {
    TextError::Field {
        file: CONFIG,
        field: "chat_template",
        expected: "a template, or a list of {name, template} of which one is named \"default\"",
    }
}

/// The template named `default`; a single one needs no such name.
fn default_of(named: &[Value]) -> Option<String> {
    let chosen = match named {
        [only] => only,
        _ => named.iter().find(|entry| entry["name"] == "default")?,
    };
    chosen["template"].as_str().map(str::to_owned)
}

/// Replaces `{% generation %}` and its end, with which transformers marks the assistant's words for training, by a
/// condition that is always true: the same white space is trimmed and the same text comes out.
pub(super) fn without_generation_marks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match word {
            "generation" => text.push_str(&format!("{{%{}%}}", inner.replacen(word, "if true", 1))),
            "endgeneration" => text.push_str(&format!("{{%{}%}}", inner.replacen(word, "endif", 1))),
            _ => text.push_str(&tag[..end + 2]),
        }
        rest = &tag[end + 2..];
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_marks_keep_their_white_space_marks() {
        assert_eq!(
            without_generation_marks("a{%- generation -%} b {% endgeneration %}{% if generation %}{%"),
            "a{%- if true -%} b {% endif %}{% if generation %}{%"
        );
    }

    fn found(config: &str, jinja: Option<&str>) -> Result<Option<String>, TextError> {
        let files = TextFiles {
            tokenizer_json: b"",
            tokenizer_config_json: Some(config.as_bytes()),
            generation_config_json: None,
            config_json: b"{}",
            chat_template_jinja: jinja,
        };
        find(&files).map(|found| found.map(|found| found.text))
    }

    #[test]
    fn the_template_is_looked_for_where_transformers_does() {
        let config = r#"{"chat_template": "config"}"#;
        assert_eq!(found(config, Some("file")).expect("found").as_deref(), Some("file"));
        assert_eq!(found(config, None).expect("found").as_deref(), Some("config"));
        assert_eq!(found("{}", None).expect("none"), None);
        let named =
            r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        assert_eq!(found(named, None).expect("found").as_deref(), Some("d"));
        assert!(found(r#"{"chat_template": 3}"#, None).is_err());
    }
}
