//! From an admitted request to the beginning of an answer: pick, send, judge, and as long as the
//! client has no event, perhaps try again.

use crate::begin::{self, Beginning, Bounds};
use crate::config::RouterConfig;
use crate::core::Core;
use crate::fleet::{Picked, RETRY_AFTER, Refusal};
use crate::outcome::{Evidence, Fault, Outcome, Phase, Retry, outcome};
use crate::ticket::Ticket;
use crate::upstream::{Call, Patience, UpstreamBody, UpstreamError, clean_answer_headers, read_all, send};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use policy::Admitted;
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;
use wire::Chain;
use wire::openai::channels::ErrorClass;
use wire::openai::{ApiError, ErrorKind};

/// The largest error body of a worker that is relayed.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// How long a worker's error body may pause.
const ERROR_BODY_PATIENCE: Duration = Duration::from_secs(5);

/// The beginning of an answer, and the place at the worker that it holds.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<UpstreamBody>,
    pub(crate) ticket: Ticket,
}

/// The reason why there is no answer.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: ApiError,
    /// True if the request broke two workers: the client is asked not to send it again.
    pub(crate) is_poison: bool,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self { error, is_poison: false }
    }
}

/// A try that came to no answer.
struct Failure {
    outcome: Outcome,
    /// The client's answer if no other try follows.
    told: Told,
}

enum Told {
    /// The worker's own words.
    Worker(Box<Answer>),
    Ours(ApiError),
}

impl Failure {
    fn into_result(self) -> Result<Answer, Refused> {
        match self.told {
            Told::Worker(answer) => Ok(*answer),
            Told::Ours(error) => Err(error.into()),
        }
    }
}

/// A request under way through the fleet.
struct Dispatch<'a> {
    core: &'a Arc<Core>,
    admitted: &'a Admitted,
    config: &'a RouterConfig,
    model: &'a str,
    call: &'a Call,
    bounds: Bounds,
}

/// Sends the request to a worker; where that comes to nothing and another may do better, to
/// another, as far as the tries and the retry budget go.
///
/// # Errors
/// No worker has the model (404), none can take the request (503), or the last one broke off (502)
/// or was too slow (504). An answer that declines is an answer.
pub(crate) async fn dispatch(
    core: &Arc<Core>,
    config: &RouterConfig,
    admitted: &Admitted,
    model: &str,
    call: &Call,
    bounds: Bounds,
) -> Result<Answer, Refused> {
    Dispatch { core, admitted, config, model, call, bounds }.run().await
}

impl Dispatch<'_> {
    async fn run(&self) -> Result<Answer, Refused> {
        let core = self.core;
        core.budget.deposit(&self.config.retry, core.now());
        if self.is_poison() {
            return Err(Refused { error: poison(), is_poison: true });
        }
        let ask = self.call.ask(self.model, self.config.pick.load_max_over_mean);
        let mut tried = Vec::new();
        let mut failure: Option<Failure> = None;
        loop {
            let now = core.now();
            let picked = match core.fleet.pick(&ask, &tried, now, rand::rng().random()) {
                Ok(picked) => picked,
                Err(refusal) => return failure.map_or_else(|| Err(self.refused(refusal).into()), Failure::into_result),
            };
            if let Some(failure) = failure.take() {
                if failure.outcome.retry() != Retry::Free && !core.budget.withdraw(&self.config.retry, now) {
                    core.metrics.budget_exhausted.inc();
                    return failure.into_result();
                }
                core.metrics.retries.with_label_values(&[failure.outcome.label()]).inc();
            }
            tried.push(Arc::clone(&picked.member.worker));
            let last = match self.attempt(picked).await {
                Ok(answer) => return Ok(answer),
                Err(last) => last,
            };
            let may_go_on = self.may_go_on(last.outcome);
            if last.outcome.retry() == Retry::AnotherUnlessStruck && self.is_poison() {
                return Err(Refused { error: poison(), is_poison: true });
            }
            if tried.len() >= self.config.retry.attempts_max || !may_go_on {
                return last.into_result();
            }
            failure = Some(last);
        }
    }

    /// True if this request broke two workers within the last minute.
    fn is_poison(&self) -> bool {
        // Nearly always there are no strikes, and then a large body is not hashed.
        if self.core.strikes.lock().len() == 0 {
            return false;
        }
        let digest = self.core.digester.digest(&self.call.body);
        self.core.strikes.lock().is_poison(digest, self.core.now())
    }

    /// True if another worker may be tried; files a strike where the request may have broken one.
    fn may_go_on(&self, outcome: Outcome) -> bool {
        match outcome.retry() {
            Retry::Never | Retry::Fresh => false,
            Retry::Another | Retry::Free => true,
            Retry::AnotherUnlessStruck => {
                let digest = self.core.digester.digest(&self.call.body);
                let mut strikes = self.core.strikes.lock();
                let may = strikes.strike(digest, self.admitted.tenant(), self.core.now());
                #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
                self.core.metrics.strikes.set(strikes.len() as f64);
                may
            }
        }
    }

    fn refused(&self, refusal: Refusal) -> ApiError {
        match refusal {
            Refusal::Unavailable { retry_after } => {
                let message = format!("no worker can take requests for `{}` now; try again", self.model);
                ApiError::overloaded(message, retry_after)
            }
            Refusal::UnknownModel => ApiError::model_not_found(self.model),
        }
    }

    /// One try, with one more on a fresh connection where a reused one turned out to be closed.
    async fn attempt(&self, picked: Picked) -> Result<Answer, Failure> {
        let mut ticket = Ticket::take(self.core, picked, self.model, self.call);
        let patience = Patience { head: self.config.head_timeout(), stuck: self.config.stuck_after() };
        let worker = Arc::clone(&ticket.worker);
        ticket.reached(Phase::HeadSent);
        let mut sent = send(&worker, self.admitted, self.call, false, patience).await;
        let mut was_stale = false;
        if let Err(cause) = &sent
            && judge_silence(cause) == Outcome::Stale
        {
            was_stale = true;
            ticket.count(Outcome::Stale);
            sent = send(&worker, self.admitted, self.call, true, patience).await;
        }
        match sent {
            Ok(response) => self.read(ticket, response).await,
            Err(cause) => Err(self.silent(ticket, &cause, was_stale)),
        }
    }

    /// Judges a try without an answer.
    fn silent(&self, mut ticket: Ticket, cause: &UpstreamError, was_stale: bool) -> Failure {
        let (phase, transport) = cause.evidence();
        let mut outcome = ticket.judge(&Evidence { phase, transport: Some(transport), head: None, error: None });
        tracing::warn!(worker = ticket.worker.name, cause = %Chain(cause), outcome = outcome.label(), "a try failed");
        self.core.metrics.upstream_error(outcome.label());
        // A connection that closed under the request and then a worker that is gone: it may have
        // died of this request.
        if was_stale && outcome == Outcome::WorkerFault(Fault::Down) {
            outcome = Outcome::WorkerFault(Fault::Broke);
        }
        Failure { outcome, told: Told::Ours(error_of(outcome, None, self.config.head_timeout())) }
    }

    /// Reads the beginning of an answer whose head has arrived.
    async fn read(&self, mut ticket: Ticket, response: Response<UpstreamBody>) -> Result<Answer, Failure> {
        ticket.reached(Phase::FirstByte);
        let (mut parts, body) = response.into_parts();
        if parts.status != StatusCode::OK {
            return self.declined(ticket, parts, body).await;
        }
        let share = self.core.memory.share();
        let offload = &self.core.offload;
        match begin::begin(&parts.headers, body, (self.call.is_stream, self.call.answers), self.bounds, share, offload)
            .await
        {
            Beginning::Stream(body) => {
                clean_answer_headers(&mut parts.headers);
                Ok(Answer { response: Response::from_parts(parts, body), ticket })
            }
            Beginning::Whole(body) => {
                ticket.succeeded();
                clean_answer_headers(&mut parts.headers);
                Ok(Answer { response: Response::from_parts(parts, body), ticket })
            }
            Beginning::Error(class, body) => {
                parts.status = status_of(class);
                parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                let head = Some((parts.status, &parts.headers));
                let evidence = Evidence { phase: Phase::FirstByte, transport: None, head, error: Some(class) };
                let outcome = ticket.judge(&evidence);
                self.answer_or_failure(ticket, parts, body, outcome)
            }
            Beginning::Nothing(transport, why) => {
                let head = Some((parts.status, &parts.headers));
                let evidence = Evidence { phase: Phase::FirstByte, transport: Some(transport), head, error: None };
                let outcome = ticket.judge(&evidence);
                tracing::warn!(worker = ticket.worker.name, outcome = outcome.label(), why, "a try failed");
                self.core.metrics.upstream_error(outcome.label());
                let told = Told::Ours(error_of(outcome, Some(why), self.bounds.first_event));
                Err(Failure { outcome, told })
            }
        }
    }

    /// Judges an answer of another status than 200.
    async fn declined(
        &self,
        mut ticket: Ticket,
        parts: http::response::Parts,
        body: UpstreamBody,
    ) -> Result<Answer, Failure> {
        let read = read_all(body, ERROR_BYTES_MAX, ERROR_BODY_PATIENCE).await;
        let head = Some((parts.status, &parts.headers));
        let evidence = Evidence { phase: Phase::FirstByte, transport: None, head, error: None };
        let outcome = ticket.judge(&evidence);
        self.answer_or_failure(ticket, parts, read.unwrap_or_default(), outcome)
    }

    /// Turns a worker's error into an answer, or into a failure that another worker may better.
    fn answer_or_failure(
        &self,
        ticket: Ticket,
        mut parts: http::response::Parts,
        body: Bytes,
        outcome: Outcome,
    ) -> Result<Answer, Failure> {
        if !matches!(outcome, Outcome::RequestFault) {
            self.core.metrics.upstream_error(outcome.label());
        }
        clean_answer_headers(&mut parts.headers);
        parts.headers.remove(CONTENT_LENGTH);
        let body = words(body, &mut parts);
        // The worker speaks to the router here, and its words may quote the key.
        let is_ours_to_tell = matches!(outcome, Outcome::WorkerFault(Fault::Key | Fault::Gone | Fault::Garbage))
            || parts.status.as_u16() < 429 && matches!(outcome, Outcome::BackPressure { .. });
        if is_ours_to_tell {
            return Err(Failure { outcome, told: Told::Ours(error_of(outcome, None, Duration::ZERO)) });
        }
        let body = UpstreamBody::whole(body, Arc::clone(&ticket.worker));
        let answer = Answer { response: Response::from_parts(parts, body), ticket };
        if outcome == Outcome::RequestFault {
            return Ok(answer);
        }
        Err(Failure { outcome, told: Told::Worker(Box::new(answer)) })
    }
}

fn judge_silence(cause: &UpstreamError) -> Outcome {
    let (phase, transport) = cause.evidence();
    outcome(&Evidence { phase, transport: Some(transport), head: None, error: None })
}

/// The body of a worker's error if it is a JSON object, else an error that names the status: a
/// proxy's HTML page is of no use to a client of an API.
fn words(body: Bytes, parts: &mut http::response::Parts) -> Bytes {
    if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body).is_ok() {
        return body;
    }
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let kind = if parts.status.is_client_error() { ErrorKind::InvalidRequest } else { ErrorKind::BadGateway };
    ApiError::new(kind, format!("the worker answered {} without a word", parts.status)).to_json().into()
}

/// The status that an error inside an answer would have had.
const fn status_of(class: ErrorClass) -> StatusCode {
    match class {
        ErrorClass::Request => StatusCode::BAD_REQUEST,
        ErrorClass::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        ErrorClass::Server => StatusCode::BAD_GATEWAY,
    }
}

/// A request that broke two workers.
fn poison() -> ApiError {
    ApiError::new(ErrorKind::BadGateway, "this request broke off at two workers; change it before it is sent again")
}

/// The error that a client gets for a failed try.
fn error_of(outcome: Outcome, why: Option<&str>, limit: Duration) -> ApiError {
    let bad_gateway = |message: &str| ApiError::new(ErrorKind::BadGateway, why.unwrap_or(message));
    match outcome {
        Outcome::WorkerFault(Fault::Key) => {
            bad_gateway("the worker refuses this router's key; set `router.worker_api_key`")
        }
        Outcome::WorkerFault(Fault::Down) => ApiError::overloaded("no worker can be reached; try again", RETRY_AFTER),
        Outcome::WorkerFault(Fault::Gone) => {
            ApiError::overloaded("the worker does not serve this model on this path; try again", RETRY_AFTER)
        }
        Outcome::WorkerFault(Fault::Slow) => {
            let message = format!("the worker did not answer within {} s", limit.as_secs());
            ApiError::new(ErrorKind::UpstreamTimeout, why.map_or(message, str::to_owned))
        }
        Outcome::WorkerFault(Fault::Stuck) => bad_gateway("the worker fell silent; try again"),
        Outcome::WorkerFault(Fault::Garbage) => bad_gateway("the worker's answer was not one; try again"),
        Outcome::WorkerFault(Fault::Failed) => bad_gateway("the worker failed; try again"),
        Outcome::BackPressure { wait, .. } => {
            ApiError::overloaded("the worker cannot take the request now; try again", wait.unwrap_or(RETRY_AFTER))
        }
        Outcome::Ours if why.is_some() => bad_gateway(""),
        Outcome::Ours => ApiError::overloaded("this server has too many connections open; try again", RETRY_AFTER),
        Outcome::WorkerFault(Fault::Broke)
        | Outcome::Stale
        | Outcome::Success
        | Outcome::RequestFault
        | Outcome::ClientLeft => bad_gateway("the worker broke off before it answered; try again"),
    }
}
