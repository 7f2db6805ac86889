//! The only way out: model text reaches a client as `Screened` bytes, and only this file makes them.
//!
//! Without a deny list a worker's bytes pass as they are. With one every event is taken apart,
//! each choice's text goes through a screen of its own, and what is not known to be free of text
//! is left out (`choice` says what stays).

mod choice;

use bytes::Bytes;
use choice::Choices;
use policy::{Admitted, Endpoint};
use serde_json::{Map, Value};
use wire::openai::ApiError;
use wire::sse::{DONE, Event, encode_data};

/// Bytes that may reach a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Screened(Bytes);

impl Screened {
    /// An error of ours as an event. The empty line before it ends whatever the worker began.
    pub(crate) fn error_event(error: &ApiError) -> Self {
        let mut out = b"\n".to_vec();
        encode_data(&mut out, &error.to_json());
        Self(out.into())
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// A worker's words that cannot be screened, or are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Garbage;

/// What passed of some events.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) bytes: Screened,
    /// Whether there is model text among them.
    pub(crate) has_text: bool,
    /// Whether nothing can follow: every choice was ended by the screen.
    pub(crate) is_over: bool,
}

/// The screen of one answer.
#[derive(Debug)]
pub(crate) enum Gate {
    /// No list is active: bytes pass as they are.
    Open {
        /// Whether text was seen. Until then events are looked into, to know when text begins.
        saw_text: bool,
    },
    /// A list is active.
    Listed(Box<Choices>),
}

impl Gate {
    /// The gate for an answer of so many choices.
    pub(crate) fn new(admitted: Admitted, endpoint: Endpoint, choices: usize) -> Self {
        match admitted.output_screen() {
            None => Self::Open { saw_text: false },
            Some(_) => Self::Listed(Box::new(Choices::new(admitted, endpoint, choices))),
        }
    }

    /// How many choices it ended.
    pub(crate) fn blocks(&self) -> usize {
        match self {
            Self::Open { .. } => 0,
            Self::Listed(choices) => choices.blocked(),
        }
    }

    /// Passes complete events; `raw` is what they were decoded from.
    pub(crate) fn events(&mut self, raw: Bytes, events: &[Event]) -> Result<Passed, Garbage> {
        match self {
            Self::Open { saw_text } => {
                for event in events.iter().filter(|event| event.data != DONE) {
                    if !*saw_text {
                        *saw_text = holds_text(&parse(&event.data)?);
                    }
                }
                let has_text = *saw_text && events.iter().any(|event| event.data != DONE);
                Ok(Passed { bytes: Screened(raw), has_text, is_over: false })
            }
            Self::Listed(choices) => {
                let mut out = Vec::new();
                let mut has_text = false;
                for event in events {
                    if event.data == DONE {
                        for chunk in choices.flush() {
                            has_text = true;
                            encode_data(&mut out, &chunk);
                        }
                        encode_data(&mut out, DONE);
                        continue;
                    }
                    if let Some(chunk) = choices.chunk(parse(&event.data)?)? {
                        has_text |= holds_text(&chunk);
                        encode_data(&mut out, &Value::Object(chunk).to_string());
                    }
                    if choices.all_blocked() {
                        encode_data(&mut out, DONE);
                        return Ok(Passed { bytes: Screened(out.into()), has_text, is_over: true });
                    }
                }
                Ok(Passed { bytes: Screened(out.into()), has_text, is_over: false })
            }
        }
    }

    /// Passes an answer that is not streamed.
    pub(crate) fn whole(&mut self, body: Bytes) -> Result<Screened, Garbage> {
        match self {
            Self::Open { .. } => Ok(Screened(body)),
            Self::Listed(choices) => {
                let answer = serde_json::from_slice(&body).map_err(|_| Garbage)?;
                let answer = choices.whole(answer)?;
                Ok(Screened(Value::Object(answer).to_string().into()))
            }
        }
    }

    /// Passes a worker's error. Under a list one that quotes a denied phrase does not.
    pub(crate) fn error_body(&self, body: Bytes) -> Result<Screened, Garbage> {
        match self {
            Self::Listed(choices) if choices.denies(&String::from_utf8_lossy(&body)) => Err(Garbage),
            Self::Open { .. } | Self::Listed(_) => Ok(Screened(body)),
        }
    }
}

fn parse(data: &str) -> Result<Map<String, Value>, Garbage> {
    serde_json::from_str(data).map_err(|_| Garbage)
}

/// Whether a chunk adds text to a choice.
fn holds_text(chunk: &Map<String, Value>) -> bool {
    let choices = chunk.get("choices").and_then(Value::as_array);
    choices.into_iter().flatten().any(|choice| {
        let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        let delta = choice.get("delta").and_then(Value::as_object);
        choice.get("text").is_some_and(is_text)
            || delta.into_iter().flatten().any(|(key, value)| key != "role" && (is_text(value) || value.is_array()))
    })
}
