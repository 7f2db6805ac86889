//! Messages of a conversation.

use super::error::ApiError;
use super::given::Given;
use super::tools::ToolCall;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt::Formatter;

/// One message of a conversation, its content parts joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// The speaker.
    pub role: Role,
    /// The text.
    pub content: String,
    /// The thoughts that came before the text.
    #[serde(default, rename = "reasoning_content", skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The model's calls of tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    /// A message that is nothing but text.
    #[must_use]
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), reasoning: None, tool_calls: Vec::new(), tool_call_id: None }
    }
}

/// The speaker of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The operator's instructions.
    System,
    /// OpenAI's newer word for `system`; templates know only the older.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

impl Role {
    /// The word a chat template expects.
    const fn template_name(self) -> &'static str {
        match self {
            Self::System | Self::Developer => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// The members of a message that are read. The scan has checked the message's shape and its other members.
#[derive(Deserialize)]
struct RawMessage {
    role: Option<String>,
    content: Option<Content>,
    tool_calls: Option<Vec<ToolCall>>,
    tool_call_id: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
}

enum Content {
    Text(String),
    Parts(Vec<Part>),
}

enum Part {
    Text(String),
    Typed(TypedPart),
}

#[derive(Deserialize)]
struct TypedPart {
    r#type: Option<String>,
    text: Option<String>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect;
        impl<'de> Visitor<'de> for Expect {
            type Value = Content;

            fn expecting(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
                out.write_str("a string or a list of content parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = list.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect;
        impl<'de> Visitor<'de> for Expect {
            type Value = Part;

            fn expecting(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
                out.write_str("a content part")
            }

            fn visit_str<E>(self, text: &str) -> Result<Part, E> {
                Ok(Part::Text(text.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Part, A::Error> {
                TypedPart::deserialize(MapAccessDeserializer::new(members)).map(Part::Typed)
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

/// The messages of a conversation, at least one.
pub(super) fn messages(given: Given<'_>) -> Result<Vec<ChatMessage>, ApiError> {
    let raw: Vec<RawMessage> = given.json()?;
    if raw.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` must hold at least one message"));
    }
    let messages = raw.into_iter().enumerate().map(message).collect::<Result<Vec<_>, _>>()?;
    check_answers(&messages)?;
    Ok(messages)
}

/// Refuses messages of tools that answer no call of the model's message before them.
fn check_answers(messages: &[ChatMessage]) -> Result<(), ApiError> {
    let mut calls: &[ToolCall] = &[];
    for (index, message) in messages.iter().enumerate() {
        let at = format!("messages[{index}]");
        match (message.role, &message.tool_call_id) {
            (Role::Tool, Some(id)) if calls.iter().any(|call| call.id == *id) => {}
            (Role::Tool, id) => {
                let what =
                    if id.is_some() { "`tool_call_id` is none of" } else { "a message of a tool answers one of" };
                let message = format!("`{at}`: {what} the calls in the assistant's message before it");
                return Err(ApiError::invalid(format!("{at}.tool_call_id"), message));
            }
            _ => calls = &message.tool_calls,
        }
    }
    Ok(())
}

fn message((index, raw): (usize, RawMessage)) -> Result<ChatMessage, ApiError> {
    let at = format!("messages[{index}]");
    let required = |name: &str| ApiError::invalid(format!("{at}.{name}"), format!("`{at}.{name}` is required"));
    let role = role(&at, raw.role.as_deref().ok_or_else(|| required("role"))?)?;
    let tool_calls = raw.tool_calls.unwrap_or_default();
    if role != Role::Assistant && !tool_calls.is_empty() {
        let message = format!("`{at}.tool_calls`: only the assistant calls tools");
        return Err(ApiError::invalid(format!("{at}.tool_calls"), message));
    }
    let content = match raw.content {
        // A message may be nothing but calls.
        None if !tool_calls.is_empty() => String::new(),
        None => return Err(required("content")),
        Some(Content::Text(text)) => text,
        // Between parts others put a line break (vLLM, llama.cpp).
        Some(Content::Parts(parts)) => {
            parts.into_iter().enumerate().map(|part| part_text(&at, part)).collect::<Result<Vec<_>, _>>()?.join("\n")
        }
    };
    let reasoning = raw.reasoning_content.or(raw.reasoning);
    Ok(ChatMessage { role, content, reasoning, tool_calls, tool_call_id: raw.tool_call_id })
}

fn role(at: &str, name: &str) -> Result<Role, ApiError> {
    Ok(match name {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        "function" => {
            let message = "messages of `function` are not supported; use `tool`";
            return Err(ApiError::unsupported(format!("{at}.role"), message));
        }
        other => {
            let shown: String = other.chars().take(32).collect();
            let message = format!("unknown role `{shown}`; use system, developer, user, assistant or tool");
            return Err(ApiError::invalid(format!("{at}.role"), message));
        }
    })
}

fn part_text(at: &str, (index, part): (usize, Part)) -> Result<String, ApiError> {
    let path = format!("{at}.content[{index}]");
    let required = |name: &str| ApiError::invalid(format!("{path}.{name}"), format!("`{path}.{name}` is required"));
    match part {
        Part::Text(text) => Ok(text),
        Part::Typed(part) => match part.r#type.as_deref().ok_or_else(|| required("type"))? {
            "text" => part.text.ok_or_else(|| required("text")),
            other => {
                let shown: String = other.chars().take(32).collect();
                let message = format!("content parts of type `{shown}` are not supported; only `text` is");
                Err(ApiError::unsupported(format!("{path}.type"), message))
            }
        },
    }
}

/// Messages as chat templates read them: arguments of calls as values where they are JSON, and a tool's answer with the
/// name of the tool.
#[must_use]
pub fn template_messages(messages: &[ChatMessage]) -> Vec<Value> {
    let mut calls: &[ToolCall] = &[];
    let of_template = |message: &'_ ChatMessage, calls: &[ToolCall]| {
        let mut members = Map::new();
        members.insert("role".into(), message.role.template_name().into());
        members.insert("content".into(), message.content.as_str().into());
        if let Some(reasoning) = &message.reasoning {
            members.insert("reasoning_content".into(), reasoning.as_str().into());
        }
        if !message.tool_calls.is_empty() {
            members.insert("tool_calls".into(), message.tool_calls.iter().map(template_call).collect());
        }
        if let Some(id) = &message.tool_call_id {
            members.insert("tool_call_id".into(), id.as_str().into());
            let called = calls.iter().find(|call| call.id == *id);
            members.extend(called.map(|call| ("name".into(), call.function.name.as_str().into())));
        }
        Value::Object(members)
    };
    let values = messages.iter().map(|message| {
        if message.role != Role::Tool {
            calls = &message.tool_calls;
        }
        of_template(message, calls)
    });
    values.collect()
}

fn template_call(call: &ToolCall) -> Value {
    let ToolCall { id, r#type, function } = call;
    let arguments = serde_json::from_str(&function.arguments).unwrap_or_else(|_| json!(function.arguments));
    json!({"id": id, "type": r#type, "function": {"name": function.name, "arguments": arguments}})
}
