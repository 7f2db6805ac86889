//! The use of a request: held against its tenant's limits while it is answered, settled and written down when it is
//! over, however it ends.

use crate::core::Core;
use crate::ledger::{Record, USAGE_VERSION};
use crate::meter::CLIENT_LEFT;
use policy::{Limits, Reservation};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use wire::openai::Usage;

/// The tokens of one request, and its shares of its tenant's limits. It rides with the answer; dropped, it is settled by
/// what was seen until then.
#[derive(Debug)]
pub(crate) struct Account {
    core: Arc<Core>,
    reservation: Option<Reservation>,
    /// The estimate for its prompts.
    prompt: u64,
    /// Pieces of text that came: where nobody counts, each is a token.
    pieces: u64,
    /// The worker's own count.
    counted: Option<Usage>,
    state: State,
    about: About,
    status: u16,
}

/// Facts about a request, for its record.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) begun: Instant,
    pub(crate) request_id: String,
    pub(crate) tenant: String,
    pub(crate) model: String,
    pub(crate) endpoint: &'static str,
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
    /// Until `ended`, the client is taken to have left.
    pub(crate) fn new(core: &Arc<Core>, about: About, reservation: Reservation, prompt: u64) -> Self {
        Self {
            core: Arc::clone(core),
            reservation: Some(reservation),
            prompt,
            pieces: 0,
            counted: None,
            state: State::Asked,
            about,
            status: CLIENT_LEFT,
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

    /// Notes how the request ended: the status the client got, or would have got.
    pub(crate) fn ended(&mut self, status: u16) {
        self.status = status;
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

impl Account {
    fn to_record(&self, id: String, prompt_tokens: u64, completion_tokens: u64) -> Record<'_> {
        let counted = self.counted.filter(|_| self.state == State::Sent);
        let cached = counted.and_then(|usage| usage.prompt_tokens_details).map(|details| details.cached_tokens);
        let reasoning =
            counted.and_then(|usage| usage.completion_tokens_details).map(|details| details.reasoning_tokens);
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Record {
            usage_version: USAGE_VERSION,
            id,
            ended_unix_ms: ms(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            duration_ms: ms(self.about.begun.elapsed()),
            request_id: &self.about.request_id,
            tenant: &self.about.tenant,
            model: &self.about.model,
            endpoint: self.about.endpoint,
            status: self.status,
            prompt_tokens,
            cached_tokens: cached.unwrap_or_default().into(),
            completion_tokens,
            reasoning_tokens: reasoning.unwrap_or_default().into(),
            counted_by: if counted.is_some() { "worker" } else { "router" },
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let (prompt, completion) = self.tokens();
        if let Some(reservation) = &mut self.reservation {
            reservation.saw(prompt + completion, self.core.now());
        }
        self.core.metrics.tokens(&self.about.tenant, prompt, completion);
        if let Some(ledger) = &self.core.ledger {
            ledger.record(&self.to_record(ledger.next_id(), prompt, completion));
        }
    }
}
