//! The types of an endpoint's row and of its fields.

use crate::openai::draft::Draft;
use crate::openai::error::ApiError;
use crate::openai::given::Given;

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// Its name in spans and metrics, as in OpenTelemetry's `gen_ai.operation.name`.
    pub name: &'static str,
    /// The paths it is served at. A router asks its workers at the first.
    pub paths: &'static [&'static str],
    /// The field that holds the prompt.
    pub prompt: &'static str,
    /// The field that says how many log probabilities there are.
    pub logprobs: &'static str,
    /// The beginning of the ids of its answers.
    pub id_prefix: &'static str,
    /// Every field that a published API of this endpoint has, as lists whose names differ.
    pub fields: &'static [&'static [Field]],
    /// The most tokens to generate where a request says nothing; `None`: what fits.
    pub max_tokens: Option<u32>,
    /// The shape of its errors.
    pub errors: ErrorShape,
    /// True if a request may be sent again that may have begun elsewhere.
    pub replay: Replay,
    /// The shape of its answers.
    pub answers: Answers,
}

impl Endpoint {
    /// The field of this name.
    #[must_use]
    pub fn field(&self, name: &[u8]) -> Option<&'static Field> {
        self.fields.iter().copied().flatten().find(|field| field.name.as_bytes() == name)
    }

    /// The path a router asks its workers at.
    #[must_use]
    pub fn path(&self) -> &'static str {
        self.paths.first().copied().unwrap_or_default()
    }
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Endpoint {}

/// A field of a request.
#[derive(Debug)]
pub struct Field {
    /// Its name in JSON.
    pub name: &'static str,
    /// The type of its value; `null` is always accepted.
    pub kind: Kind,
    /// Our worker's handling of it. A router passes every field on.
    pub fate: Fate,
    /// The role of its strings, if they can reach a prompt here or at another server.
    pub reaches: Option<TextRole>,
}

impl PartialEq for Field {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Field {}

/// Types of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything.
    Any,
    /// `true` or `false`.
    Bool,
    /// A number without a fraction; `2.0` and `1e2` are such.
    Integer,
    /// A number.
    Number,
    /// A string.
    Text,
    /// A string or a list of strings.
    Texts,
    /// A list of integers.
    Integers,
    /// A list of token ids that take the prompt's place.
    Tokens,
    /// An object with any members.
    Object,
    /// `stream_options`.
    StreamOptions,
    /// A list of messages.
    Messages,
    /// One or several prompts, each a string or a list of token ids.
    Prompt,
}

/// Reads a field's value into a request.
pub type Setter = fn(&mut Draft, Given<'_>) -> Result<(), ApiError>;

/// Our worker's handling of a field.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// Done; read by this setter.
    Honoured(Setter),
    /// Not done, and refused unless the value is `null` or one of these JSON texts, which ask for nothing.
    Refused(&'static [&'static str]),
    /// A hint without effect on the answer.
    Ignored,
}

/// The origin of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextRole {
    /// A message of `system` or `developer`, or instructions.
    System,
    /// A message of `user`.
    User,
    /// A message of `assistant`.
    Assistant,
    /// A message of `tool` or `function`.
    Tool,
    /// A prompt that is no message.
    Prompt,
    /// The arguments of a tool call: JSON in a string, whose own strings a worker may read (`TextSpan::inner`).
    Arguments,
    /// A definition of a tool or a schema.
    Definition,
    /// A variable of the chat template, or a document for it.
    Variable,
    /// At a place that no API we know has.
    Unknown,
}

/// The shape of an error's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorShape {
    /// `{"error":{"message","type","param","code"}}`.
    OpenAi,
}

/// The shape of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// `choices` with texts, whole or as a stream.
    Choices,
    /// `data` with vectors of numbers.
    Vectors,
}

/// How often a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// It generates: at most once.
    Once,
    /// It embeds or ranks: any number of times.
    Free,
}
