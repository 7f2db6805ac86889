//! Writes answers of `POST /v1/chat/completions`.

use super::choice::{Piece, TokenReport};
use super::reply::{ChunkWriter, Whole, json_number};
use wire::openai::Usage;
use wire::openai::chat::{
    AnswerMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatLogprobs, Delta, TokenLogprob,
    TopLogprob,
};

fn choice(index: u32, piece: Piece, wants_logprobs: bool) -> ChatChoice {
    ChatChoice {
        index,
        message: AnswerMessage { role: "assistant".into(), content: piece.text },
        logprobs: wants_logprobs.then(|| logprobs(&piece.reports)),
        finish_reason: piece.finish.map(Into::into),
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

/// The members that are the same on every chunk, and what was sent.
#[derive(Debug)]
pub(super) struct ChatWriter {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) include_usage: bool,
    pub(super) wants_logprobs: bool,
    /// Per choice: whether its role was sent.
    pub(super) has_begun: Vec<bool>,
}

impl ChatWriter {
    fn write(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> String {
        let chunk = ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: self.include_usage.then_some(usage),
        };
        // Strings and numbers always serialise.
        serde_json::to_string(&chunk).unwrap_or_default()
    }
}

impl ChunkWriter for ChatWriter {
    fn chunk(&mut self, index: u32, piece: Piece) -> Vec<String> {
        let mut chunks = Vec::new();
        let part = |delta, logprobs, finish: Option<&str>| ChatChunkChoice {
            index,
            delta,
            logprobs,
            finish_reason: finish.map(Into::into),
        };
        if let Some(has_begun) = self.has_begun.get_mut(index as usize).filter(|has_begun| !**has_begun) {
            *has_begun = true;
            let delta = Delta { role: Some("assistant".into()), content: Some(String::new()) };
            chunks.push(self.write(vec![part(delta, None, None)], None));
        }
        let reports = (!piece.reports.is_empty()).then(|| logprobs(&piece.reports));
        if !piece.text.is_empty() || reports.is_some() {
            let delta = Delta { role: None, content: Some(piece.text) };
            chunks.push(self.write(vec![part(delta, reports, None)], None));
        }
        if piece.finish.is_some() {
            chunks.push(self.write(vec![part(Delta::default(), None, piece.finish)], None));
        }
        chunks
    }

    fn usage(&mut self, usage: Usage) -> String {
        self.write(Vec::new(), Some(usage))
    }

    fn whole(&mut self, parts: Whole) -> serde_json::Result<Vec<u8>> {
        let wants_logprobs = self.wants_logprobs;
        let choices = (0..).zip(parts.pieces).map(|(index, piece)| choice(index, piece, wants_logprobs));
        serde_json::to_vec(&ChatCompletion {
            id: self.id.clone(),
            object: "chat.completion".into(),
            created: self.created,
            model: self.model.clone(),
            choices: choices.collect(),
            usage: parts.usage,
        })
    }
}
