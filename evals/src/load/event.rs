//! The event log: what happened to each request, in nanoseconds of one monotonic clock that starts
//! with the run. Every number of a report is computed from these and nothing else.

use serde::{Deserialize, Serialize};
use wire::openai::Usage;

/// One request of the schedule, sent or not. One line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestEvent {
    /// Its place in the schedule.
    pub index: u64,
    /// When the schedule meant it to be sent.
    pub intended_ns: u64,
    /// When it was handed to the HTTP client; `None` when it was dropped.
    pub sent_ns: Option<u64>,
    /// When the response's headers had arrived.
    pub headers_ns: Option<u64>,
    /// When the first chunk with choices had arrived, even one without text.
    pub first_chunk_ns: Option<u64>,
    /// When each chunk with text of any channel had arrived: content, reasoning, a refusal, a tool call.
    pub content_ns: Vec<u64>,
    /// When the exchange was over, well or badly.
    pub end_ns: Option<u64>,
    /// The response's HTTP status.
    pub status: Option<u16>,
    /// The model's reason to stop.
    pub finish_reason: Option<String>,
    /// Tokens, as the server counted them.
    pub usage: Option<Usage>,
    /// How it ended.
    pub outcome: Outcome,
    /// The failure in words.
    pub detail: Option<String>,
}

/// How a request ended. A request has exactly one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A whole, well-formed answer.
    Ok,
    /// Never sent: as many requests as allowed were already in flight.
    Dropped,
    /// No connection could be made.
    Connect,
    /// The connection broke before the response's headers.
    ConnectionLost,
    /// Not over within the time limit.
    Timeout,
    /// 429.
    RateLimited,
    /// Any other 4xx.
    ClientError,
    /// 503.
    Unavailable,
    /// Any other 5xx.
    ServerError,
    /// A status that is neither a success nor an error.
    UnexpectedStatus,
    /// The answer broke off: the connection failed, or the body ended before a finish reason.
    Truncated,
    /// The answer was complete but `[DONE]` never came.
    MissingDone,
    /// The server reported an error inside the stream.
    StreamError,
    /// Bytes that are not server-sent events of chat chunks, or (without `--stream`) not a chat
    /// completion; or more of them than the harness takes.
    InvalidBody,
}

impl Outcome {
    /// The word used in reports and in the event log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Dropped => "dropped",
            Self::Connect => "connect",
            Self::ConnectionLost => "connection_lost",
            Self::Timeout => "timeout",
            Self::RateLimited => "rate_limited",
            Self::ClientError => "client_error",
            Self::Unavailable => "unavailable",
            Self::ServerError => "server_error",
            Self::UnexpectedStatus => "unexpected_status",
            Self::Truncated => "truncated",
            Self::MissingDone => "missing_done",
            Self::StreamError => "stream_error",
            Self::InvalidBody => "invalid_body",
        }
    }

    /// The outcome that a response's status alone decides; `None` for 200.
    #[must_use]
    pub const fn of_status(status: u16) -> Option<Self> {
        match status {
            200 => None,
            429 => Some(Self::RateLimited),
            503 => Some(Self::Unavailable),
            400..=499 => Some(Self::ClientError),
            500..=599 => Some(Self::ServerError),
            _ => Some(Self::UnexpectedStatus),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl RequestEvent {
    /// A request that has not happened yet; until it does, it counts as dropped.
    #[must_use]
    pub fn planned(index: u64, intended_ns: u64) -> Self {
        Self {
            index,
            intended_ns,
            sent_ns: None,
            headers_ns: None,
            first_chunk_ns: None,
            content_ns: Vec::new(),
            end_ns: None,
            status: None,
            finish_reason: None,
            usage: None,
            outcome: Outcome::Dropped,
            detail: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_decides_its_outcome() {
        let cases = [
            (200, None),
            (204, Some(Outcome::UnexpectedStatus)),
            (302, Some(Outcome::UnexpectedStatus)),
            (401, Some(Outcome::ClientError)),
            (429, Some(Outcome::RateLimited)),
            (500, Some(Outcome::ServerError)),
            (503, Some(Outcome::Unavailable)),
        ];
        for (status, outcome) in cases {
            assert_eq!(Outcome::of_status(status), outcome, "{status}");
        }
    }

    #[test]
    fn an_outcomes_name_is_its_json() {
        for outcome in [Outcome::Ok, Outcome::ConnectionLost, Outcome::MissingDone, Outcome::InvalidBody] {
            let json = serde_json::to_string(&outcome).expect("serialises");
            assert_eq!(json, format!("\"{outcome}\""));
        }
    }
}
