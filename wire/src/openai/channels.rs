//! Answers of chat and completions in terms of channels: the texts of a choice that grow each on
//! its own (what it says, its reasoning, a refusal, the name and the arguments of a tool call).
//!
//! Streamed chunks and whole answers are read where they stand: what is found are ranges of their
//! JSON, so that whoever changes one text leaves every other byte as it came. This is the one
//! place that knows what texts, finish reasons and errors are called in answers. Which of them may
//! reach a client, it does not know.

mod error;
mod read;
mod write;

pub use error::{ErrorClass, Fault, all_texts, error_message};
pub use read::{read_event, read_whole};
pub use write::{Edits, Envelope};

use super::scan::{Span, unescape};
use super::usage::Usage;
use std::borrow::Cow;
use thiserror::Error;

/// The content of an event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Choices grew, or tokens were counted.
    Answer(Answer),
    /// The answer failed, in any shape that is published. Nothing that follows counts.
    Error(Fault),
    /// The stream is complete. Nothing that follows counts.
    Done,
    /// An event with a name of its own, of which we know nothing.
    Foreign,
}

/// The content of an answer that is not streamed.
#[derive(Debug, Clone, PartialEq)]
pub enum Whole {
    /// Choices.
    Answer(Answer),
    /// Vectors, which hold no text.
    Vectors {
        /// How many.
        count: usize,
        /// Tokens, where they were counted.
        usage: Option<Usage>,
    },
    /// An error, in any shape that is published.
    Error(Fault),
}

/// A chunk of a streamed answer, or a whole answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// The choices in it, in its order.
    pub choices: Vec<Choice>,
    /// Tokens, where they were counted.
    pub usage: Option<Usage>,
    /// Values around the choices that may hold text and are no channel.
    pub asides: Vec<Span>,
    /// The list of choices, brackets included.
    list: Span,
    /// The value of `usage`.
    usage_span: Option<Span>,
}

/// One choice, or how it grew.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    /// Its number; its position where it has none.
    pub index: u32,
    /// The texts that were added to its channels.
    pub texts: Vec<Text>,
    /// Words that name a part of the structure: roles, types, ids, between their quotes.
    labels: Vec<Span>,
    /// The log probabilities.
    pub logprobs: Option<Span>,
    /// The reason of its end; `None` while it goes on.
    pub finish_reason: Option<String>,
    /// Values that may hold text and are no channel.
    pub asides: Vec<Span>,
    /// True if it holds anything besides texts: a role, a tool call's id.
    pub has_more: bool,
    /// All of it.
    span: Span,
    /// The value of `finish_reason`.
    finish: Option<Span>,
    /// The object has no members.
    is_empty: bool,
    /// The member that holds its texts.
    holder: Holder,
    /// It is a whole one: it has a `message`, or a `text`.
    is_whole: bool,
}

impl Answer {
    /// True if it adds text to a choice.
    #[must_use]
    pub fn has_text(&self) -> bool {
        self.choices.iter().flat_map(|choice| &choice.texts).any(|text| !text.raw.is_empty())
    }
}

impl Choice {
    /// The words that name parts of its structure, and why it ended.
    #[must_use]
    pub fn labels(&self, json: &str) -> Vec<String> {
        let labels = self.labels.iter().map(|raw| unescape(raw.of(json.as_bytes())).into_owned());
        labels.chain(self.finish_reason.clone()).collect()
    }
}

/// The member of a choice that holds its texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Holder {
    /// A chunk of a chat.
    #[default]
    Delta,
    /// A whole chat.
    Message,
    /// A completion, streamed or not.
    Text,
}

/// A text that was added to a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Where it belongs.
    pub channel: Channel,
    /// The characters, between their quotes, escapes and all.
    pub raw: Span,
}

impl Text {
    /// The characters.
    #[must_use]
    pub fn read<'b>(&self, json: &'b str) -> Cow<'b, str> {
        unescape(self.raw.of(json.as_bytes()))
    }
}

/// A text of a choice that grows on its own. Two chunks' texts continue each other where their
/// channels are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Channel {
    /// The kind of text.
    pub kind: Kind,
    /// Where in the choice it stands.
    path: Vec<Step>,
}

/// Kinds of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The answer.
    Text,
    /// Thoughts before the answer: `reasoning_content`, `reasoning`.
    Reasoning,
    /// A refusal to answer.
    Refusal,
    /// The name of the tool it calls.
    ToolName,
    /// The tool's arguments: JSON in a string, so that its texts are escaped twice.
    ToolArguments,
    /// Text at a place that no API we know has.
    Other,
}

/// One step into a choice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Into the member of this name.
    Member(Cow<'static, str>),
    /// Into the element that says that it has this index, or else stands there.
    Item(u32),
}

/// Bytes that are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the answer {0}")]
pub struct NotAnAnswer(pub(crate) &'static str);
