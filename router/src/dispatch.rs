//! From an admitted request to the beginning of an answer: pick, send, and where nothing reached
//! the client yet, perhaps try another worker.

use crate::core::Core;
use crate::health::Chain;
use crate::pick::Verdict;
use crate::upstream::{Call, UpstreamError, retry_after, send};
use crate::worker::{Ticket, Worker};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use policy::Admitted;
use rand::Rng;
use std::sync::Arc;
use wire::openai::ApiError;

/// The beginning of an answer, and the place at the worker that it holds.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) ticket: Ticket,
}

/// An attempt that another worker may better.
enum Failure {
    /// The worker said that it cannot now; relayed as it is if nobody else can.
    Declined(Answer),
    /// The worker said nothing.
    Silent(UpstreamError),
}

impl Failure {
    fn reason(&self) -> &'static str {
        match self {
            Self::Declined(answer) if is_back_pressure(answer.response.status()) => "full",
            Self::Declined(_) => "status",
            Self::Silent(cause) => cause.kind(),
        }
    }

    fn into_result(self) -> Result<Answer, ApiError> {
        match self {
            Self::Declined(answer) => Ok(answer),
            Self::Silent(cause) => Err(cause.to_api_error()),
        }
    }
}

/// Sends the request to the least loaded worker; if that one declines or says nothing, to another,
/// as far as the attempts and the retry budget go.
///
/// # Errors
/// No worker has the model (404), none can take the request (503), or the last one broke off (502)
/// or was too slow (504). An answer that declines is an answer.
pub(crate) async fn dispatch(core: &Core, admitted: &Admitted, model: &str, call: &Call) -> Result<Answer, ApiError> {
    core.budget.deposit(core.now());
    let mut tried: Vec<Arc<Worker>> = Vec::new();
    let mut failure: Option<Failure> = None;
    loop {
        let now = core.now();
        let worker = match core.fleet.pick(model, &tried, now, rand::rng().random()) {
            Ok(worker) => Arc::clone(worker),
            Err(verdict) => return failure.map_or_else(|| Err(refusal(verdict, model)), Failure::into_result),
        };
        if let Some(failure) = failure.take() {
            if !core.budget.withdraw(now) {
                core.metrics.budget_exhausted.inc();
                return failure.into_result();
            }
            core.metrics.retries.with_label_values(&[failure.reason()]).inc();
        }
        let last = match attempt(core, admitted, &worker, call).await {
            Ok(answer) => return Ok(answer),
            Err(last) => last,
        };
        tried.push(worker);
        if tried.len() >= core.config.retry.attempts_max {
            return last.into_result();
        }
        failure = Some(last);
    }
}

fn refusal(verdict: Verdict, model: &str) -> ApiError {
    match verdict {
        Verdict::Unavailable { retry_after } => {
            ApiError::overloaded(format!("no worker can take requests for `{model}` now; try again"), retry_after)
        }
        Verdict::UnknownModel | Verdict::Worker(_) => ApiError::model_not_found(model),
    }
}

async fn attempt(core: &Core, admitted: &Admitted, worker: &Arc<Worker>, call: &Call) -> Result<Answer, Failure> {
    let ticket = core.metrics.ticket(worker);
    let response = match send(worker, admitted, call, core.config.head_timeout()).await {
        Ok(response) => response,
        Err(cause) => {
            tracing::warn!(worker = worker.name, cause = %Chain(&cause), "no answer from a worker");
            core.metrics.upstream_error(cause.kind());
            match cause {
                UpstreamError::Connect(_) => {
                    worker.mark_down();
                    core.metrics.worker_up(worker).set(0.0);
                }
                UpstreamError::Broken(_) | UpstreamError::Timeout(_) => worker.failed(core.now()),
            }
            return Err(Failure::Silent(cause));
        }
    };
    let status = response.status();
    if is_back_pressure(status) {
        // Full is not ill: the worker is left alone as long as it asks, and stays up.
        core.metrics.upstream_error("full");
        if let Some(wait) = retry_after(response.headers()) {
            worker.back_off(core.now(), wait);
        }
    } else if status.is_server_error() {
        core.metrics.upstream_error("status");
        worker.failed(core.now());
    } else {
        worker.succeeded();
    }
    let answer = Answer { response, ticket };
    if is_back_pressure(status) || matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) {
        return Err(Failure::Declined(answer));
    }
    Ok(answer)
}

/// The worker could answer, only not now.
fn is_back_pressure(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}
