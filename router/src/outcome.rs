//! The outcome of a try: one pure function from what was seen of it, and what follows from each outcome.
//!
//! It decides whose fault a failure is and does nothing about it: `breaker` keeps the books of one
//! (worker, model) pair, `dispatch` tries again, `relay` tells the client.

#![warn(clippy::disallowed_methods)]

use http::{HeaderMap, StatusCode};
use std::time::Duration;
use wire::openai::channels::ErrorClass;

/// The longest wait that a worker may ask for: a wrong clock there must not lose it for an hour.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The progress of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing of the request was sent.
    NotBegun,
    /// The request was sent; the worker's head is not here.
    HeadSent,
    /// The worker's head is here; the client has no event.
    FirstByte,
    /// The client has an event.
    After,
}

impl Phase {
    /// A stable word for metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::NotBegun => "not_begun",
            Self::HeadSent => "head_sent",
            Self::FirstByte => "first_byte",
            Self::After => "after",
        }
    }
}

/// An event on the connection, or in the answer on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Refused, unreachable, or not connected in time.
    Unreachable,
    /// A reused connection ended soon after the request was written, without a byte of an answer.
    ClosedUnused,
    /// The connection ended, or the head was none.
    Broken,
    /// No byte for a while, and health checks stay unanswered as well.
    Stuck,
    /// No answer, or no further byte of it, in time.
    TimedOut,
    /// The answer is none: another type, cut, compressed, beyond the bounds, no JSON, no event.
    Unreadable,
    /// Descriptors, memory, ports or time of this process ran out.
    Exhausted,
    /// The client went away.
    ClientLeft,
}

/// The facts that a try is judged by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evidence<'a> {
    pub(crate) phase: Phase,
    pub(crate) transport: Option<Transport>,
    /// The worker's status and headers, once they are here.
    pub(crate) head: Option<(StatusCode, &'a HeaderMap)>,
    /// An error that the answer reports.
    pub(crate) error: Option<ErrorClass>,
}

/// The extent of back-pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// This model at this worker.
    Model,
    /// Every model at this worker; only the worker itself can say so.
    Worker,
}

/// A worker's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It cannot be reached.
    Down,
    /// It refuses the router's key.
    Key,
    /// It does not have what the fleet believes it has.
    Gone,
    /// It broke off.
    Broke,
    /// It is silent, to health checks too.
    Stuck,
    /// It took too long.
    Slow,
    /// It answers something that is no answer.
    Garbage,
    /// It says that it failed.
    Failed,
}

/// The outcome of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A whole answer, or a stream with its terminal event.
    Success,
    /// A connection that the worker had closed meanwhile: nothing was begun.
    Stale,
    /// Not now. `wait` is the worker's hint, none where it gives none.
    BackPressure { scope: Scope, wait: Option<Duration> },
    /// The worker's fault.
    WorkerFault(Fault),
    /// The request's fault.
    RequestFault,
    /// This router's fault.
    Ours,
    /// The client left.
    ClientLeft,
}

/// The next destination of a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Nowhere.
    Never,
    /// To the same worker on a fresh connection, once, outside the budget.
    Fresh,
    /// To another worker, outside the retry budget: this one did nothing, so no load is added.
    Free,
    /// To another worker.
    Another,
    /// To another worker, unless this request already broke one.
    AnotherUnlessStruck,
}

/// Judges a try; the first rule that matches wins.
pub(crate) fn outcome(evidence: &Evidence<'_>) -> Outcome {
    use Outcome::{BackPressure, ClientLeft, Ours, RequestFault, Stale, Success, WorkerFault};
    match (evidence.transport, evidence.phase) {
        (Some(Transport::ClientLeft), _) => return ClientLeft,
        (Some(Transport::Exhausted), _) => return Ours,
        (Some(Transport::ClosedUnused), Phase::NotBegun | Phase::HeadSent) => return Stale,
        (Some(Transport::Unreachable), _) => return WorkerFault(Fault::Down),
        (Some(Transport::Stuck), _) => return WorkerFault(Fault::Stuck),
        (Some(Transport::TimedOut), Phase::NotBegun) => return WorkerFault(Fault::Down),
        (Some(Transport::TimedOut), _) => return WorkerFault(Fault::Slow),
        (Some(Transport::Broken | Transport::ClosedUnused), _) => return WorkerFault(Fault::Broke),
        (Some(Transport::Unreadable) | None, _) => {}
    }
    match evidence.error {
        Some(ErrorClass::Request) => return RequestFault,
        Some(ErrorClass::Overloaded) => return BackPressure { scope: Scope::Model, wait: None },
        Some(ErrorClass::Server) => return WorkerFault(Fault::Failed),
        None => {}
    }
    let Some((status, headers)) = evidence.head else { return WorkerFault(Fault::Broke) };
    match status.as_u16() {
        200 if evidence.transport.is_none() => Success,
        ..400 => WorkerFault(Fault::Garbage),
        401 | 403 | 407 => WorkerFault(Fault::Key),
        404 | 405 | 410 | 501 => WorkerFault(Fault::Gone),
        408 | 421 | 425 => BackPressure { scope: Scope::Model, wait: Some(Duration::ZERO) },
        429 | 503 | 529 => BackPressure { scope: scope(headers), wait: wait(headers) },
        400..=499 => RequestFault,
        _ => WorkerFault(Fault::Failed),
    }
}

impl Outcome {
    /// A stable word for metrics and logs.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Stale => "stale",
            Self::BackPressure { .. } => "back_pressure",
            Self::WorkerFault(Fault::Down) => "down",
            Self::WorkerFault(Fault::Key) => "key_refused",
            Self::WorkerFault(Fault::Gone) => "gone",
            Self::WorkerFault(Fault::Broke) => "broke",
            Self::WorkerFault(Fault::Stuck) => "stuck",
            Self::WorkerFault(Fault::Slow) => "slow",
            Self::WorkerFault(Fault::Garbage) => "garbage",
            Self::WorkerFault(Fault::Failed) => "failed",
            Self::RequestFault => "request_fault",
            Self::Ours => "ours",
            Self::ClientLeft => "client_left",
        }
    }

    /// The request's next destination, as long as the client has no event. A request that may still
    /// run is not sent again: a worker that took too long computes on.
    pub(crate) const fn retry(self) -> Retry {
        match self {
            Self::Stale => Retry::Fresh,
            Self::WorkerFault(Fault::Down | Fault::Key) => Retry::Free,
            Self::BackPressure { .. } | Self::WorkerFault(Fault::Gone) => Retry::Another,
            Self::WorkerFault(Fault::Broke | Fault::Stuck) => Retry::AnotherUnlessStruck,
            Self::WorkerFault(Fault::Slow | Fault::Garbage | Fault::Failed)
            | Self::Success
            | Self::RequestFault
            | Self::Ours
            | Self::ClientLeft => Retry::Never,
        }
    }
}

/// Only the worker can speak for all of its models.
fn scope(headers: &HeaderMap) -> Scope {
    match headers.get(wire::headers::SCOPE).map(http::HeaderValue::as_bytes) {
        Some(b"worker") => Scope::Worker,
        _ => Scope::Model,
    }
}

/// How long a worker asks to be left alone. A date is not understood: clocks differ.
pub(crate) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| {
        let number = headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok()?;
        (number.is_finite() && number >= 0.0).then_some(number)
    };
    let seconds = number("retry-after-ms").map(|ms| ms / 1e3).or_else(|| number("retry-after"))?;
    Some(Duration::try_from_secs_f64(seconds).map_or(WAIT_MAX, |wait| wait.min(WAIT_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    const PHASES: [Phase; 4] = [Phase::NotBegun, Phase::HeadSent, Phase::FirstByte, Phase::After];
    const TRANSPORTS: [Transport; 8] = [
        Transport::Unreachable,
        Transport::ClosedUnused,
        Transport::Broken,
        Transport::Stuck,
        Transport::TimedOut,
        Transport::Unreadable,
        Transport::Exhausted,
        Transport::ClientLeft,
    ];

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn of_transport(phase: Phase, transport: Transport) -> Outcome {
        outcome(&Evidence { phase, transport: Some(transport), head: None, error: None })
    }

    fn of_status(code: u16, transport: Option<Transport>, pairs: &[(&'static str, &'static str)]) -> Outcome {
        let headers = headers(pairs);
        let head = Some((StatusCode::from_u16(code).expect("a status"), &headers));
        outcome(&Evidence { phase: Phase::FirstByte, transport, head, error: None })
    }

    #[test]
    fn each_transport_has_its_outcome_in_each_phase() {
        use Outcome::WorkerFault;
        for (phase, transport, expected) in [
            (Phase::NotBegun, Transport::Unreachable, WorkerFault(Fault::Down)),
            (Phase::NotBegun, Transport::TimedOut, WorkerFault(Fault::Down)),
            (Phase::NotBegun, Transport::ClosedUnused, Outcome::Stale),
            (Phase::HeadSent, Transport::ClosedUnused, Outcome::Stale),
            (Phase::HeadSent, Transport::Broken, WorkerFault(Fault::Broke)),
            (Phase::HeadSent, Transport::Stuck, WorkerFault(Fault::Stuck)),
            (Phase::HeadSent, Transport::TimedOut, WorkerFault(Fault::Slow)),
            (Phase::FirstByte, Transport::Broken, WorkerFault(Fault::Broke)),
            (Phase::FirstByte, Transport::TimedOut, WorkerFault(Fault::Slow)),
            (Phase::After, Transport::Broken, WorkerFault(Fault::Broke)),
            (Phase::After, Transport::Stuck, WorkerFault(Fault::Stuck)),
            (Phase::After, Transport::TimedOut, WorkerFault(Fault::Slow)),
        ] {
            assert_eq!(of_transport(phase, transport), expected, "{phase:?} {transport:?}");
        }
        for phase in PHASES {
            assert_eq!(of_transport(phase, Transport::Exhausted), Outcome::Ours);
            assert_eq!(of_transport(phase, Transport::ClientLeft), Outcome::ClientLeft);
        }
    }

    #[test]
    fn each_status_has_its_outcome() {
        use Outcome::{RequestFault, Success, WorkerFault};
        let model = |wait| Outcome::BackPressure { scope: Scope::Model, wait };
        for (code, expected) in [
            (200, Success),
            (201, WorkerFault(Fault::Garbage)),
            (204, WorkerFault(Fault::Garbage)),
            (302, WorkerFault(Fault::Garbage)),
            (400, RequestFault),
            (401, WorkerFault(Fault::Key)),
            (403, WorkerFault(Fault::Key)),
            (404, WorkerFault(Fault::Gone)),
            (405, WorkerFault(Fault::Gone)),
            (407, WorkerFault(Fault::Key)),
            (408, model(Some(Duration::ZERO))),
            (409, RequestFault),
            (410, WorkerFault(Fault::Gone)),
            (413, RequestFault),
            (422, RequestFault),
            (429, model(None)),
            (500, WorkerFault(Fault::Failed)),
            (501, WorkerFault(Fault::Gone)),
            (502, WorkerFault(Fault::Failed)),
            (503, model(None)),
            (504, WorkerFault(Fault::Failed)),
            (529, model(None)),
            (599, WorkerFault(Fault::Failed)),
        ] {
            assert_eq!(of_status(code, None, &[]), expected, "{code}");
        }
        assert_eq!(of_status(200, Some(Transport::Unreadable), &[]), WorkerFault(Fault::Garbage));
        assert_eq!(of_status(400, Some(Transport::Unreadable), &[]), RequestFault, "an odd body changes no status");
    }

    #[test]
    fn an_error_inside_an_answer_counts_as_its_class() {
        let headers = HeaderMap::new();
        for (error, expected) in [
            (ErrorClass::Request, Outcome::RequestFault),
            (ErrorClass::Overloaded, Outcome::BackPressure { scope: Scope::Model, wait: None }),
            (ErrorClass::Server, Outcome::WorkerFault(Fault::Failed)),
        ] {
            let head = Some((StatusCode::OK, &headers));
            for phase in [Phase::FirstByte, Phase::After] {
                let evidence = Evidence { phase, transport: None, head, error: Some(error) };
                assert_eq!(outcome(&evidence), expected);
            }
        }
    }

    #[test]
    fn only_the_worker_speaks_for_all_its_models() {
        for (pairs, scope) in [
            (&[][..], Scope::Model),
            (&[("x-forebay-scope", "worker")][..], Scope::Worker),
            (&[("x-forebay-scope", "model")][..], Scope::Model),
            (&[("x-forebay-scope", "everything")][..], Scope::Model),
        ] {
            assert_eq!(of_status(503, None, pairs), Outcome::BackPressure { scope, wait: None }, "{pairs:?}");
        }
    }

    #[test]
    fn hints_to_wait_are_read_and_bounded() {
        for (pairs, expected) in [
            (&[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")][..], None),
            (&[("retry-after", "7")][..], Some(Duration::from_secs(7))),
            (&[("retry-after", "0.5")][..], Some(Duration::from_millis(500))),
            (&[("retry-after", "7"), ("retry-after-ms", "250")][..], Some(Duration::from_millis(250))),
            (&[("retry-after", "-1")][..], None),
            (&[("retry-after", "NaN")][..], None),
            (&[("retry-after", "99999999999999999999999")][..], Some(WAIT_MAX)),
            (&[("retry-after", "3600")][..], Some(WAIT_MAX)),
        ] {
            assert_eq!(wait(&headers(pairs)), expected, "{pairs:?}");
        }
    }

    fn any_evidence() -> impl Strategy<Value = (Phase, Option<Transport>, Option<u16>, Option<ErrorClass>)> {
        let errors = vec![ErrorClass::Request, ErrorClass::Overloaded, ErrorClass::Server];
        (
            prop::sample::select(PHASES.to_vec()),
            prop::option::of(prop::sample::select(TRANSPORTS.to_vec())),
            prop::option::of(100_u16..600),
            prop::option::of(prop::sample::select(errors)),
        )
    }

    proptest! {
        #[test]
        fn what_may_still_run_is_never_sent_again((phase, transport, code, error) in any_evidence()) {
            let none = HeaderMap::new();
            let head = code.and_then(|code| StatusCode::from_u16(code).ok()).map(|status| (status, &none));
            let outcome = outcome(&Evidence { phase, transport, head, error });
            if transport == Some(Transport::TimedOut) && phase != Phase::NotBegun {
                prop_assert_eq!(outcome.retry(), Retry::Never);
            }
            if outcome == Outcome::Success {
                prop_assert!(transport.is_none() && error.is_none() && code == Some(200));
            }
            if outcome == Outcome::Stale {
                let is_early = matches!(phase, Phase::NotBegun | Phase::HeadSent);
                prop_assert!(is_early);
            }
            if matches!(transport, Some(Transport::Exhausted | Transport::ClientLeft)) {
                let is_nobodys = matches!(outcome, Outcome::Ours | Outcome::ClientLeft);
                prop_assert!(is_nobodys, "never a worker's fault");
            }
        }
    }
}
