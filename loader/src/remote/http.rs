//! An HTTP/1.1 client for weights: many sockets, and bodies received straight into their
//! destination.
//!
//! General clients hand a body out in buffers of their own, which costs a copy of every byte and
//! much of its time; and they multiplex one connection where many are faster. This one reads
//! ranges into a [`Landing`] ([`Client::read_range`]) and does small requests on the side
//! ([`Client::send`]). It knows no store and no retries; cancelling is dropping.

mod body;
mod config;
mod connect;
mod connection;
mod error;
mod exchange;
pub mod head;
mod metrics;
mod part;
mod pool;
mod proxy;
mod refusal;
mod request;
mod stream;
mod target;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::LOCATION;
use http::response::Parts;
use http::{Method, Request, Response, StatusCode};
use telemetry::metrics::Registry;

use super::Env;
use crate::landing::Landing;
use crate::source::{Object, SourceError};
use connect::Connector;
use exchange::{Answer, Failure};
use metrics::Metrics;
use pool::{Bounds, Pool};
use proxy::Proxies;
use target::Target;

pub use config::HttpConfig;
pub use connect::CurrentTls;
pub use error::HttpError;
pub use refusal::{error_code, retry_after};
pub(crate) use stream::AnswerStream;

/// The client. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    config: HttpConfig,
    connector: Connector,
    pool: Pool,
    metrics: Metrics,
}

impl Client {
    /// A client without connections yet.
    ///
    /// # Errors
    /// [`SourceError::Config`]: the configured certification authorities cannot be read.
    pub fn new(config: &HttpConfig) -> Result<Self, SourceError> {
        Self::metered(config, &Registry::default())
    }

    /// [`Client::new`] whose connections are shown in `registry`.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn metered(config: &HttpConfig, registry: &Registry) -> Result<Self, SourceError> {
        Self::in_env(config, &Env::default(), registry)
    }

    /// [`Client::metered`] that goes through the proxies which the environment names.
    ///
    /// # Errors
    /// As [`Client::new`]. A proxy that is not spoken to is an error of the requests that would go through it.
    pub fn in_env(config: &HttpConfig, env: &Env, registry: &Registry) -> Result<Self, SourceError> {
        let connector = Connector::new(config, None, Proxies::from_env(env)).map_err(about_set_up)?;
        Ok(Self::over(config, connector, Metrics::new(registry)))
    }

    /// A client beside this one, with connections of its own, that trusts the certification authorities
    /// in a PEM file as well.
    ///
    /// # Errors
    /// [`SourceError::Config`]: the file cannot be read.
    pub fn trusting(&self, authorities: &Path) -> Result<Self, SourceError> {
        let Shared { config, connector, metrics, .. } = &*self.shared;
        let connector = Connector::new(config, Some(authorities), connector.proxies().clone()).map_err(about_set_up)?;
        Ok(Self::over(config, connector, metrics.clone()))
    }

    /// A client beside this one, with connections of its own, that dials one address whatever the URL says: the URL's
    /// host is the name that the certificate there must hold.
    pub(crate) fn dialling(&self, config: &HttpConfig, host: &str, port: u16, tls: CurrentTls) -> Self {
        Self::over(config, Connector::to_address(host, port, tls), self.shared.metrics.clone())
    }

    fn over(config: &HttpConfig, connector: Connector, metrics: Metrics) -> Self {
        let bounds = Bounds {
            in_use_max: config.connections_per_host_max,
            idle_max: config.pool_idle_max,
            idle_timeout: config.pool_idle_timeout(),
        };
        Self { shared: Arc::new(Shared { config: config.clone(), connector, pool: Pool::new(bounds), metrics }) }
    }

    /// Does one small request: metadata, tokens, listings. The answer is given whatever its status
    /// is; redirections are not followed.
    ///
    /// # Errors
    /// There is no answer, or its body is longer than `body_max` bytes.
    pub async fn send(&self, request: Request<Bytes>, body_max: usize) -> Result<Response<Bytes>, HttpError> {
        let mut answer = self.open(&request, false).await?;
        let body = answer.collect(body_max).await?;
        let parts = self.finish(answer);
        Ok(Response::from_parts(parts, body.into()))
    }

    /// [`Client::send`] that follows redirections, without taking credentials to another host.
    ///
    /// # Errors
    /// As [`Client::send`]; or there are too many redirections.
    pub async fn send_following(
        &self,
        mut request: Request<Bytes>,
        body_max: usize,
    ) -> Result<Response<Bytes>, HttpError> {
        for _ in 0..=self.shared.config.redirects_max {
            let answer = self.send(request.clone(), body_max).await?;
            if !request::is_redirection(answer.status()) {
                return Ok(answer);
            }
            follow_to(&mut request, &answer.into_parts().0)?;
        }
        Err(self.too_many_redirections())
    }

    /// Asks for an answer's head alone: a `HEAD`, or a `GET` whose body does not matter. With
    /// `follow`, redirections are followed; without, one is an answer like another.
    ///
    /// # Errors
    /// As [`Client::send`]; and [`HttpError::Refused`] for a status of 400 or more, except 416,
    /// whose head tells a size.
    pub async fn head(&self, request: Request<()>, follow: bool) -> Result<Parts, HttpError> {
        let mut request = request.map(|()| Bytes::new());
        for _ in 0..=self.shared.config.redirects_max {
            let mut answer = self.open(&request, false).await?;
            let status = answer.head.status;
            if status.as_u16() >= 400 && status != StatusCode::RANGE_NOT_SATISFIABLE {
                let error = self.refused(&mut answer).await;
                self.finish(answer);
                return Err(error);
            }
            if answer.is_short(self.shared.config.error_body_bytes_max) {
                answer.collect(self.shared.config.error_body_bytes_max).await?;
            }
            let parts = self.finish(answer);
            if !follow || !request::is_redirection(status) {
                return Ok(parts);
            }
            follow_to(&mut request, &parts)?;
        }
        Err(self.too_many_redirections())
    }

    /// Reads the rest of `landing`'s range of `object` into it, on condition that the object is
    /// still what was pinned, and gives the answer's head. `request` is a `GET` whose `Range` and
    /// `If-Match` are added here, unless it brings its own because they are signed. Redirections
    /// are followed. `fresh` takes no connection from the pool.
    ///
    /// A server may answer with the beginning of the range only (RFC 9110 §15.3.7): then at least one
    /// byte has landed, and the caller asks for the rest.
    ///
    /// # Errors
    /// See [`HttpError`]; what has landed stays landed. Nothing is tried twice, except on a new
    /// connection if one from the pool turns out to be closed.
    pub async fn read_range(
        &self,
        request: Request<()>,
        object: &Object,
        landing: &mut Landing,
        fresh: bool,
    ) -> Result<Parts, HttpError> {
        let wanted = landing.position()..landing.range().end;
        if wanted.is_empty() {
            return Err(HttpError::Config { problem: "a read of no bytes needs no request".to_owned() });
        }
        let mut request = request.map(|()| Bytes::new());
        request::add_range(request.headers_mut(), &wanted, &object.tag);
        for _ in 0..=self.shared.config.redirects_max {
            let mut answer = self.open(&request, fresh).await?;
            if request::is_redirection(answer.head.status) {
                answer.collect(self.shared.config.error_body_bytes_max).await?;
                follow_to(&mut request, &self.finish(answer))?;
                continue;
            }
            return match self.receive(&mut answer, object, landing, &wanted).await {
                // A refusal's body was read, so its connection is as good as before.
                Err(error @ HttpError::Refused { .. }) => {
                    self.finish(answer);
                    Err(error)
                }
                outcome => outcome.map(|()| self.finish(answer)),
            };
        }
        Err(self.too_many_redirections())
    }

    /// Begins to read an answer that need not end. A status other than 200 is an error.
    ///
    /// # Errors
    /// As [`Client::send`]; [`HttpError::Refused`].
    pub(crate) async fn stream(&self, request: Request<()>) -> Result<AnswerStream, HttpError> {
        let mut answer = self.open(&request.map(|()| Bytes::new()), false).await?;
        match answer.head.status {
            StatusCode::OK => Ok(AnswerStream::new(answer)),
            _ => Err(self.refused(&mut answer).await),
        }
    }

    /// The number of idle connections.
    #[must_use]
    pub fn idle_connections(&self) -> usize {
        self.shared.pool.idle()
    }

    async fn receive(
        &self,
        answer: &mut Answer,
        object: &Object,
        landing: &mut Landing,
        wanted: &Range<u64>,
    ) -> Result<(), HttpError> {
        match answer.head.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                let sent = part::check(&answer.head, answer.framing, object, wanted)?;
                answer.land(landing, sent.end).await
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Err(part::unsatisfied(&answer.head.headers, object)),
            StatusCode::PRECONDITION_FAILED => {
                let tag = object.tag.etag.as_deref().or(object.tag.modified.as_deref()).unwrap_or("no tag");
                Err(HttpError::Changed { detail: format!("it is no longer {tag}") })
            }
            _ => Err(self.refused(answer).await),
        }
    }

    /// The error that an answer is.
    async fn refused(&self, answer: &mut Answer) -> HttpError {
        let within = self.shared.config.first_byte_timeout();
        let body = answer.beginning(self.shared.config.error_body_bytes_max, within).await;
        HttpError::refused(&answer.target.to_string(), answer.head.status, &answer.head.headers, &body)
    }

    /// Sends a request and awaits the head of its answer, on a connection from the pool or, if
    /// there is none or it turns out to be closed, on a new one.
    async fn open(&self, request: &Request<Bytes>, fresh: bool) -> Result<Answer, HttpError> {
        let Shared { config, connector, pool, metrics } = &*self.shared;
        let target = Target::of(request.uri())?;
        let in_use = metrics.in_use(pool.permit(&target).await);
        if !fresh && request::is_repeatable(request.method()) {
            let pooled = pool.take(&target, Instant::now(), connection::Connection::is_quiet);
            metrics.idle.set(pool.idle() as f64);
            if let Some(connection) = pooled {
                match exchange::exchange(connection, request, &target, config).await {
                    Ok(answer) => return Ok(answer.holding(in_use)),
                    Err(Failure::Stale(_)) => {}
                    Err(Failure::Other(error)) => return Err(error),
                }
            }
        }
        let connection = connector.connect(&target, config).await?;
        metrics.made.inc();
        let answer = exchange::exchange(connection, request, &target, config).await;
        answer.map(|answer| answer.holding(in_use)).map_err(|failure| failure.on_new_connection(&target))
    }

    /// Puts the connection of a finished answer into the pool, if it can be used again.
    fn finish(&self, answer: Answer) -> Parts {
        let (parts, target, connection) = answer.into_parts();
        if let Some(connection) = connection {
            self.shared.pool.put(&target, connection, Instant::now());
            self.shared.metrics.idle.set(self.shared.pool.idle() as f64);
        }
        parts
    }

    fn too_many_redirections(&self) -> HttpError {
        let problem = format!("more than {} redirections", self.shared.config.redirects_max);
        HttpError::Config { problem }
    }
}

/// The error of a client that cannot be made.
fn about_set_up(error: HttpError) -> SourceError {
    error.about("reading over HTTP", "", "")
}

/// Turns `request` to where `answer` points.
fn follow_to(request: &mut Request<Bytes>, answer: &Parts) -> Result<(), HttpError> {
    let to = request::redirected(request.uri(), answer.headers.get(LOCATION))?;
    let (from_target, to_target) = (Target::of(request.uri())?, Target::of(&to)?);
    request::strip_credentials(request.headers_mut(), &from_target, &to_target);
    *request.uri_mut() = to;
    let method = request.method();
    if answer.status == StatusCode::SEE_OTHER && method != Method::GET && method != Method::HEAD {
        *request.method_mut() = Method::GET;
        *request.body_mut() = Bytes::new();
    }
    Ok(())
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "an HTTP client with {} idle connections", self.idle_connections())
    }
}
