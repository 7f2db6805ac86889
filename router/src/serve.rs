//! The sentence: identify, read, lease, decide, pick and send, relay.

use crate::access::{identify, reject};
use crate::account::{About, Account};
use crate::begin;
use crate::config::RouterConfig;
use crate::core::{Core, Settings};
use crate::cost::{choices, estimate, max_tokens};
use crate::dispatch::{Refused, dispatch};
use crate::hold;
use crate::load::load_of;
use crate::meter::{Meter, Slot};
use crate::observed::Observed;
use crate::prefix;
use crate::relay::{Bounds, Relay};
use crate::screened::Gate;
use crate::upstream::{Call, forwarded_headers};
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use listen::{Access, RequestId};
use policy::{Admitted, Cost, Facts, Identified, Limits, Obligation, Reservation};
use std::borrow::Cow;
use std::sync::Arc;
use tokio::time::Instant;
use tracing::Instrument;
use wire::headers::{
    ANNOTATIONS, CACHE_SALT, EXPLAIN, IGNORED, RATELIMIT_LIMIT_REQUESTS, RATELIMIT_LIMIT_TOKENS,
    RATELIMIT_REMAINING_REQUESTS, RATELIMIT_REMAINING_TOKENS, RATELIMIT_RESET_REQUESTS, RATELIMIT_RESET_TOKENS,
    SHOULD_RETRY,
};
use wire::openai::scan::{Limits as ScanLimits, Scan, scan};
use wire::openai::splice::{Edit, splice};
use wire::openai::{ApiError, CHAT, COMPLETIONS, EMBEDDINGS, Endpoint, ask_for_usage};

/// `POST /v1/chat/completions`.
pub(crate) async fn chat(State(core): State<Arc<Core>>, request: Request) -> Response {
    answer(core, &CHAT, request).await
}

/// `POST /v1/embeddings`.
pub(crate) async fn embeddings(State(core): State<Arc<Core>>, request: Request) -> Response {
    answer(core, &EMBEDDINGS, request).await
}

/// `POST /v1/completions`.
pub(crate) async fn completions(State(core): State<Arc<Core>>, request: Request) -> Response {
    answer(core, &COMPLETIONS, request).await
}

async fn answer(core: Arc<Core>, endpoint: &'static Endpoint, request: Request) -> Response {
    let observed = Observed::begin(endpoint, request.headers(), Access::of(&request));
    let span = observed.span.clone();
    let mut meter = Meter::begin(&core.metrics, observed);
    let mut told = Told::default();
    let admission = admit(&core, endpoint, request, &mut meter, &mut told);
    // Boxed: the future of a whole request is large, and axum moves it about.
    let mut response = match Box::pin(admission.instrument(span.clone())).await {
        Ok(asked) => {
            let is_stream = asked.call.is_stream;
            let comment_interval = asked.settings.config.comment_interval();
            let work = Box::pin(fulfil(Arc::clone(&core), asked, meter, span.clone()).instrument(span.clone()));
            if is_stream {
                hold::stream(work, comment_interval, &core.drain).await
            } else {
                hold::whole(work, &core.drain).await
            }
        }
        Err(error) => {
            meter.ended(error.kind.status());
            listen::error_response(&error)
        }
    };
    told.write(&mut response);
    response
}

/// Everything from the pick to the beginning of the client's answer.
async fn fulfil(core: Arc<Core>, asked: Asked, mut meter: Meter, span: tracing::Span) -> Response {
    let Asked { settings, admitted, mut account, model, choices, is_padded, call, slot, keeps_usage, explains } = asked;
    meter.observed.asked(call.is_stream, choices);
    account.sent();
    let config = &settings.config;
    match dispatch(&core, config, &admitted, &model, &call, beginning(config)).await {
        Ok(answer) => {
            meter.observed.worker(&answer.ticket.worker.name);
            let why = answer.ticket.why;
            let gate = Gate::new(admitted, choices, (call.answers, keeps_usage));
            let gate = if is_padded { gate.padded(rand::random()) } else { gate };
            let bounds = bounds(config);
            let offload = Arc::clone(&core.offload);
            let relay = Relay { answer, gate, meter, slot, account, bounds, offload, is_stream: call.is_stream, span };
            let (mut response, account) = relay.respond().await;
            // A worker's word for it is nobody's.
            response.headers_mut().remove(EXPLAIN);
            if let Some(why) = explains.then(|| HeaderValue::try_from(why.to_string()).ok()).flatten() {
                response.headers_mut().insert(EXPLAIN, why);
            }
            match account {
                Some(account) if is_refunded(response.status()) => give_back(account, &mut response),
                Some(mut account) => {
                    account.refused();
                    account.ended(response.status().as_u16());
                }
                None => {}
            }
            response
        }
        Err(Refused { error, is_poison }) => {
            meter.ended(error.kind.status());
            let mut response = listen::error_response(&error);
            if is_poison {
                account.ended(response.status().as_u16());
                response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            } else {
                give_back(account, &mut response);
            }
            response
        }
    }
}

/// Nobody answered: the request was never made.
fn give_back(mut account: Account, response: &mut Response) {
    account.ended(response.status().as_u16());
    let limits = account.refund();
    response.extensions_mut().insert(limits);
}

/// True if an answer of this status was none, for no fault of the client's.
fn is_refunded(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// A request that may be dispatched.
struct Asked {
    /// The configuration that it was admitted under.
    settings: Arc<Settings>,
    admitted: Admitted,
    account: Account,
    model: String,
    choices: usize,
    /// True if the events of its stream are padded.
    is_padded: bool,
    call: Call,
    slot: Slot,
    /// True if the worker was asked for a count of tokens that the client did not ask for.
    keeps_usage: bool,
    /// True if the client asks why this worker was picked.
    explains: bool,
}

/// Everything before the first byte to a worker. The key is checked before the body is read, and a
/// place is taken before, too: neither strangers nor a crowd make us hold bodies.
async fn admit(
    core: &Arc<Core>,
    endpoint: &'static Endpoint,
    request: Request,
    meter: &mut Meter,
    told: &mut Told,
) -> Result<Asked, ApiError> {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    if core.drain.is_refusing() {
        return Err(hold::shutting_down());
    }
    let settings = core.settings();
    let who = identify(core, &settings, &parts.headers, &parts.extensions)?;
    meter.observed.tenant(who.tenant());
    let slot = core.slots.take().ok_or_else(|| {
        let most = settings.config.in_flight_max;
        let message = format!("{most} requests are being answered, the most this server takes");
        ApiError::overloaded(message, crate::fleet::RETRY_AFTER)
    })?;
    let mut body = core.bodies.read(&parts.headers, body).await?;
    let mut headers = forwarded_headers(&parts.headers, settings.config.worker_api_key.as_ref());
    // Only a worker may say what it ignored.
    headers.remove(IGNORED);
    let explains = headers.remove(EXPLAIN).is_some_and(|value| value == "1");
    // Each tenant has its own prefix cache at the workers; a client's word for another's is overwritten.
    // Hexadecimal is always a header's value.
    headers.insert(CACHE_SALT, HeaderValue::from_str(who.salt()).unwrap_or(HeaderValue::from_static("")));
    let work = {
        let (core, settings, body) = (Arc::clone(core), Arc::clone(&settings), body.clone());
        move || examine(&core, &settings, endpoint, &who, &body)
    };
    let Examined { known, result } = core.offload.run(body.len(), work).await;
    if let Some(model) = &known.model {
        meter.set_model(model);
    }
    told.limits = known.limits;
    if let Some(version) = settings.policy.version(&body) {
        meter.observed.decided(version.as_str());
    }
    let Examination { scan, model, admitted, reservation, cost, usage_edit, choices, prefix } = result?;
    let is_padded = scan.include_obfuscation(&body);
    let about = About {
        begun,
        request_id: parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default(),
        tenant: admitted.tenant().to_owned(),
        model: model.clone(),
        endpoint: endpoint.name,
    };
    let account = Account::new(core, about, reservation, cost.prompt);
    let keeps_usage = usage_edit.is_some();
    let mut edits: Vec<Edit> = usage_edit.into_iter().collect();
    for obligation in admitted.obligations() {
        match obligation {
            Obligation::Rewrite(rewrites) => {
                core.metrics.rewrites.inc();
                edits.extend_from_slice(rewrites);
            }
            Obligation::Annotate(label) => told.annotate(core, label),
        }
    }
    if !edits.is_empty() {
        edits.sort_by_key(|edit| edit.span);
        body = core.bodies.hold(splice(&body, &edits).concat().into())?;
    }
    if !told.labels.is_empty() {
        meter.observed.annotated(&told.labels);
    }
    telemetry::trace::inject(&mut headers);
    let load = load_of(body.len(), max_tokens(&scan, endpoint), choices);
    let (path, answers) = (endpoint.path(), endpoint.answers);
    let call = Call { path, is_stream: scan.stream(), answers, load, prefix, headers, body };
    Ok(Asked { settings, admitted, account, model, choices, is_padded, call, slot, keeps_usage, explains })
}

/// A request whose body was read.
struct Examined {
    known: Known,
    result: Result<Examination, ApiError>,
}

/// Facts that hold for refused requests, too.
#[derive(Default)]
struct Known {
    /// The model, if a worker ever named it.
    model: Option<String>,
    limits: Limits,
}

/// A body that was read and admitted.
struct Examination {
    scan: Scan,
    model: String,
    admitted: Admitted,
    reservation: Reservation,
    choices: usize,
    prefix: Option<u64>,
    cost: Cost,
    /// The edit by which the worker counts tokens, where limits do and the client does not ask.
    usage_edit: Option<Edit>,
}

/// Reads a body and decides over it: all that takes time in proportion to it.
fn examine(core: &Core, settings: &Settings, endpoint: &'static Endpoint, who: &Identified, body: &Bytes) -> Examined {
    let mut known = Known::default();
    let result = known.examine(core, settings, endpoint, who, body);
    Examined { known, result }
}

impl Known {
    fn examine(
        &mut self,
        core: &Core,
        settings: &Settings,
        endpoint: &'static Endpoint,
        who: &Identified,
        body: &Bytes,
    ) -> Result<Examination, ApiError> {
        let Settings { config, policy } = settings;
        let scan = scan(body, endpoint, &ScanLimits::default())?;
        self.limits = policy.limits(who, core.now());
        let fleet = core.fleet.snapshot();
        let model = scan.model(body).map(Cow::into_owned).or_else(|| fleet.only_model().map(str::to_owned));
        let model = model
            .ok_or_else(|| ApiError::invalid("model", "`model` is required; GET /v1/models lists what is here"))?;
        // Known first: what nobody has here costs its tenant nothing.
        if !policy.may_use(who, &model) {
            return Err(ApiError::model_not_found(&model));
        }
        if fleet.knows(&model) {
            self.model = Some(model.clone());
        } else if !fleet.may_know(&model) {
            return Err(ApiError::model_not_found(&model));
        }
        let choices = choices(&scan);
        let cost = estimate(&scan, endpoint, choices, policy.assumed_max_tokens());
        let needs = policy.needs(who, &model, cost);
        let reservation = policy.lease(&needs, core.now()).map_err(|rejection| {
            self.limits = rejection.limits().unwrap_or_default();
            reject(core, rejection)
        })?;
        self.limits = reservation.limits();
        let facts = Facts { who, endpoint, body, scan: &scan };
        let admitted = policy.decide(&facts).map_err(|rejection| reject(core, rejection))?;
        let usage_edit = (needs.counts_tokens() || core.ledger.is_some()).then(|| ask_for_usage(body, &scan)).flatten();
        let prefix = prefix::of(&config.pick, &scan, body, endpoint, &model, who.tenant());
        Ok(Examination { scan, model, admitted, reservation, choices, prefix, cost, usage_edit })
    }
}

/// Headers that the client gets beside its answer.
#[derive(Default)]
struct Told {
    limits: Limits,
    /// The labels of its prompt.
    labels: String,
}

impl Told {
    fn annotate(&mut self, core: &Core, label: &str) {
        core.metrics.annotations.with_label_values(&[label]).inc();
        if !self.labels.is_empty() {
            self.labels.push_str(", ");
        }
        self.labels.push_str(label);
    }

    fn write(&self, response: &mut Response) {
        let given_back = response.extensions_mut().remove::<Limits>();
        let headers = response.headers_mut();
        write_limits(headers, given_back.unwrap_or(self.limits));
        // A worker's word for it is nobody's.
        headers.remove(ANNOTATIONS);
        if let Some(labels) = HeaderValue::try_from(&self.labels).ok().filter(|labels| !labels.is_empty()) {
            headers.insert(ANNOTATIONS, labels);
        }
    }
}

/// A worker's own limits, where it has any, concern this router alone; ours take their place.
fn write_limits(headers: &mut HeaderMap, limits: Limits) {
    let requests = [RATELIMIT_LIMIT_REQUESTS, RATELIMIT_REMAINING_REQUESTS, RATELIMIT_RESET_REQUESTS];
    let tokens = [RATELIMIT_LIMIT_TOKENS, RATELIMIT_REMAINING_TOKENS, RATELIMIT_RESET_TOKENS];
    for ([limit, remaining, reset], rest) in [(requests, limits.requests), (tokens, limits.tokens)] {
        let Some(rest) = rest else { continue };
        headers.insert(limit, rest.limit.into());
        headers.insert(remaining, rest.remaining.into());
        if let Ok(text) = HeaderValue::from_str(&rest.reset_text()) {
            headers.insert(reset, text);
        }
    }
}

fn beginning(config: &RouterConfig) -> begin::Bounds {
    begin::Bounds {
        event_bytes_max: config.event_bytes_max,
        answer_bytes_max: config.answer_bytes_max,
        first_event: config.first_event_timeout(),
        idle: config.idle_timeout(),
    }
}

fn bounds(config: &RouterConfig) -> Bounds {
    Bounds {
        idle: config.idle_timeout(),
        event_bytes_max: config.event_bytes_max,
        answer_bytes_max: config.answer_bytes_max,
    }
}
