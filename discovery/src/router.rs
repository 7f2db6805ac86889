//! The fleet view of a router: the workers that serve weights to peers.

use crate::config::BaseUrl;
use crate::http::{HttpError, Server};
use crate::source::{Answer, Ask};
use crate::view::{ViewError, answer};
use bytes::Bytes;
use http::header::{AUTHORIZATION, ETAG, HOST, HeaderValue, IF_NONE_MATCH};
use http::{Request, StatusCode};
use http_body_util::Empty;
use listen::ClientTls;
use std::time::Duration;
use thiserror::Error;
use wire::fleet::{FLEET_BYTES_MAX, FLEET_PATH};

/// Errors of asking a router.
#[derive(Debug, Error)]
pub(crate) enum RouterError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("asking {authority} for its workers: no answer within {timeout:?}")]
    TimedOut { authority: String, timeout: Duration },
    #[error("asking {authority} for its workers: it does not take our key; routers and workers share one")]
    Refused { authority: String },
    #[error("asking {authority} for its workers: it answered {status}")]
    Status { authority: String, status: StatusCode },
    #[error("asking {authority} for its workers")]
    View {
        authority: String,
        #[source]
        source: ViewError,
    },
}

/// A router.
#[derive(Debug)]
pub(crate) struct Router {
    authority: String,
    server: Server,
    /// The whole header; marked as sensitive.
    key: Option<HeaderValue>,
    timeout: Duration,
    last: Option<(HeaderValue, Answer)>,
}

impl Router {
    pub(crate) fn new(url: BaseUrl, key: Option<HeaderValue>, tls: Option<ClientTls>, timeout: Duration) -> Self {
        let server = Server::new(url.host, url.port, tls.filter(|_| url.is_tls));
        Self { authority: url.authority, server, key, timeout, last: None }
    }

    async fn look(&mut self) -> Result<Answer, RouterError> {
        let request = self.request();
        let response = self.server.ask(request, FLEET_BYTES_MAX).await?;
        let authority = || self.authority.clone();
        match (response.status(), &self.last) {
            (StatusCode::OK, _) => {
                let found = answer(response.body());
                let found = found.map_err(|source| RouterError::View { authority: authority(), source })?;
                self.last = response.headers().get(ETAG).map(|tag| (tag.clone(), found.clone()));
                Ok(found)
            }
            (StatusCode::NOT_MODIFIED, Some((_, found))) => Ok(found.clone()),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                Err(RouterError::Refused { authority: authority() })
            }
            (status, _) => Err(RouterError::Status { authority: authority(), status }),
        }
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = http::Uri::from_static(FLEET_PATH);
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(&self.authority) {
            headers.insert(HOST, host);
        }
        if let Some(key) = &self.key {
            headers.insert(AUTHORIZATION, key.clone());
        }
        if let Some((tag, _)) = &self.last {
            headers.insert(IF_NONE_MATCH, tag.clone());
        }
        request
    }
}

impl Ask for Router {
    type Error = RouterError;

    async fn ask(&mut self) -> Result<Answer, RouterError> {
        let (authority, timeout) = (self.authority.clone(), self.timeout);
        let look = tokio::time::timeout(timeout, self.look()).await;
        look.unwrap_or(Err(RouterError::TimedOut { authority, timeout }))
    }
}
