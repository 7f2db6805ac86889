//! Writes answers of `POST /v1/chat/completions`.

use super::choice::{Piece, TokenReport};
use super::reply::{ChunkWriter, Frame, Whole, json_number};
use super::speech::Part;
use wire::openai::Usage;
use wire::openai::chat::{
    AnswerMessage, CallDelta, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatLogprobs, Delta,
    TokenLogprob, TopLogprob,
};
use wire::openai::tools::ToolCall;

fn choice(index: u32, piece: Piece, frame: &Frame) -> ChatChoice {
    ChatChoice {
        index,
        message: message(piece.parts),
        logprobs: frame.wants_logprobs.then(|| logprobs(&piece.reports)),
        finish_reason: piece.finish.map(Into::into),
        token_ids: frame.ids(piece.tokens),
    }
}

/// The parts of a choice as a message. Calls come one after another, each with its arguments.
fn message(parts: Vec<Part>) -> AnswerMessage {
    let mut message = AnswerMessage { role: "assistant".into(), ..AnswerMessage::default() };
    for part in parts {
        match part {
            Part::Text(text) => message.content.get_or_insert_default().push_str(&text),
            Part::Thought(text) => message.reasoning.get_or_insert_default().push_str(&text),
            Part::Call { id, name, .. } => message.tool_calls.push(ToolCall::begun(id, name)),
            Part::Arguments { text, .. } => {
                message.tool_calls.last_mut().into_iter().for_each(|call| call.function.arguments.push_str(&text));
            }
        }
    }
    if message.tool_calls.is_empty() {
        message.content.get_or_insert_default();
    }
    message.reasoning_content.clone_from(&message.reasoning);
    message
}

/// A part of a choice as an addition to its message.
fn delta(part: Part) -> Delta {
    let call = |call| Delta { tool_calls: vec![call], ..Delta::default() };
    match part {
        Part::Text(text) => Delta { content: Some(text), ..Delta::default() },
        Part::Thought(text) => {
            Delta { reasoning_content: Some(text.clone()), reasoning: Some(text), ..Delta::default() }
        }
        Part::Call { index, id, name } => call(CallDelta::begun(index, id, name)),
        Part::Arguments { index, text } => call(CallDelta::more(index, text)),
    }
}

fn logprobs(reports: &[TokenReport]) -> ChatLogprobs {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let content = reports.iter().map(|report| TokenLogprob {
        token: text(&report.bytes),
        logprob: json_number(report.logprob.unwrap_or_default()),
        bytes: Some(report.bytes.clone()),
        top_logprobs: report
            .top
            .iter()
            .map(|rival| TopLogprob {
                token: text(&rival.bytes),
                logprob: json_number(rival.logprob),
                bytes: Some(rival.bytes.clone()),
            })
            .collect(),
    });
    ChatLogprobs { content: content.collect() }
}

/// Writes them.
#[derive(Debug)]
pub(super) struct ChatWriter(pub(super) Frame);

impl ChatWriter {
    fn write(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>, prompt: Option<Vec<u32>>) -> String {
        let chunk = ChatChunk {
            id: self.0.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.0.created,
            model: self.0.model.clone(),
            choices,
            usage: self.0.include_usage.then_some(usage),
            prompt_token_ids: prompt,
        };
        // Strings and numbers always serialise.
        serde_json::to_string(&chunk).unwrap_or_default()
    }
}

impl ChunkWriter for ChatWriter {
    fn chunk(&mut self, index: u32, piece: Piece, so_far: Option<Usage>) -> Vec<String> {
        let plain = || ChatChunkChoice { index, ..ChatChunkChoice::default() };
        let mut choices = Vec::new();
        let is_first = self.0.begins(index);
        if is_first {
            let delta = Delta { role: Some("assistant".into()), content: Some(String::new()), ..Delta::default() };
            choices.push(ChatChunkChoice { delta, ..plain() });
        }
        let first = choices.len();
        choices.extend(piece.parts.into_iter().map(|part| ChatChunkChoice { delta: delta(part), ..plain() }));
        let has_more = !piece.reports.is_empty() || !piece.tokens.is_empty();
        if has_more && choices.len() == first {
            let delta = Delta { content: Some(String::new()), ..Delta::default() };
            choices.push(ChatChunkChoice { delta, ..plain() });
        }
        if has_more {
            choices[first].logprobs = (!piece.reports.is_empty()).then(|| logprobs(&piece.reports));
            choices[first].token_ids = self.0.ids(piece.tokens);
        }
        if let Some(reason) = piece.finish {
            choices.push(ChatChunkChoice { finish_reason: Some(reason.into()), ..plain() });
        }
        let mut prompt = if is_first { self.0.prompt_of(index) } else { None };
        choices.into_iter().map(|choice| self.write(vec![choice], so_far, prompt.take())).collect()
    }

    fn usage(&mut self, usage: Usage) -> String {
        self.write(Vec::new(), Some(usage), None)
    }

    fn whole(&mut self, parts: Whole) -> serde_json::Result<Vec<u8>> {
        let mut pieces = parts.pieces;
        // All choices have the same prompt.
        let prompt_logprobs = pieces.first_mut().and_then(|piece| piece.prompt.take());
        let choices = (0..).zip(pieces).map(|(index, piece)| choice(index, piece, &self.0));
        serde_json::to_vec(&ChatCompletion {
            id: self.0.id.clone(),
            object: "chat.completion".into(),
            created: self.0.created,
            model: self.0.model.clone(),
            choices: choices.collect(),
            usage: parts.usage,
            prompt_token_ids: self.0.prompt_of(0),
            prompt_logprobs,
        })
    }
}
