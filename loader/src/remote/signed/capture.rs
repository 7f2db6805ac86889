//! The library's way to the network: requests for objects are kept instead of sent, requests for
//! credentials are made with our own client.
//!
//! A general client copies each body at least once on its way to the caller. Here the library
//! signs, and whoever asked takes the signed request and receives its body where it belongs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Request;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use parking_lot::Mutex;
use thiserror::Error;

use crate::remote::http::{self as transport, Client};

/// The most a credential service may answer: the longest tokens are a few KiB.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// The time that a credential service may take: the metadata service of a machine answers within
/// milliseconds, and where there is none, waiting for it only delays the error that says so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The place of a signed request. It travels through the library as an extension of the request.
#[derive(Clone, Default)]
pub(super) struct Capture {
    request: Arc<Mutex<Option<Request<()>>>>,
}

impl Capture {
    /// The signed request, if it came that far.
    pub(super) fn take(&self) -> Option<Request<()>> {
        self.request.lock().take()
    }
}

/// The library's answer when its request was kept: never shown.
#[derive(Debug, Error)]
#[error("signed and kept")]
struct Kept;

/// The reason why credentials could not be got, as seen on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// The service and its answer. No body, no query: they may hold secrets.
    pub(super) text: String,
    /// True if it may pass.
    pub(super) passing: bool,
}

/// Connects the library to our client.
#[derive(Clone)]
pub(in crate::remote) struct Wire {
    client: Client,
    trouble: Arc<Mutex<Option<Trouble>>>,
}

impl Wire {
    pub(super) fn new(client: Client) -> Self {
        Self { client, trouble: Arc::default() }
    }

    /// The last trouble with credentials, once.
    pub(super) fn take_trouble(&self) -> Option<Trouble> {
        self.trouble.lock().take()
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a wire")
    }
}

impl HttpConnector for Wire {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        Ok(HttpClient::new(Service { wire: self.clone(), plain }))
    }
}

#[derive(Debug)]
struct Service {
    wire: Wire,
    /// True if the library means plain HTTP to be used, as it does for metadata services.
    plain: bool,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        if let Some(capture) = parts.extensions.remove::<Capture>() {
            *capture.request.lock() = Some(Request::from_parts(parts, ()));
            return Err(HttpError::new(HttpErrorKind::Unknown, Kept));
        }
        let host = parts.uri.host().unwrap_or_default().to_owned();
        let body = body.as_bytes().cloned().unwrap_or_else(Bytes::new);
        let request = Request::from_parts(parts, body);
        match self.ask(request, &host).await {
            Ok(answer) => {
                let status = answer.status();
                if !status.is_success() {
                    let passing = status.is_server_error() || status.as_u16() == 429;
                    let text = format!("{host} answered {} when asked for credentials", status.as_u16());
                    *self.wire.trouble.lock() = Some(Trouble { text, passing });
                }
                Ok(answer)
            }
            Err((trouble, kind)) => {
                let unanswered = Unanswered(trouble.text.clone());
                *self.wire.trouble.lock() = Some(trouble);
                Err(HttpError::new(kind, unanswered))
            }
        }
    }
}

/// No answer of a credential service.
#[derive(Debug, Error)]
#[error("{0}")]
struct Unanswered(String);

impl Service {
    async fn ask(&self, request: Request<Bytes>, host: &str) -> Result<HttpResponse, (Trouble, HttpErrorKind)> {
        if !self.plain && request.uri().scheme_str() != Some("https") && !is_loopback(host) {
            let text = format!("{host} is not asked for credentials over plain HTTP; give its https URL");
            return Err((Trouble { text, passing: false }, HttpErrorKind::Unknown));
        }
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.wire.client.send(request, ANSWER_BYTES_MAX)).await;
        let (text, kind) = match answer {
            Ok(Ok(answer)) => {
                let (parts, body) = answer.into_parts();
                return Ok(HttpResponse::from_parts(parts, body.into()));
            }
            Ok(Err(error @ transport::HttpError::Connect { .. })) => (error.to_string(), HttpErrorKind::Connect),
            Ok(Err(error @ transport::HttpError::TimedOut { .. })) => (error.to_string(), HttpErrorKind::Timeout),
            Ok(Err(error)) => (error.to_string(), HttpErrorKind::Interrupted),
            Err(_) => (format!("{host} gave no answer in {} s", ANSWER_TIMEOUT.as_secs()), HttpErrorKind::Timeout),
        };
        Err((Trouble { text: format!("asking for credentials: {text}"), passing: true }, kind))
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
