//! Writes answers of `POST /v1/completions`.

use super::choice::{Piece, TokenReport};
use super::reply::{ChunkWriter, Frame, Whole, json_number};
use super::speech::Part;
use std::collections::BTreeMap;
use std::fmt::Write;
use wire::openai::Usage;
use wire::openai::completion::{Completion, CompletionChoice, CompletionLogprobs};

/// Writes them.
#[derive(Debug)]
pub(super) struct CompletionWriter(pub(super) Frame);

impl CompletionWriter {
    fn frame(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> Completion {
        Completion {
            id: self.0.id.clone(),
            object: "text_completion".into(),
            created: self.0.created,
            model: self.0.model.clone(),
            choices,
            usage,
        }
    }

    fn choice(&mut self, index: u32, piece: Piece) -> CompletionChoice {
        let logprobs = self.0.wants_logprobs.then(|| logprobs(&piece.reports));
        // Completions are read as text alone.
        let text = piece.parts.iter().filter_map(Part::text).collect();
        let prompt_token_ids = if self.0.begins(index) { self.0.prompt_of(index) } else { None };
        let (finish_reason, token_ids) = (piece.finish.map(Into::into), self.0.ids(piece.tokens));
        let prompt_logprobs = piece.prompt;
        CompletionChoice { text, index, logprobs, finish_reason, token_ids, prompt_token_ids, prompt_logprobs }
    }

    fn write(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> String {
        let chunk = self.frame(choices, self.0.include_usage.then_some(usage));
        // Strings and numbers always serialise.
        serde_json::to_string(&chunk).unwrap_or_default()
    }
}

impl ChunkWriter for CompletionWriter {
    fn chunk(&mut self, index: u32, piece: Piece, so_far: Option<Usage>) -> Vec<String> {
        let choice = self.choice(index, piece);
        vec![self.write(vec![choice], so_far)]
    }

    fn usage(&mut self, usage: Usage) -> String {
        self.write(Vec::new(), Some(usage))
    }

    fn whole(&mut self, parts: Whole) -> serde_json::Result<Vec<u8>> {
        let choices = (0..).zip(parts.pieces).map(|(index, piece)| self.choice(index, piece)).collect();
        serde_json::to_vec(&self.frame(choices, Some(Some(parts.usage))))
    }
}

fn logprobs(reports: &[TokenReport]) -> CompletionLogprobs {
    let mut out = CompletionLogprobs::default();
    for report in reports {
        out.text_offset.push(report.offset);
        out.top_logprobs.push(report.logprob.map(|logprob| top(report, logprob)));
        out.token_logprobs.push(report.logprob.map(json_number));
        out.tokens.push(token_text(&report.bytes));
    }
    out
}

/// The likeliest tokens by their texts, and the token itself, which need not be among them. Tokens of equal text stay
/// apart: the first has the text as its key, further ones `token_id:N`, as vLLM writes ids.
fn top(report: &TokenReport, logprob: f32) -> BTreeMap<String, f32> {
    let mut top = BTreeMap::from([(token_text(&report.bytes), json_number(logprob))]);
    for rival in report.top.iter().filter(|rival| rival.id != report.id) {
        let text = token_text(&rival.bytes);
        let key = if top.contains_key(&text) { format!("token_id:{}", rival.id) } else { text };
        top.insert(key, json_number(rival.logprob));
    }
    top
}

/// A token's text; part of a character is written as OpenAI writes it, `bytes:\\xe2\\x96`.
fn token_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            // Writing to a string does not fail.
            _ = write!(text, "\\x{byte:02x}");
            text
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::choice::Rival;
    use super::*;

    fn report(id: u32, text: &[u8], rivals: &[(u32, &[u8])]) -> TokenReport {
        let rival = |&(id, bytes): &(u32, &[u8])| Rival { id, bytes: bytes.to_vec(), logprob: -2.0 };
        let top = rivals.iter().map(rival).collect();
        TokenReport { id, bytes: text.to_vec(), logprob: Some(-1.0), top, offset: 0, start: 0, end: 0 }
    }

    #[test]
    fn the_token_itself_is_always_among_the_likeliest() {
        assert_eq!(top(&report(1, b"a", &[]), -1.0), BTreeMap::from([("a".into(), -1.0)]));
        let both = BTreeMap::from([("a".into(), -1.0), ("b".into(), -2.0)]);
        assert_eq!(top(&report(1, b"a", &[(2, b"b")]), -1.0), both);
        assert_eq!(top(&report(1, b"a", &[(1, b"a"), (2, b"b")]), -1.0), both);
    }

    #[test]
    fn tokens_of_equal_text_stay_apart() {
        let top = top(&report(1, b"a", &[(7, b"a"), (8, b"\xe2\x96"), (9, b"\xe2")]), -1.0);
        let keys: Vec<_> = top.keys().map(String::as_str).collect();
        assert_eq!(keys, ["a", r"bytes:\xe2", r"bytes:\xe2\x96", "token_id:7"]);
    }
}
