//! One HTTP exchange, timed. The connections are kept and reused, as a client's would be.

use super::answer::{ANSWER_BYTES_MAX, Fault, StreamedAnswer, error_detail, take_whole};
use super::event::{Outcome, RequestEvent};
use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
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

/// The server under test.
#[derive(Debug, Clone)]
pub(super) struct Target {
    client: Client<HttpConnector, Full<Bytes>>,
    models: Uri,
    completions: Uri,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    stream: bool,
}

impl Target {
    pub(super) fn new(
        base_url: &str,
        api_key: Option<&str>,
        timeout: Duration,
        stream: bool,
        connections_max: u32,
    ) -> anyhow::Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(connections_max as usize).build(connector);
        let authorization = api_key.map(|key| HeaderValue::from_str(&format!("Bearer {key}"))).transpose();
        Ok(Self {
            client,
            models: format!("{base_url}/v1/models").parse().context("making the models URL")?,
            completions: format!("{base_url}/v1/chat/completions").parse().context("making the completions URL")?,
            authorization: authorization.context("the API key holds a character that no header may hold")?,
            timeout,
            stream,
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
