//! The results of a step: ids, and the numbers that were asked for.

use std::ops::Range;

use super::arena::{Arena, Base, FOUND_BYTES, TOP_MAX};
use super::device::{Device, DeviceError, Pinned, Stream};
use super::inputs::{Answer, How, Plan};
use crate::backend::{Limits, Outcome};
use crate::results::{self, NotFinite};
use crate::sampler::{Chosen, Logprobs};

/// Where each list begins in the pinned memory of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outputs {
    tokens: usize,
    found: usize,
    own: usize,
    top_ids: usize,
    top_logits: usize,
    hidden: usize,
    hidden_size: usize,
    /// All of them together.
    pub(super) bytes: usize,
}

/// Little-endian numbers as floats.
pub(super) fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|number| f32::from_le_bytes(*number))
}

/// One row of `Found`.
struct Found {
    sum: f64,
    largest: f32,
    is_finite: bool,
}

impl Outputs {
    /// Room for the largest step.
    pub(super) fn of(limits: &Limits) -> Self {
        let mut at = 0;
        let mut list = |row_bytes: usize| {
            let begin = at;
            at += (limits.max_logits_rows * row_bytes).next_multiple_of(16);
            begin
        };
        Self {
            tokens: list(4),
            found: list(FOUND_BYTES),
            own: list(4),
            top_ids: list(TOP_MAX * 4),
            top_logits: list(TOP_MAX * 4),
            hidden: list(limits.hidden_size * 4),
            hidden_size: limits.hidden_size,
            bytes: at,
        }
    }

    /// Queues the copies of what a step's answers are made of.
    pub(super) fn fetch(
        &self,
        device: &dyn Device,
        plan: &Plan,
        arena: &Arena,
        base: Base,
        to: &Pinned,
    ) -> Result<(), DeviceError> {
        let rows = plan.picked_rows;
        let copy = |list: u64, row_bytes: usize, at: usize| {
            device.download(Stream::Compute, base.at(list), rows * row_bytes, to, at)
        };
        if plan.has_logits && rows > 0 {
            copy(arena.tokens, 4, self.tokens)?;
            copy(arena.found, FOUND_BYTES, self.found)?;
        }
        if plan.has_scores && rows > 0 {
            copy(arena.own, 4, self.own)?;
            copy(arena.top_ids, TOP_MAX * 4, self.top_ids)?;
            copy(arena.top_logits, TOP_MAX * 4, self.top_logits)?;
        }
        if plan.has_hidden && rows > 0 {
            copy(arena.wide, self.hidden_size * 4, self.hidden)?;
        }
        Ok(())
    }

    /// A segment's outcome.
    pub(super) fn outcome(&self, answer: &Answer, bytes: &[u8]) -> Result<Outcome, NotFinite> {
        match answer.how {
            How::Nothing | How::Host => Ok(Outcome::default()),
            How::Hidden => {
                let row = self.hidden_size * 4;
                let Range { start, end } = answer.rows;
                results::hidden(&floats(&bytes[self.hidden..][start * row..end * row]).collect::<Vec<f32>>())
            }
            How::Device { scored, top, token, logprobs } => {
                if answer.rows.clone().any(|row| !self.found(bytes, row).is_finite) {
                    return Err(NotFinite);
                }
                let Range { start, end } = answer.rows;
                let scores = (start..start + scored).map(|row| self.logprobs(bytes, row, top)).collect();
                let last = end.wrapping_sub(1);
                let chosen = || Chosen {
                    id: self.word(bytes, self.tokens + last * 4),
                    logprobs: logprobs.map(|top| self.logprobs(bytes, last, top)),
                };
                Ok(Outcome { token: token.then(chosen), scores, hidden: Vec::new() })
            }
        }
    }

    fn word(&self, bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn found(&self, bytes: &[u8], row: usize) -> Found {
        let at = self.found + row * FOUND_BYTES;
        Found {
            sum: f64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")),
            largest: f32::from_bits(self.word(bytes, at + 8)),
            is_finite: self.word(bytes, at + 12) != 0,
        }
    }

    /// A row's log probabilities, rounded as the shared sampler rounds them.
    fn logprobs(&self, bytes: &[u8], row: usize, top: usize) -> Logprobs {
        let found = self.found(bytes, row);
        #[expect(clippy::cast_possible_truncation, reason = "a log probability needs no more than f32")]
        let log_sum = found.largest + found.sum.ln() as f32;
        let logit = |list: usize, at: usize| f32::from_bits(self.word(bytes, list + at * 4));
        let id = |at: usize| self.word(bytes, self.top_ids + (row * TOP_MAX + at) * 4);
        let pair = |at: usize| (id(at), logit(self.top_logits, row * TOP_MAX + at) - log_sum);
        Logprobs { chosen: logit(self.own, row) - log_sum, top: (0..top).map(pair).collect() }
    }
}
