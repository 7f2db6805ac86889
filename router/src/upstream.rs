//! The one network hop: a request to a worker, its answer's head, and its body.

use crate::connections::{ConnectError, Connection};
use crate::fleet::Ask;
use crate::outcome::{Phase, Transport};
use crate::worker::Worker;
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT_ENCODING, ALT_SVC, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, ORIGIN,
    REFERER, SERVER, SET_COOKIE, STRICT_TRANSPORT_SECURITY, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use listen::Share;
use policy::{Admitted, Secret};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep_until};
use wire::headers::KEYS;
use wire::openai::ENDPOINTS;
use wire::openai::endpoint::Answers;

/// The largest list of models or status we read.
pub(crate) const MODELS_BYTES_MAX: usize = 1 << 20;
/// How soon a connection that was closed while idle says so after a request was written to it.
const CLOSED_UNUSED_WITHIN: Duration = Duration::from_secs(2);
/// How often a silent worker's health is looked at again.
const STUCK_LOOKS: Duration = Duration::from_millis(500);

/// A request as every worker would get it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The path, the same at the worker as here.
    pub(crate) path: &'static str,
    /// True if the client asked for a stream.
    pub(crate) is_stream: bool,
    /// The shape of answers.
    pub(crate) answers: Answers,
    /// The load that it is to a worker.
    pub(crate) load: u32,
    /// The hash of what its prompt begins with, where workers are picked by it.
    pub(crate) prefix: Option<u64>,
    /// The client's headers, as far as they are the worker's business.
    pub(crate) headers: HeaderMap,
    /// The client's body, byte for byte.
    pub(crate) body: Bytes,
}

impl Call {
    /// Its facts for a pick.
    pub(crate) fn ask<'a>(&self, model: &'a str, load_max_over_mean: f64) -> Ask<'a> {
        Ask { model, endpoint_bit: self.endpoint_bit(), prefix: self.prefix, load: self.load, load_max_over_mean }
    }

    /// The endpoint as one bit, for sets of endpoints.
    pub(crate) fn endpoint_bit(&self) -> u8 {
        endpoint_bit(self.path)
    }
}

/// A path as one bit; 0 for paths that are not relayed.
pub(crate) fn endpoint_bit(path: &str) -> u8 {
    ENDPOINTS.iter().position(|known| known.path() == path).map_or(0, |at| 1 << at)
}

/// How long a worker may be silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Until its answer begins.
    pub(crate) head: Duration,
    /// Until it is given up where health checks stay unanswered as well.
    pub(crate) stuck: Duration,
}

/// Errors before a worker's answer began.
#[derive(Debug, Error)]
pub(crate) enum UpstreamError {
    /// No connection: the request did not reach it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke before the answer began.
    #[error("waiting for the worker's answer")]
    Broken {
        /// True if a reused connection turned out to be closed.
        is_unused: bool,
        #[source]
        source: hyper::Error,
    },
    /// The answer did not begin in time.
    #[error("the worker's answer did not begin within {0:?}")]
    TimedOut(Duration),
    /// Neither the request nor health checks are answered.
    #[error("the worker is silent for {0:?}, to health checks too")]
    Stuck(Duration),
}

impl UpstreamError {
    /// The evidence it is for judging the try.
    pub(crate) const fn evidence(&self) -> (Phase, Transport) {
        match self {
            Self::Connect(ConnectError::Exhausted { .. }) => (Phase::NotBegun, Transport::Exhausted),
            Self::Connect(ConnectError::TimedOut { .. }) => (Phase::NotBegun, Transport::TimedOut),
            Self::Connect(_) => (Phase::NotBegun, Transport::Unreachable),
            Self::Broken { is_unused: true, .. } => (Phase::HeadSent, Transport::ClosedUnused),
            Self::Broken { is_unused: false, .. } => (Phase::HeadSent, Transport::Broken),
            Self::TimedOut(_) => (Phase::HeadSent, Transport::TimedOut),
            Self::Stuck(_) => (Phase::HeadSent, Transport::Stuck),
        }
    }
}

/// Sends an admitted request and waits for the answer's head. `is_fresh` asks for a new connection.
pub(crate) async fn send(
    worker: &Arc<Worker>,
    _admitted: &Admitted,
    call: &Call,
    is_fresh: bool,
    patience: Patience,
) -> Result<Response<UpstreamBody>, UpstreamError> {
    let mut request = Request::new(Full::new(call.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(call.path);
    *request.headers_mut() = call.headers.clone();
    exchange(worker, request, is_fresh, patience).await
}

/// One exchange with a worker, up to its answer's head.
pub(crate) async fn exchange(
    worker: &Arc<Worker>,
    mut request: Request<Full<Bytes>>,
    is_fresh: bool,
    patience: Patience,
) -> Result<Response<UpstreamBody>, UpstreamError> {
    let connections = &worker.connections;
    let mut connection = if is_fresh { connections.open().await? } else { connections.take().await? };
    if let Ok(host) = HeaderValue::from_str(connections.authority().as_str()) {
        request.headers_mut().insert(HOST, host);
    }
    let sent_at = Instant::now();
    let answer = patient(worker, patience, connection.sender.send_request(request)).await?;
    let is_reused = connection.is_reused;
    let response = answer.map_err(|source| {
        let is_unused = is_reused && !source.is_parse() && sent_at.elapsed() < CLOSED_UNUSED_WITHIN;
        UpstreamError::Broken { is_unused, source }
    })?;
    connection.note_hint(response.headers());
    Ok(response.map(|body| UpstreamBody::new(body, connection, Arc::clone(worker), patience.stuck)))
}

/// Waits for an answer's head as long as it makes sense.
async fn patient<F: Future>(worker: &Worker, patience: Patience, answer: F) -> Result<F::Output, UpstreamError> {
    tokio::pin!(answer);
    let begun = Instant::now();
    let deadline = begun + patience.head;
    let mut look = begun + patience.stuck;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer),
            () = sleep_until(look.min(deadline)) => {}
        }
        if begun.elapsed() >= patience.head {
            return Err(UpstreamError::TimedOut(patience.head));
        }
        if worker.is_silent() {
            return Err(UpstreamError::Stuck(begun.elapsed()));
        }
        look = Instant::now() + STUCK_LOOKS;
    }
}

/// Errors of reading an answer's body.
#[derive(Debug, Error)]
pub(crate) enum BodyError {
    #[error("reading the worker's answer")]
    Broken(#[source] hyper::Error),
    #[error("the worker fell silent for {0:?}, to health checks too")]
    Stuck(Duration),
}

/// The body of a worker's answer. Read to its end it gives its connection back; dropped before, the
/// connection is closed, which is how a worker learns that nobody reads on.
#[derive(Debug)]
pub(crate) struct UpstreamBody {
    /// Bytes that were read ahead.
    read: VecDeque<Bytes>,
    rest: Option<(Incoming, Connection)>,
    worker: Arc<Worker>,
    stuck: Duration,
    /// When the silence began; none while the worker is not waited for.
    silent_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl UpstreamBody {
    fn new(body: Incoming, connection: Connection, worker: Arc<Worker>, stuck: Duration) -> Self {
        let rest = Some((body, connection));
        Self { read: VecDeque::new(), rest, worker, stuck, silent_since: None, timer: None }
    }

    /// A body that is here as a whole.
    pub(crate) fn whole(bytes: Bytes, worker: Arc<Worker>) -> Self {
        let read = VecDeque::from([bytes]);
        Self { read, rest: None, worker, stuck: Duration::MAX, silent_since: None, timer: None }
    }

    /// The worker it comes from.
    pub(crate) fn worker(&self) -> Arc<Worker> {
        Arc::clone(&self.worker)
    }

    /// Puts back what was read, to be read again.
    pub(crate) fn unread(&mut self, pieces: Vec<Bytes>) {
        for piece in pieces.into_iter().rev() {
            self.read.push_front(piece);
        }
    }

    /// Fails where the worker is silent for too long, to health checks too.
    fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        loop {
            let first_look = since.checked_add(self.stuck).unwrap_or(since + Duration::from_secs(86_400));
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(first_look)));
            ready!(timer.as_mut().poll(cx));
            if self.worker.is_silent() && since.elapsed() >= self.stuck {
                return Poll::Ready(BodyError::Stuck(since.elapsed()));
            }
            let next = first_look.max(Instant::now() + STUCK_LOOKS);
            timer.as_mut().reset(next);
        }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let Some((body, _)) = &mut self.rest else { return Poll::Ready(None) };
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.silent_since = None;
                    // Trailers mean nothing to us.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(cause))) => {
                    self.rest = None;
                    return Poll::Ready(Some(Err(BodyError::Broken(cause))));
                }
                Poll::Ready(None) => {
                    if let Some((_, connection)) = self.rest.take() {
                        connection.release();
                    }
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    let stuck = ready!(self.poll_stuck(cx));
                    self.rest = None;
                    return Poll::Ready(Some(Err(stuck)));
                }
            }
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(piece) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        self.poll_rest(cx).map_ok(Frame::data)
    }
}

/// The headers for a worker: the client's, without those of this hop, its credentials (ours take
/// their place), its browser's, and its wish for compression (a screen reads plain text).
pub(crate) fn forwarded_headers(client: &HeaderMap, key: Option<&Secret>) -> HeaderMap {
    let mut headers = client.clone();
    strip_hop_by_hop(&mut headers);
    for name in [HOST, CONTENT_LENGTH, EXPECT, COOKIE, ACCEPT_ENCODING, ORIGIN, REFERER] {
        headers.remove(name);
    }
    for name in KEYS.iter().chain(&FOREIGN_KEYS) {
        headers.remove(*name);
    }
    authorize(&mut headers, key);
    headers
}

/// Headers in which clients of other services send what opens doors there; they open none here.
const FOREIGN_KEYS: [&str; 4] =
    ["x-goog-api-key", "ocp-apim-subscription-key", "x-forwarded-access-token", "x-amz-security-token"];

/// Removes headers of a worker that are not for clients: those of this hop, cookies, promises about
/// the transport, and permissions for browsers.
pub(crate) fn clean_answer_headers(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    for name in [SET_COOKIE, ALT_SVC, SERVER, STRICT_TRANSPORT_SECURITY, WWW_AUTHENTICATE] {
        headers.remove(name);
    }
    let foreign: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in foreign {
        headers.remove(name);
    }
}

/// Removes the headers that belong to one connection (RFC 9110, section 7.6.1).
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.into_iter().chain([CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE]) {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "http2-settings"] {
        headers.remove(name);
    }
}

/// Adds the workers' key.
pub(crate) fn authorize(headers: &mut HeaderMap, key: Option<&Secret>) {
    if let Some(mut value) = key.and_then(|key| HeaderValue::try_from(format!("Bearer {}", key.reveal())).ok()) {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
}

/// Errors of reading a body as a whole.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("the body exceeds {0} bytes")]
    TooLarge(usize),
    #[error("answers already hold all the memory there is for them")]
    NoMemory,
    #[error("the body broke off")]
    Broken(#[source] BodyError),
    #[error("the body paused for more than {0:?}")]
    Stalled(Duration),
}

impl ReadError {
    /// Its meaning for the try.
    pub(crate) const fn transport(&self) -> Transport {
        match self {
            Self::TooLarge(_) | Self::NoMemory => Transport::Exhausted,
            Self::Broken(BodyError::Stuck(_)) => Transport::Stuck,
            Self::Broken(BodyError::Broken(_)) => Transport::Broken,
            Self::Stalled(_) => Transport::TimedOut,
        }
    }
}

/// Reads a body to its end.
pub(crate) async fn read_all(body: UpstreamBody, bytes_max: usize, idle: Duration) -> Result<Bytes, ReadError> {
    read_while(body, bytes_max, idle, |_| true).await
}

/// Reads a body to its end, into memory that all such bodies share; it is free again when the last
/// of the bytes is dropped.
pub(crate) async fn read_shared(
    body: UpstreamBody,
    bytes_max: usize,
    idle: Duration,
    mut share: Share,
) -> Result<Bytes, ReadError> {
    let bytes = read_while(body, bytes_max, idle, |more| share.grow(more)).await?;
    Ok(share.hold(bytes))
}

async fn read_while(
    mut body: UpstreamBody,
    bytes_max: usize,
    idle: Duration,
    mut may_grow: impl FnMut(usize) -> bool,
) -> Result<Bytes, ReadError> {
    let mut whole = BytesMut::new();
    loop {
        let piece = match tokio::time::timeout(idle, body.frame()).await {
            Err(_) => return Err(ReadError::Stalled(idle)),
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Err(cause))) => return Err(ReadError::Broken(cause)),
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        if whole.len() + piece.len() > bytes_max {
            return Err(ReadError::TooLarge(bytes_max));
        }
        if !may_grow(piece.len()) {
            return Err(ReadError::NoMemory);
        }
        whole.extend_from_slice(&piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn credentials_and_hop_by_hop_headers_stay_here() {
        let client = headers(&[
            ("authorization", "Bearer sk-client"),
            ("authorization", "Bearer sk-second"),
            ("api-key", "sk-client"),
            ("x-api-key", "sk-client"),
            ("x-goog-api-key", "sk-client"),
            ("cookie", "a=b"),
            ("origin", "https://app.example"),
            ("connection", "keep-alive, x-private"),
            ("x-private", "1"),
            ("transfer-encoding", "chunked"),
            ("accept-encoding", "gzip"),
            ("proxy-authorization", "Basic a"),
            ("x-custom", "kept"),
            ("traceparent", "kept"),
        ]);
        let sent = forwarded_headers(&client, Some(&Secret::new("sk-worker")));
        assert_eq!(sent.len(), 3, "{sent:?}");
        assert_eq!(sent["authorization"], "Bearer sk-worker");
        assert_eq!((&sent["x-custom"], &sent["traceparent"]), (&client["x-custom"], &client["traceparent"]));
    }

    #[test]
    fn a_workers_sessions_promises_and_permissions_stay_here() {
        let mut answer = headers(&[
            ("content-type", "application/json"),
            ("set-cookie", "session=1"),
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("server", "uvicorn"),
            ("strict-transport-security", "max-age=1"),
            ("www-authenticate", "Bearer"),
            ("x-ratelimit-limit-requests", "7"),
        ]);
        clean_answer_headers(&mut answer);
        assert_eq!(names(&answer), ["content-type", "x-ratelimit-limit-requests"]);
    }
}
