//! What chat and completion requests check alike, field by field.

use super::error::ApiError;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

pub(super) fn required<T>(name: &str, value: Option<T>) -> Result<T, ApiError> {
    value.ok_or_else(|| ApiError::invalid(name, format!("`{name}` is required")))
}

pub(super) fn include_usage(stream: bool, options: Option<StreamOptions>) -> Result<bool, ApiError> {
    if options.is_some() && !stream {
        return Err(ApiError::invalid("stream_options", "`stream_options` is only allowed when `stream` is true"));
    }
    Ok(options.and_then(|options| options.include_usage).unwrap_or(false))
}

/// Refuses known fields that ask for something we cannot do; forms that ask for nothing pass.
pub(super) fn refuse_unsupported(fields: &[(&str, &Option<Value>)]) -> Result<(), ApiError> {
    for (name, value) in fields {
        let asks_nothing = match value {
            None | Some(Value::Null) => true,
            Some(Value::Array(items)) => items.is_empty() || items == &[Value::from("text")],
            Some(Value::String(text)) => {
                text.is_empty() || text == "none" || (*name == "tool_choice" && text == "auto")
            }
            Some(Value::Object(members)) => members.get("type") == Some(&Value::from("text")),
            Some(Value::Bool(wanted)) => !wanted,
            Some(Value::Number(_)) => false,
        };
        if !asks_nothing {
            return Err(ApiError::unsupported(*name, format!("`{name}` is not supported yet; leave it out")));
        }
    }
    Ok(())
}
