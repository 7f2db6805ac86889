//! One choice of an answer: a sequence's tokens become text, pieces of it certain one by one.

use super::ServerModel;
use super::stop::StopStrings;
use crate::engine::{Cancel, Event, FinishReason};
use compute::sampler::Logprobs;
use models::tokenizer::{Detokenizer, Tokenizer};
use std::sync::Arc;
use wire::openai::Sampling;

/// A prompt, ready to be submitted.
#[derive(Debug)]
pub(super) struct PreparedPrompt {
    pub(super) tokens: Vec<u32>,
    /// With `echo`: what comes first.
    pub(super) echo: Option<String>,
}

/// The state of one choice.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) generated: u32,
    pub(super) finish: Option<&'static str>,
    /// Tokens of its prompt that were found in the prefix cache.
    pub(super) cached: u32,
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: StopStrings,
    min_tokens: u32,
    cancel: Cancel,
    /// Log probabilities of tokens whose text is still held back.
    held: Vec<TokenReport>,
    wants_logprobs: bool,
    echo: Option<Echo>,
}

/// A prompt to be repeated first.
#[derive(Debug)]
struct Echo {
    text: String,
    tokens: Vec<u32>,
    reports: Vec<TokenReport>,
}

/// A token as log probabilities report it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TokenReport {
    pub(super) bytes: Vec<u8>,
    /// `None` for the first token of a prompt.
    pub(super) logprob: Option<f32>,
    pub(super) top: Vec<(Vec<u8>, f32)>,
}

/// What an event added.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) reports: Vec<TokenReport>,
    pub(super) finish: Option<&'static str>,
}

impl Piece {
    /// Whether there is anything to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.reports.is_empty() && self.finish.is_none()
    }
}

impl Choice {
    pub(super) fn new(model: &ServerModel, prompt: &PreparedPrompt, sampling: &Sampling, cancel: Cancel) -> Self {
        let tokenizer = Arc::clone(&model.tokenizer);
        let detokenizer = Detokenizer::new(Arc::clone(&tokenizer), &prompt.tokens, true);
        Self {
            generated: 0,
            finish: None,
            cached: 0,
            tokenizer,
            detokenizer,
            stops: StopStrings::new(&sampling.stop),
            min_tokens: sampling.min_tokens,
            cancel,
            held: Vec::new(),
            wants_logprobs: sampling.logprobs.is_some(),
            echo: prompt.echo.clone().map(|text| Echo { text, tokens: prompt.tokens.clone(), reports: Vec::new() }),
        }
    }

    /// Takes one event; nothing more comes of a choice that has finished.
    ///
    /// # Errors
    /// The sequence failed; the text says why.
    pub(super) fn take(&mut self, event: Event) -> Result<Piece, String> {
        if self.finish.is_some() {
            return Ok(Piece::default());
        }
        let mut piece = match event {
            Event::Failed(why) => return Err(why),
            Event::Cached(tokens) => {
                self.cached = u32::try_from(tokens).unwrap_or(u32::MAX);
                return Ok(Piece::default());
            }
            Event::PromptLogprobs(entries) => {
                self.take_prompt(&entries);
                return Ok(Piece::default());
            }
            Event::PromptDone => Piece { finish: Some(FinishReason::Length.as_str()), ..Piece::default() },
            Event::Token { id, logprobs, finish } => self.take_token(id, logprobs, finish),
        };
        if let Some(echo) = self.echo.take() {
            piece.text.insert_str(0, &echo.text);
            if self.wants_logprobs {
                let first = echo.tokens.first().map(|&id| self.report(id, None));
                piece.reports.splice(0..0, first.into_iter().chain(echo.reports));
            }
        }
        self.finish = piece.finish;
        Ok(piece)
    }

    fn take_prompt(&mut self, entries: &[Logprobs]) {
        let Some(mut echo) = self.echo.take() else { return };
        for entry in entries {
            let Some(&id) = echo.tokens.get(echo.reports.len() + 1) else { break };
            let report = self.report(id, Some(entry));
            echo.reports.push(report);
        }
        self.echo = Some(echo);
    }

    fn take_token(&mut self, id: u32, logprobs: Option<Logprobs>, finish: Option<FinishReason>) -> Piece {
        self.generated += 1;
        let mut text = String::new();
        if finish != Some(FinishReason::Stop) {
            text = self.detokenizer.push(id);
            if let Some(entry) = &logprobs {
                let report = self.report(id, Some(entry));
                self.held.push(report);
            }
        }
        if finish.is_some() {
            text.push_str(&self.detokenizer.finish());
        }
        let mut finish = finish.map(FinishReason::as_str);
        let released = if self.generated < self.min_tokens {
            self.stops.pass(&text)
        } else {
            let (mut released, is_stopped) = self.stops.push(&text);
            if is_stopped {
                self.cancel.cancel();
                finish = Some(FinishReason::Stop.as_str());
            } else if finish.is_some() {
                released.push_str(&self.stops.finish());
            }
            released
        };
        // Reports travel with the text they belong to.
        let reports = if released.is_empty() && finish.is_none() { Vec::new() } else { std::mem::take(&mut self.held) };
        Piece { text: released, reports, finish }
    }

    fn report(&self, id: u32, entry: Option<&Logprobs>) -> TokenReport {
        let top = entry.map(|entry| entry.top.as_slice()).unwrap_or_default();
        TokenReport {
            bytes: self.tokenizer.token_bytes(id),
            logprob: entry.map(|entry| entry.chosen),
            top: top.iter().map(|&(id, logprob)| (self.tokenizer.token_bytes(id), logprob)).collect(),
        }
    }
}
