//! One choice of an answer: a sequence's tokens become text, pieces of it certain one by one.

use super::ServerModel;
use super::speech::{self, Manner, Part, Speech};
use super::stop::StopStrings;
use crate::engine::{Cancel, Event, FinishReason};
use compute::sampler::Logprobs;
use models::thoughts::Begun;
use models::tokenizer::{Detokenizer, Tokenizer};
use std::sync::Arc;
use wire::openai::chat::CALLED;
use wire::openai::logprobs::{PromptLogprob, PromptLogprobs};
use wire::openai::{ApiError, ErrorKind, Sampling};

/// A prompt, ready to be submitted.
#[derive(Debug)]
pub(super) struct PreparedPrompt {
    pub(super) tokens: Vec<u32>,
    /// With `echo`: what comes first.
    pub(super) echo: Option<String>,
    /// The part of a thought that the prompt has begun, of a model that has thoughts.
    pub(super) begun: Option<Begun>,
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
    wants_ids: bool,
    /// Length of the text of all tokens so far, an echo included.
    made: Extent,
    /// Bytes of it that were released.
    released: usize,
    echo: Option<Echo>,
    scored: Option<Scored>,
    /// The most of the likeliest tokens in each place of an echo.
    echoed_max: usize,
    speech: Speech,
    /// Special tokens that are part of the text.
    spelled: Arc<[(u32, String)]>,
    /// Tokens of thoughts.
    pub(super) thought: u32,
    restricted_by: Option<Arc<str>>,
}

/// A text's length.
#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    bytes: usize,
    characters: u32,
}

impl Extent {
    fn add(&mut self, text: &str) {
        self.bytes += text.len();
        self.characters += u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
    }
}

/// A prompt to be repeated first.
#[derive(Debug)]
struct Echo {
    text: String,
    tokens: Vec<u32>,
    /// Log probabilities of all tokens but the first.
    entries: Vec<Logprobs>,
}

/// A prompt whose log probabilities are wanted for themselves.
#[derive(Debug)]
struct Scored {
    tokens: Vec<u32>,
    /// The most of the likeliest tokens in each place.
    most: usize,
    /// Those of all tokens but the first.
    entries: Vec<Logprobs>,
}

/// A token as log probabilities report it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TokenReport {
    pub(super) id: u32,
    pub(super) bytes: Vec<u8>,
    /// `None` for the first token of a prompt.
    pub(super) logprob: Option<f32>,
    pub(super) top: Vec<Rival>,
    /// The start of its text in the text that is returned, in characters.
    pub(super) offset: u32,
    /// The same in bytes.
    pub(super) start: usize,
    /// The end of the text that is certain with it, in bytes.
    pub(super) end: usize,
}

impl TokenReport {
    /// Moves the start behind `text`, which the tokens before it left to be shown.
    fn begin_after(&mut self, text: &str) {
        self.offset += u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        self.start += text.len();
    }
}

/// The beginning of `text` that is not the token's own: replacement characters of tokens before it, whose bytes this
/// one has shown to be no character.
fn flushed<'a>(text: &'a str, token: &[u8]) -> &'a str {
    std::str::from_utf8(token).ok().and_then(|own| text.strip_suffix(own)).unwrap_or_default()
}

/// One of the likeliest tokens at a place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rival {
    pub(super) id: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) logprob: f32,
}

/// Text that became certain, before it is read.
#[derive(Debug, Default)]
struct Raw {
    text: String,
    tokens: Vec<u32>,
    reports: Vec<TokenReport>,
    finish: Option<&'static str>,
}

/// The parts and reports that an event added.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Piece {
    pub(super) parts: Vec<Part>,
    /// Ids of tokens, where asked for.
    pub(super) tokens: Vec<u32>,
    pub(super) reports: Vec<TokenReport>,
    /// Log probabilities of the prompt, where asked for, with the first event.
    pub(super) prompt: Option<PromptLogprobs>,
    pub(super) finish: Option<&'static str>,
}

impl Piece {
    /// `true` if there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.tokens.is_empty() && self.reports.is_empty() && self.finish.is_none()
    }
}

impl Choice {
    pub(super) fn new(
        model: &ServerModel,
        prompt: &PreparedPrompt,
        sampling: &Sampling,
        manner: &Manner,
        cancel: Cancel,
    ) -> Self {
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
            wants_ids: manner.wants_ids,
            made: Extent::default(),
            released: 0,
            echo: prompt.echo.clone().map(|text| Echo { text, tokens: prompt.tokens.clone(), entries: Vec::new() }),
            scored: sampling.prompt_logprobs.map(|most| Scored {
                tokens: prompt.tokens.clone(),
                most: most as usize,
                entries: Vec::new(),
            }),
            echoed_max: sampling.logprobs.unwrap_or_default() as usize,
            speech: Speech::new(manner),
            spelled: Arc::clone(&manner.spelled),
            thought: 0,
            restricted_by: manner.restricted_by.clone(),
        }
    }

    /// Takes one event; nothing more comes of a choice that has finished.
    ///
    /// # Errors
    /// The sequence failed, or what the request asks for cannot go on.
    pub(super) fn take(&mut self, event: Event) -> Result<Piece, ApiError> {
        if self.finish.is_some() {
            return Ok(Piece::default());
        }
        let echoed = match event {
            Event::Failed(why) => return Err(ApiError::new(ErrorKind::Internal, why)),
            // The request's doing: no other worker would do better, and none is to be blamed.
            Event::Stuck(why) => {
                let error = ApiError::new(ErrorKind::InvalidRequest, why);
                return Err(match &self.restricted_by {
                    Some(field) => error.with_param(&**field),
                    None => error,
                });
            }
            Event::Cached(tokens) => {
                self.cached = u32::try_from(tokens).unwrap_or(u32::MAX);
                return Ok(Piece::default());
            }
            Event::PromptLogprobs(entries) => {
                if let Some(echo) = &mut self.echo {
                    echo.entries.clone_from(&entries);
                    echo.entries.iter_mut().for_each(|entry| entry.top.truncate(self.echoed_max));
                }
                if let Some(scored) = &mut self.scored {
                    scored.entries = entries;
                }
                return Ok(Piece::default());
            }
            Event::PromptDone | Event::Pooled(_) | Event::Token { .. } => self.take_echo(),
        };
        let mut raw = match event {
            Event::Token { id, logprobs, finish } => self.take_token(id, logprobs, finish),
            _ => Raw { finish: Some(FinishReason::Length.as_str()), ..Raw::default() },
        };
        raw.text.insert_str(0, &echoed.text);
        raw.reports.splice(0..0, echoed.reports);
        let prompt = self.scored.take().map(|scored| self.prompt_logprobs(scored));
        let piece = Piece { prompt, ..self.read(raw) };
        self.finish = piece.finish;
        Ok(piece)
    }

    /// The log probabilities of a prompt, as they are written.
    fn prompt_logprobs(&self, scored: Scored) -> PromptLogprobs {
        let Scored { tokens, most, entries } = scored;
        let one = |id: u32, logprob: f32, rank: Option<usize>| {
            let decoded_token = String::from_utf8_lossy(&self.tokenizer.token_bytes(id)).into_owned();
            let rank = rank.and_then(|rank| u32::try_from(rank).ok());
            (id, PromptLogprob { logprob: logprob.max(-9999.0), rank, decoded_token })
        };
        let entries = tokens.iter().skip(1).zip(entries).map(|(&id, entry)| {
            let ranked = entry.top.iter().zip(1_usize..);
            let rank = ranked.clone().find(|((likely, _), _)| *likely == id).map(|(_, rank)| rank);
            let likely = ranked.take(most).map(|(&(likely, logprob), rank)| one(likely, logprob, Some(rank)));
            Some(likely.chain([one(id, entry.chosen, rank)]).collect())
        });
        std::iter::once(None).chain(entries).take(tokens.len()).collect()
    }

    /// Reads what became certain: thoughts, text and calls.
    fn read(&mut self, raw: Raw) -> Piece {
        let Raw { text, tokens, reports, mut finish } = raw;
        self.thought += u32::from(self.speech.is_thinking());
        let mut parts = self.speech.push(text);
        if finish.is_none() && self.speech.is_over() {
            self.cancel.cancel();
            finish = Some(FinishReason::Stop.as_str());
        }
        if let Some(reason) = &mut finish {
            self.speech.finish().into_iter().for_each(|part| speech::add(&mut parts, part));
            if self.speech.has_called() && *reason == FinishReason::Stop.as_str() {
                *reason = CALLED;
            }
        }
        Piece { parts, tokens, reports, prompt: None, finish }
    }

    /// The prompt, if it is to be repeated, and the log probabilities of its tokens. Tokens that are not part of the
    /// text, such as one that begins every sequence, begin where the text after them does.
    fn take_echo(&mut self) -> Raw {
        let Some(echo) = self.echo.take() else { return Raw::default() };
        let mut whole = Extent::default();
        whole.add(&echo.text);
        let mut reports = Vec::new();
        if self.wants_logprobs {
            let mut detokenizer = Detokenizer::new(Arc::clone(&self.tokenizer), &[], true);
            // The first token has no probability; the others' follow in order.
            let entries = std::iter::once(None).chain(echo.entries.iter().map(Some));
            for (&id, entry) in echo.tokens.iter().zip(entries) {
                let mut report = self.report(id, entry);
                // A special token that the prompt spells out is part of its text; one that was added is not.
                match echo.text.get(self.made.bytes..) {
                    Some(rest) if self.tokenizer.is_special(id) && rest.as_bytes().starts_with(&report.bytes) => {
                        self.made.add(&rest[..report.bytes.len()]);
                    }
                    _ => {
                        let text = detokenizer.push(id);
                        report.begin_after(flushed(&text, &report.bytes));
                        self.made.add(&text);
                    }
                }
                // A text whose tokens spell it differently is no shorter for it.
                report.offset = report.offset.min(whole.characters);
                reports.push(report);
            }
        }
        self.made = whole;
        self.released = whole.bytes;
        Raw { text: echo.text, tokens: Vec::new(), reports, finish: None }
    }

    fn take_token(&mut self, id: u32, logprobs: Option<Logprobs>, finish: Option<FinishReason>) -> Raw {
        self.generated += 1;
        let mut text = String::new();
        if finish != Some(FinishReason::Stop) {
            text = self.detokenizer.push(id);
            if let Some((_, spelled)) = self.spelled.iter().find(|(special, _)| *special == id) {
                text.push_str(spelled);
            }
            if let Some(entry) = &logprobs {
                let mut report = self.report(id, Some(entry));
                report.end = report.start + text.len();
                report.begin_after(flushed(&text, &report.bytes));
                self.held.push(report);
            }
        }
        if finish.is_some() {
            text.push_str(&self.detokenizer.finish());
        }
        self.made.add(&text);
        let mut finish = finish.map(FinishReason::as_str);
        let released = if self.generated < self.min_tokens {
            self.stops.pass(&text)
        } else {
            let (mut released, is_stopped) = self.stops.push(&text);
            if is_stopped {
                self.cancel.cancel();
                finish = Some(FinishReason::Stop.as_str());
                self.cut(self.released + released.len());
            } else if finish.is_some() {
                released.push_str(&self.stops.finish());
            }
            released
        };
        self.released += released.len();
        // Reports travel with the text they belong to: one that was released says nothing that may yet be cut.
        let is_out = |report: &TokenReport| finish.is_some() || report.end <= self.released;
        let count = self.held.iter().take_while(|report| is_out(report)).count();
        let tokens = if self.wants_ids { vec![id] } else { Vec::new() };
        Raw { text: released, tokens, reports: self.held.drain(..count).collect(), finish }
    }

    /// A stop string begins at byte `end`: nothing of it is reported.
    fn cut(&mut self, end: usize) {
        self.held.retain(|report| report.start < end);
        if let Some(last) = self.held.last_mut().filter(|last| last.end > end) {
            last.bytes.truncate(end - last.start);
        }
    }

    /// A report of a token whose text comes next.
    fn report(&self, id: u32, entry: Option<&Logprobs>) -> TokenReport {
        let top = entry.map(|entry| entry.top.as_slice()).unwrap_or_default();
        let rival = |&(id, logprob): &(u32, f32)| Rival { id, bytes: self.tokenizer.token_bytes(id), logprob };
        TokenReport {
            id,
            bytes: self.tokenizer.token_bytes(id),
            logprob: entry.map(|entry| entry.chosen),
            top: top.iter().map(rival).collect(),
            offset: self.made.characters,
            start: self.made.bytes,
            end: self.made.bytes,
        }
    }
}
