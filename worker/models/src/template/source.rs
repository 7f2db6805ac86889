//! The places where a model may keep its chat template, in the order in which they are looked through.

use serde_json::Value;

use super::TemplateError;
use crate::tokenizer::TextFiles;

const CONFIG: &str = "tokenizer_config.json";
const PROCESSOR: &str = "chat_template.json";

/// A template as its makers wrote it.
pub(super) struct Found {
    pub(super) file: &'static str,
    pub(super) text: String,
}

/// Looks in `chat_template.jinja`, `chat_template.json`, `tokenizer_config.json` and the GGUF file, in this order.
pub(super) fn find(files: &TextFiles<'_>) -> Result<Option<Found>, TemplateError> {
    if let Some(text) = files.chat_template_jinja {
        return Ok(Some(Found { file: "chat_template.jinja", text: text.to_owned() }));
    }
    for (file, bytes) in [(PROCESSOR, files.chat_template_json), (CONFIG, files.tokenizer_config_json)] {
        if let Some(text) = in_json(file, bytes)? {
            return Ok(Some(Found { file, text }));
        }
    }
    let own = files.gguf.and_then(|gguf| gguf.chat_template.clone());
    Ok(own.map(|text| Found { file: "tokenizer.chat_template of the GGUF file", text }))
}

fn in_json(file: &'static str, bytes: Option<&[u8]>) -> Result<Option<String>, TemplateError> {
    let wrong = |problem: &str| TemplateError::Unusable { file, problem: problem.to_owned() };
    let Some(bytes) = bytes else { return Ok(None) };
    let object: Value = serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
    let expected =
        "`chat_template` must be a template, or a list of {name, template} of which one is named \"default\"";
    match object.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(named)) => default_of(named).map(Some).ok_or_else(|| wrong(expected)),
        Some(_) => Err(wrong(expected)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgufText;

    fn found(files: &TextFiles<'_>) -> Option<String> {
        find(files).ok().flatten().map(|found| found.text)
    }

    #[test]
    fn the_template_is_looked_for_in_order() {
        let gguf = GgufText { chat_template: Some("gguf".into()), ..GgufText::default() };
        let mut files = TextFiles {
            chat_template_jinja: Some("jinja"),
            chat_template_json: Some(br#"{"chat_template": "processor"}"#),
            tokenizer_config_json: Some(br#"{"chat_template": "config"}"#),
            gguf: Some(&gguf),
            ..TextFiles::new(b"")
        };
        assert_eq!(found(&files).as_deref(), Some("jinja"));
        files.chat_template_jinja = None;
        assert_eq!(found(&files).as_deref(), Some("processor"));
        files.chat_template_json = Some(b"{}");
        assert_eq!(found(&files).as_deref(), Some("config"));
        files.tokenizer_config_json = Some(br#"{"chat_template": null}"#);
        assert_eq!(found(&files).as_deref(), Some("gguf"));
        files.gguf = None;
        assert_eq!(found(&files), None);
    }

    #[test]
    fn of_several_templates_the_default_one_is_taken() {
        let named =
            br#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        let files = TextFiles { tokenizer_config_json: Some(named), ..TextFiles::new(b"") };
        assert_eq!(found(&files).as_deref(), Some("d"));
        let files = TextFiles { tokenizer_config_json: Some(br#"{"chat_template": 3}"#), ..TextFiles::new(b"") };
        assert!(find(&files).is_err());
    }
}
