//! The choices of one answer under a deny list.
//!
//! What stays of a choice: `index`, its text, `finish_reason`, a `stop_reason` that is no text, and
//! `logprobs` where the text passed unaltered and at once. Every string of a message or delta
//! (`content`, `reasoning_content`, `refusal`, a name of tomorrow) is a channel with its own
//! screen. Structures in it that hold text, such as tool calls, cannot be screened yet and end the
//! choice. Of the chunk around the choices only the fields of OpenAI's that hold no model text stay.
//!
//! A choice that is ended gets the text before the phrase and `finish_reason: content_filter`; the
//! others go on. When all are ended the stream is, without a usage chunk: the worker is dropped
//! at once and nobody knows what it would have counted.

use super::Garbage;
use policy::{Admitted, Endpoint, OutputScreen};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The most channels of one choice; more is not a chat.
const CHANNELS_MAX: usize = 8;
/// The fields around the choices that stay.
const FRAME: [&str; 7] = ["id", "object", "created", "model", "usage", "system_fingerprint", "service_tier"];

/// The choices of one answer.
#[derive(Debug)]
pub(crate) struct Choices {
    admitted: Admitted,
    endpoint: Endpoint,
    expected: usize,
    choices: BTreeMap<usize, Choice>,
    /// The last chunk's frame, for a chunk of our own.
    frame: Map<String, Value>,
}

#[derive(Debug, Default)]
struct Choice {
    channels: BTreeMap<String, OutputScreen>,
    is_ended: bool,
    is_blocked: bool,
}

/// What a choice's texts became.
#[derive(Default)]
struct Texts {
    passed: Map<String, Value>,
    is_altered: bool,
    is_blocked: bool,
}

impl Choices {
    pub(super) fn new(admitted: Admitted, endpoint: Endpoint, expected: usize) -> Self {
        Self { admitted, endpoint, expected, choices: BTreeMap::new(), frame: Map::new() }
    }

    pub(super) fn blocked(&self) -> usize {
        self.choices.values().filter(|choice| choice.is_blocked).count()
    }

    pub(super) fn all_blocked(&self) -> bool {
        self.blocked() >= self.expected
    }

    pub(super) fn denies(&self, text: &str) -> bool {
        self.admitted.deny_list().is_some_and(|list| list.find(text).is_some())
    }

    /// Screens one chunk of a stream; `None` where nothing of it passes now.
    pub(super) fn chunk(&mut self, mut chunk: Map<String, Value>) -> Result<Option<Map<String, Value>>, Garbage> {
        if chunk.get("error").is_some_and(|error| !error.is_null()) {
            let error = Map::from_iter([("error".to_owned(), chunk["error"].take())]);
            return if self.denies(&json!(error).to_string()) { Err(Garbage) } else { Ok(Some(error)) };
        }
        let Some(Value::Array(choices)) = chunk.remove("choices") else { return Err(Garbage) };
        let is_usage = choices.is_empty() || chunk.get("usage").is_some_and(Value::is_object);
        let mut passed = Vec::new();
        for choice in choices {
            let Value::Object(choice) = choice else { return Err(Garbage) };
            passed.extend(self.choice(choice, self.field(), false)?.map(Value::Object));
        }
        chunk.retain(|key, _| FRAME.contains(&key.as_str()));
        self.frame = chunk.clone();
        if passed.is_empty() && !is_usage {
            return Ok(None);
        }
        chunk.insert("choices".into(), passed.into());
        Ok(Some(chunk))
    }

    /// Screens an answer that is not streamed.
    pub(super) fn whole(&mut self, mut answer: Map<String, Value>) -> Result<Map<String, Value>, Garbage> {
        let Some(Value::Array(choices)) = answer.remove("choices") else { return Err(Garbage) };
        let field = match self.endpoint {
            Endpoint::Chat => "message",
            Endpoint::Completions => "text",
        };
        let mut passed = Vec::new();
        for choice in choices {
            let Value::Object(choice) = choice else { return Err(Garbage) };
            passed.extend(self.choice(choice, field, true)?.map(Value::Object));
        }
        answer.retain(|key, _| FRAME.contains(&key.as_str()));
        answer.insert("choices".into(), passed.into());
        Ok(answer)
    }

    /// The stream ends: what choices without a `finish_reason` still hold, as chunks of our own.
    pub(super) fn flush(&mut self) -> Vec<String> {
        let field = self.field();
        let mut chunks = Vec::new();
        for (index, choice) in self.choices.iter_mut().filter(|(_, choice)| !choice.is_ended) {
            let mut texts = Texts::default();
            choice.finish(&mut texts);
            if texts.passed.is_empty() && !texts.is_blocked {
                continue;
            }
            let reason = if texts.is_blocked { json!("content_filter") } else { Value::Null };
            let text = container(field, texts.passed);
            let mut chunk = self.frame.clone();
            chunk.insert("choices".into(), json!([{"index": index, field: text, "finish_reason": reason}]));
            chunks.push(Value::Object(chunk).to_string());
        }
        chunks
    }

    const fn field(&self) -> &'static str {
        match self.endpoint {
            Endpoint::Chat => "delta",
            Endpoint::Completions => "text",
        }
    }

    /// Screens one choice, streamed or whole; `None` where nothing of it passes now.
    fn choice(
        &mut self,
        mut raw: Map<String, Value>,
        field: &'static str,
        is_whole: bool,
    ) -> Result<Option<Map<String, Value>>, Garbage> {
        let index = raw.get("index").and_then(Value::as_u64).unwrap_or(0);
        let index = usize::try_from(index).ok().filter(|index| *index < self.expected).ok_or(Garbage)?;
        let finish_reason = raw.remove("finish_reason").unwrap_or(Value::Null);
        let logprobs = raw.remove("logprobs");
        let has_denied_token = logprobs.as_ref().is_some_and(|logprobs| self.denies_any(logprobs));
        let choice = self.choices.entry(index).or_default();
        if choice.is_ended {
            return Ok(None);
        }
        let pieces = pieces(field, raw.remove(field))?;
        let had_pieces = !pieces.is_empty();
        let original = is_whole.then(|| pieces.clone());
        let mut texts = choice.push(pieces, is_whole, &self.admitted);
        choice.is_ended = is_whole || !finish_reason.is_null();
        if choice.is_ended && !texts.is_blocked {
            choice.finish(&mut texts);
        }
        if texts.is_blocked {
            (choice.is_ended, choice.is_blocked) = (true, true);
        }
        if let Some(original) = original {
            // Held and then released within one answer is not altered.
            texts.is_altered = original != texts.passed;
        }
        if texts.passed.is_empty() && had_pieces && !choice.is_ended {
            return Ok(None);
        }
        let logprobs = logprobs.map(|logprobs| {
            let is_kept = !texts.is_altered && !texts.is_blocked && !has_denied_token;
            if is_kept { logprobs } else { Value::Null }
        });
        let stop_reason = raw.remove("stop_reason").filter(|reason| !reason.is_string());
        let finish_reason = if texts.is_blocked { json!("content_filter") } else { finish_reason };
        let mut out = Map::new();
        out.insert("index".into(), index.into());
        out.insert(field.into(), container(field, texts.passed));
        out.extend(logprobs.map(|logprobs| ("logprobs".to_owned(), logprobs)));
        out.insert("finish_reason".into(), finish_reason);
        out.extend(stop_reason.map(|reason| ("stop_reason".to_owned(), reason)));
        Ok(Some(out))
    }

    /// Whether any one string below `value` holds a denied phrase: the rivals of a token do not
    /// show in the text.
    fn denies_any(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.denies(text),
            Value::Array(items) => items.iter().any(|item| self.denies_any(item)),
            Value::Object(members) => members.iter().any(|(key, member)| self.denies(key) || self.denies_any(member)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
}

impl Choice {
    fn push(&mut self, pieces: Map<String, Value>, is_whole: bool, admitted: &Admitted) -> Texts {
        let mut texts = Texts::default();
        for (key, value) in pieces {
            match value {
                Value::String(role) if key == "role" => {
                    texts.passed.insert(key, if role == "assistant" { role.into() } else { Value::Null });
                }
                Value::String(text) => self.push_text(key, &text, is_whole, admitted, &mut texts),
                Value::Null | Value::Bool(_) => {
                    texts.passed.insert(key, value);
                }
                Value::Number(_) => texts.is_altered = true,
                Value::Array(_) | Value::Object(_) => texts.is_blocked |= holds_text(&value),
            }
        }
        texts
    }

    fn push_text(&mut self, key: String, text: &str, is_whole: bool, admitted: &Admitted, texts: &mut Texts) {
        if !self.channels.contains_key(&key) {
            match admitted.output_screen().filter(|_| self.channels.len() < CHANNELS_MAX) {
                Some(screen) => self.channels.insert(key.clone(), screen),
                None => {
                    texts.is_blocked = true;
                    return;
                }
            };
        }
        let Some(screen) = self.channels.get_mut(&key) else { return };
        let release = screen.push(text);
        texts.is_blocked |= release.blocked;
        texts.is_altered |= release.text != text || screen.is_holding();
        // A text that is held as a whole leaves no empty string behind, but in a whole answer.
        if !release.text.is_empty() || text.is_empty() || is_whole {
            texts.passed.insert(key, release.text.into());
        }
    }

    /// Adds what the screens still hold.
    fn finish(&mut self, texts: &mut Texts) {
        for (key, screen) in &mut self.channels {
            let release = screen.finish();
            texts.is_blocked |= release.blocked;
            if release.text.is_empty() {
                continue;
            }
            texts.is_altered = true;
            let before = texts.passed.get(key).and_then(Value::as_str).unwrap_or_default();
            let joined = format!("{before}{}", release.text);
            texts.passed.insert(key.clone(), joined.into());
        }
        if texts.is_blocked {
            (self.is_ended, self.is_blocked) = (true, true);
        }
    }
}

/// The texts of a choice by channel: a completion has one, named `text`.
fn pieces(field: &str, value: Option<Value>) -> Result<Map<String, Value>, Garbage> {
    match value {
        Some(Value::Object(delta)) => Ok(delta),
        Some(text @ Value::String(_)) => Ok(Map::from_iter([(field.to_owned(), text)])),
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_)) => Err(Garbage),
    }
}

/// A completion's text stands in the choice itself, a chat's in an object.
fn container(field: &str, mut texts: Map<String, Value>) -> Value {
    if field == "text" { texts.remove(field).unwrap_or_else(|| "".into()) } else { Value::Object(texts) }
}

fn holds_text(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => items.iter().any(holds_text),
        Value::Object(members) => members.values().any(holds_text),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
