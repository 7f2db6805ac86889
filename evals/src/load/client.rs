//! One HTTP exchange, timed. The connections are kept and reused, as a client's would be.

use super::answer::{ANSWER_BYTES_MAX, Fault, StreamedAnswer, error_detail, take_whole};
use super::args::LoadArgs;
use super::event::{Outcome, RequestEvent};
use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use std::error::Error;
use std::time::{Duration, Instant};
use wire::openai::models::ModelList;

/// The most bytes of an error response that are read for its message.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// The run's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that is at zero now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start; 584 years fit.
    #[must_use]
    pub fn now_ns(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The connections to a server, plain or with TLS.
#[derive(Debug, Clone)]
enum Connections {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Connections {
    fn new(tls: Option<&ClientConfig>, idle_max: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(idle_max);
        let Some(tls) = tls else { return Self::Plain(builder.build(connector)) };
        connector.enforce_http(false);
        let mut tls = tls.clone();
        // The connector names the protocols itself.
        tls.alpn_protocols.clear();
        let tls = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1();
        Self::Tls(builder.build(tls.wrap_connector(connector)))
    }

    fn request(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        match self {
            Self::Plain(client) => client.request(request),
            Self::Tls(client) => client.request(request),
        }
    }
}

/// The server under test.
#[derive(Debug, Clone)]
pub(super) struct Target {
    client: Connections,
    models: Uri,
    completions: Uri,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    stream: bool,
}

impl Target {
    pub(super) fn new(base_url: &str, args: &LoadArgs) -> anyhow::Result<Self> {
        let tls = match &args.tls {
            Some(tls) if base_url.starts_with("https://") => Some(&**tls),
            None if base_url.starts_with("https://") => bail!("a server at an https:// URL needs settings of TLS"),
            _ => None,
        };
        let authorization =
            args.api_key.as_ref().map(|key| HeaderValue::from_str(&format!("Bearer {key}"))).transpose();
        Ok(Self {
            client: Connections::new(tls, args.max_in_flight as usize),
            models: format!("{base_url}/v1/models").parse().context("making the models URL")?,
            completions: format!("{base_url}/v1/chat/completions").parse().context("making the completions URL")?,
            authorization: authorization.context("the API key holds a character that no header may hold")?,
            timeout: args.timeout,
            stream: !args.no_stream,
        })
    }

    /// The first model that the server lists.
    pub(super) async fn first_model(&self) -> anyhow::Result<String> {
        let list = async {
            let response = self.client.request(self.request(Method::GET, &self.models, Bytes::new())).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("reading the body: {error}"))?.to_bytes();
            if !status.is_success() {
                bail!("{}", error_detail(status.as_u16(), &body));
            }
            Ok(serde_json::from_slice::<ModelList>(&body)?)
        };
        let list = tokio::time::timeout(self.timeout, list)
            .await
            .map_err(anyhow::Error::from)
            .and_then(|list| list)
            .with_context(|| {
                format!("asking {} for its models (is the server up? name one with --model)", self.models)
            })?;
        match list.data.into_iter().next() {
            Some(model) => Ok(model.id),
            None => bail!("{} lists no model", self.models),
        }
    }

    /// Sends one request and reads its whole answer, for at most the time limit.
    pub(super) async fn send(&self, clock: Clock, index: u64, intended_ns: u64, body: Bytes) -> RequestEvent {
        let mut event = RequestEvent::planned(index, intended_ns);
        event.sent_ns = Some(clock.now_ns());
        // The event is filled in as things happen, so a timeout keeps what came before it.
        let result = match tokio::time::timeout(self.timeout, self.exchange(clock, body, &mut event)).await {
            Ok(result) => result,
            Err(_) => Err(Fault(Outcome::Timeout, format!("not over after {:?}", self.timeout))),
        };
        event.end_ns = Some(clock.now_ns());
        match result {
            Ok(()) => event.outcome = Outcome::Ok,
            Err(Fault(outcome, detail)) => (event.outcome, event.detail) = (outcome, Some(detail)),
        }
        event
    }

    async fn exchange(&self, clock: Clock, body: Bytes, event: &mut RequestEvent) -> Result<(), Fault> {
        let request = self.request(Method::POST, &self.completions, body);
        let response = self.client.request(request).await.map_err(|error| {
            let outcome = if error.is_connect() { Outcome::Connect } else { Outcome::ConnectionLost };
            Fault(outcome, with_causes(&error))
        })?;
        event.headers_ns = Some(clock.now_ns());
        let status = response.status().as_u16();
        event.status = Some(status);
        if let Some(outcome) = Outcome::of_status(status) {
            let body = Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            return Err(Fault(outcome, error_detail(status, &body)));
        }
        if self.stream {
            read_stream(clock, response, event).await
        } else {
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| Fault(Outcome::Truncated, with_causes(error.as_ref())))?.to_bytes();
            take_whole(clock.now_ns(), &body, event)
        }
    }

    fn request(&self, method: Method, uri: &Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }
}

async fn read_stream(clock: Clock, response: Response<Incoming>, event: &mut RequestEvent) -> Result<(), Fault> {
    let mut body = response.into_body();
    let mut answer = StreamedAnswer::new();
    while let Some(frame) = body.frame().await {
        let now_ns = clock.now_ns();
        let frame = frame.map_err(|error| Fault(Outcome::Truncated, with_causes(&error)))?;
        if let Some(bytes) = frame.data_ref() {
            answer.push(now_ns, bytes, event)?;
        }
    }
    answer.finish(event)
}

fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
