//! What a request has used of its tenant's limits: held while it is answered, settled when it is over, however it ends.

use crate::core::Core;
use policy::{Limits, Reservation};
use std::sync::Arc;
use wire::openai::Usage;

/// The tokens of one request, and its shares of its tenant's limits. It rides with the answer; dropped, it is settled by
/// what was seen until then.
#[derive(Debug)]
pub(crate) struct Account {
    core: Arc<Core>,
    tenant: String,
    reservation: Option<Reservation>,
    /// The estimate for its prompts.
    prompt: u64,
    /// Pieces of text that came: where nobody counts, each is a token.
    pieces: u64,
    /// The worker's own count.
    counted: Option<Usage>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No worker has it.
    Asked,
    /// A worker computes it.
    Sent,
    /// It came to nothing that costs tokens.
    Refused,
}

impl Account {
    pub(crate) fn new(core: &Arc<Core>, tenant: &str, reservation: Reservation, prompt: u64) -> Self {
        Self {
            core: Arc::clone(core),
            tenant: tenant.to_owned(),
            reservation: Some(reservation),
            prompt,
            pieces: 0,
            counted: None,
            state: State::Asked,
        }
    }

    /// A worker has the request, so its prompt counts.
    pub(crate) fn sent(&mut self) {
        self.state = State::Sent;
    }

    /// The request was refused, by a worker's word: it counts as a request, its tokens do not.
    pub(crate) fn refused(&mut self) {
        self.state = State::Refused;
    }

    /// Notes pieces of text.
    pub(crate) fn pieces(&mut self, count: u64) {
        self.pieces += count;
    }

    /// Notes a worker's count; the last one is of all.
    pub(crate) fn counted(&mut self, usage: Option<Usage>) {
        self.counted = usage.or(self.counted);
    }

    /// Gives back everything, because nobody answered; returns what the tenant may use then.
    pub(crate) fn refund(mut self) -> Limits {
        self.state = State::Refused;
        let now = self.core.now();
        self.reservation.take().map_or_else(Limits::default, |reservation| reservation.refund(now))
    }

    /// Tokens of prompts and of completions.
    fn tokens(&self) -> (u64, u64) {
        match (self.state, self.counted) {
            (State::Asked | State::Refused, _) => (0, 0),
            (State::Sent, Some(usage)) => (usage.prompt_tokens.into(), usage.completion_tokens.into()),
            (State::Sent, None) => (self.prompt, self.pieces),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let (prompt, completion) = self.tokens();
        if let Some(reservation) = &mut self.reservation {
            reservation.saw(prompt + completion, self.core.now());
        }
        self.core.metrics.tokens(&self.tenant, prompt, completion);
    }
}
