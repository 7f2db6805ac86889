//! A one-token request of the router's own, which decides over a suspicion.
//!
//! A pair is probed by one task at a time. A probe that goes well takes it back; one that does not
//! ejects it and is tried again, ever more seldom, until it goes well or the model is gone.

use crate::core::Core;
use crate::fleet::Member;
use crate::outcome::{Evidence, Fault, Outcome, Phase, Transport, outcome};
use crate::upstream::{Patience, ReadError, UpstreamError, authorize, endpoint_bit, exchange, read_all};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::Full;
use serde_json::json;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a probe may take. A full worker may need longer; `judge` knows.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer to a probe.
const PROBE_BYTES_MAX: usize = 1 << 20;
/// How long after a failed probe the next one follows; it doubles.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// The longest time between two probes.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// Begins to probe a pair, unless it is being probed.
pub(crate) fn begin(core: &Arc<Core>, member: &Member, model: &str, path: &'static str) {
    if member.pair.begin_probe() {
        let (core, member, model) = (Arc::downgrade(core), member.clone(), model.to_owned());
        tokio::spawn(async move {
            until_settled(&core, &member, &model, path).await;
            member.pair.end_probe();
        });
    }
}

/// Probes until the pair is readmitted or no longer ejected. Probes do not keep the router alive.
async fn until_settled(core: &Weak<Core>, member: &Member, model: &str, path: &'static str) {
    let mut again = AGAIN_MIN;
    loop {
        let Some(core) = core.upgrade() else { return };
        let verdict = probe(&core, member, model, path).await;
        let was_ejected = member.pair.is_ejected();
        match verdict {
            Verdict::Eject(fault) => member.pair.eject(fault, endpoint_bit(path)),
            Verdict::Readmit => member.pair.readmit(endpoint_bit(path)),
            Verdict::Unknown => {}
        }
        let is_ejected = member.pair.is_ejected();
        if was_ejected != is_ejected {
            core.fleet.touch();
            tracing::warn!(worker = member.worker.name, model, path, ?verdict, "a probe settled a suspicion");
        }
        if matches!(verdict, Verdict::Eject(_)) && !was_ejected {
            core.metrics.ejections.inc();
        }
        let is_served = member.worker.view().models.iter().any(|served| served.model.id == model);
        if verdict == Verdict::Readmit || !is_ejected || !is_served || core.drain.is_refusing() {
            return;
        }
        drop(core);
        tokio::time::sleep(again).await;
        again = (again * 2).min(AGAIN_MAX);
    }
}

/// The verdict of a probe over a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Eject(Fault),
    Readmit,
    Unknown,
}

/// Asks for one token, or one embedding.
async fn probe(core: &Core, member: &Member, model: &str, path: &'static str) -> Verdict {
    let successes = member.pair.successes();
    let mut request = Request::new(Full::new(body(path, model)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(path);
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let settings = core.settings();
    authorize(request.headers_mut(), settings.config.worker_api_key.as_ref());
    let patience = Patience { head: PROBE_TIMEOUT, stuck: settings.config.stuck_after() };
    let outcome = match exchange(&member.worker, request, true, patience).await {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            let read = read_all(body, PROBE_BYTES_MAX, PROBE_TIMEOUT).await;
            let transport = read.as_ref().err().map(ReadError::transport);
            let is_json = |body: &Bytes| serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(body).is_ok();
            let transport =
                transport.or_else(|| (!read.is_ok_and(|body| is_json(&body))).then_some(Transport::Unreadable));
            let head = Some((parts.status, &parts.headers));
            outcome(&Evidence { phase: Phase::FirstByte, transport, head, error: None })
        }
        Err(cause) => judge_silence(&cause),
    };
    core.metrics.probe(outcome);
    judge(outcome, member.pair.successes() != successes)
}

fn judge_silence(cause: &UpstreamError) -> Outcome {
    let (phase, transport) = cause.evidence();
    outcome(&Evidence { phase, transport: Some(transport), head: None, error: None })
}

/// Judges a probe. A slow one at a worker that answered others meanwhile waited its turn; health
/// checks find a worker that is down.
fn judge(outcome: Outcome, answered_others: bool) -> Verdict {
    match outcome {
        Outcome::WorkerFault(Fault::Slow | Fault::Stuck) if answered_others => Verdict::Readmit,
        Outcome::WorkerFault(Fault::Down) | Outcome::Stale | Outcome::Ours | Outcome::ClientLeft => Verdict::Unknown,
        Outcome::BackPressure { .. } => Verdict::Unknown,
        Outcome::WorkerFault(fault) => Verdict::Eject(fault),
        Outcome::Success | Outcome::RequestFault => Verdict::Readmit,
    }
}

fn body(path: &str, model: &str) -> Bytes {
    let body = match path {
        "/v1/completions" => json!({"model": model, "prompt": "ok", "max_tokens": 1}),
        "/v1/embeddings" => json!({"model": model, "input": "ok"}),
        _ => json!({"model": model, "messages": [{"role": "user", "content": "ok"}], "max_tokens": 1}),
    };
    body.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Scope;

    #[test]
    fn only_a_fault_of_the_worker_ejects() {
        for fault in [Fault::Key, Fault::Gone, Fault::Broke, Fault::Garbage, Fault::Failed, Fault::Stuck, Fault::Slow] {
            assert_eq!(judge(Outcome::WorkerFault(fault), false), Verdict::Eject(fault));
        }
        assert_eq!(judge(Outcome::WorkerFault(Fault::Slow), true), Verdict::Readmit, "it waited its turn");
        let full = Outcome::BackPressure { scope: Scope::Model, wait: None };
        for outcome in [full, Outcome::Ours, Outcome::WorkerFault(Fault::Down)] {
            assert_eq!(judge(outcome, false), Verdict::Unknown, "{outcome:?}");
        }
        for outcome in [Outcome::Success, Outcome::RequestFault] {
            assert_eq!(judge(outcome, false), Verdict::Readmit, "{outcome:?}");
        }
    }
}
