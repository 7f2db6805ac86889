//! Messages of a conversation.

use super::error::ApiError;
use super::given::Given;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt::Formatter;

/// One message of a conversation, its content parts joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// The speaker.
    pub role: Role,
    /// The text.
    pub content: String,
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
}

impl Role {
    /// The word a chat template expects.
    #[must_use]
    pub const fn template_name(self) -> &'static str {
        match self {
            Self::System | Self::Developer => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// The members of a message that are read. The scan has checked the message's shape and its other members.
#[derive(Deserialize)]
struct RawMessage {
    role: Option<String>,
    content: Option<Content>,
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
    raw.into_iter().enumerate().map(message).collect()
}

fn message((index, raw): (usize, RawMessage)) -> Result<ChatMessage, ApiError> {
    let at = format!("messages[{index}]");
    let required = |name: &str| ApiError::invalid(format!("{at}.{name}"), format!("`{at}.{name}` is required"));
    let role = match raw.role.as_deref().ok_or_else(|| required("role"))? {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => {
            return Err(ApiError::unsupported(format!("{at}.role"), "tool messages are not supported yet"));
        }
        other => {
            let shown: String = other.chars().take(32).collect();
            let message = format!("unknown role `{shown}`; use system, developer, user or assistant");
            return Err(ApiError::invalid(format!("{at}.role"), message));
        }
    };
    let content = match raw.content.ok_or_else(|| required("content"))? {
        Content::Text(text) => text,
        // Between parts others put a line break (vLLM, llama.cpp).
        Content::Parts(parts) => {
            parts.into_iter().enumerate().map(|part| part_text(&at, part)).collect::<Result<Vec<_>, _>>()?.join("\n")
        }
    };
    Ok(ChatMessage { role, content })
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
