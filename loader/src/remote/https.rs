//! A model on any web server: `https://HOST/PREFIX/`, and `http://` where the network is trusted.
//!
//! It sends no credentials. What pins an object is its entity tag or, where the server has none,
//! its date.

use std::net::IpAddr;

use async_trait::async_trait;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName};
use http::header::{LAST_MODIFIED, RANGE};
use http::response::Parts;
use http::{Method, Request, StatusCode};
use url::{Host, Url};

use super::http::{Client, HttpError, head};
use super::name::encoded;
use crate::landing::Landing;
use crate::source::{Object, ReadOptions, Source, SourceError, Tag};

/// The fix when a server wants credentials.
const DENIED: &str = "a plain https:// URL is read without credentials; allow anonymous reading, or use the store's own \
                      URL (az://, s3://, gs://, hf://)";

/// Objects under a URL of a web server.
#[derive(Debug)]
pub struct HttpsSource {
    url: String,
    account: String,
    client: Client,
}

impl HttpsSource {
    /// The objects under `url`, taken as a directory. Warns of plain HTTP beyond this machine.
    ///
    /// # Errors
    /// [`SourceError::Config`]: the URL is not of the web, or has a user, a password, a query or a
    /// fragment.
    pub fn new(url: Url, client: Client) -> Result<Self, SourceError> {
        let mut shown = url.clone();
        let _ = (shown.set_username(""), shown.set_password(None));
        shown.set_query(None);
        shown.set_fragment(None);
        let extra = shown != url;
        let mut url = shown.to_string();
        let fail = |problem: &str| Err(SourceError::Config { url: shown.to_string(), problem: problem.to_owned() });
        let (Some(host), true) = (shown.host_str(), matches!(shown.scheme(), "http" | "https")) else {
            return fail("not an http:// or https:// URL with a host");
        };
        if extra {
            return fail("a model's URL is a plain prefix: leave user, password, query and fragment out");
        }
        if shown.scheme() == "http" && !is_loopback(&shown) {
            tracing::warn!(%url, "reading a model over plain HTTP: whoever is on the way can change it; use https://");
        }
        if !url.ends_with('/') {
            url.push('/');
        }
        let account = shown.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Ok(Self { url, account, client })
    }

    fn object_url(&self, name: &str) -> Result<String, SourceError> {
        let path = encoded(name).ok_or_else(|| SourceError::Config {
            url: self.url.clone(),
            problem: format!("`{name}` leads out of the model's directory"),
        })?;
        Ok(format!("{}{path}", self.url))
    }

    fn request(&self, method: Method, name: &str) -> Result<Request<()>, SourceError> {
        let request = Request::builder().method(method).uri(self.object_url(name)?).header(ACCEPT_ENCODING, "identity");
        request.body(()).map_err(|error| SourceError::Config { url: self.url.clone(), problem: error.to_string() })
    }

    /// The object that the head of an answer describes.
    fn object(&self, name: &str, parts: &Parts, bytes: u64) -> Result<Object, SourceError> {
        let wrong = |problem: &str| SourceError::Protocol {
            url: self.url.clone(),
            name: name.to_owned(),
            problem: problem.to_owned(),
        };
        if parts.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(wrong("the server encodes it; switch its compression off for this object"));
        }
        let field = |name: HeaderName| Some(parts.headers.get(name)?.to_str().ok()?.to_owned());
        let tag = Tag { etag: field(ETAG), version: None, modified: field(LAST_MODIFIED) };
        if tag.etag.is_none() && tag.modified.is_none() {
            let problem = format!(
                "the server sends neither ETag nor Last-Modified with `{name}`, so that nobody would notice if it \
                 changed while it is read; switch one of them on"
            );
            return Err(SourceError::Config { url: self.url.clone(), problem });
        }
        Ok(Object { name: name.to_owned(), bytes, tag, checksum: None })
    }

    /// Asks for the first byte, of servers that do not answer `HEAD` with a length.
    async fn stat_by_reading(&self, name: &str) -> Result<Object, SourceError> {
        let mut request = self.request(Method::GET, name)?;
        request.headers_mut().insert(RANGE, http::HeaderValue::from_static("bytes=0-0"));
        let parts = self.client.head(request, true).await.map_err(|error| self.about(error, name))?;
        let told = parts.headers.get(CONTENT_RANGE).map(|value| value.as_bytes());
        let bytes = match parts.status {
            StatusCode::PARTIAL_CONTENT => told.and_then(head::content_range).and_then(|(_, total)| total),
            StatusCode::RANGE_NOT_SATISFIABLE => told.and_then(head::unsatisfied_range),
            StatusCode::OK => content_length(&parts.headers),
            _ => None,
        };
        let unknown = || SourceError::Protocol {
            url: self.url.clone(),
            name: name.to_owned(),
            problem: "the server does not tell its size".to_owned(),
        };
        self.object(name, &parts, bytes.ok_or_else(unknown)?)
    }

    fn about(&self, error: HttpError, name: &str) -> SourceError {
        error.about(&self.url, name, DENIED)
    }
}

#[async_trait]
impl Source for HttpsSource {
    fn url(&self) -> &str {
        &self.url
    }

    fn account(&self) -> &str {
        &self.account
    }

    async fn stat(&self, name: &str) -> Result<Object, SourceError> {
        let answer = self.client.head(self.request(Method::HEAD, name)?, true).await;
        match answer {
            // The length of any other answer is its own and not the object's.
            Ok(parts) => match content_length(&parts.headers).filter(|_| parts.status == StatusCode::OK) {
                Some(bytes) => self.object(name, &parts, bytes),
                None => self.stat_by_reading(name).await,
            },
            Err(error) if matches!(error.status(), Some(405 | 501)) => self.stat_by_reading(name).await,
            Err(error) => Err(self.about(error, name)),
        }
    }

    async fn read(&self, object: &Object, landing: &mut Landing, options: ReadOptions) -> Result<(), SourceError> {
        while landing.remaining() > 0 {
            let request = self.request(Method::GET, &object.name)?;
            let outcome = self.client.read_range(request, object, landing, options.fresh_connection).await;
            outcome.map_err(|error| self.about(error, &object.name))?;
        }
        Ok(())
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Returns true if what is sent to `url` stays on this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::http::HttpConfig;
    use super::*;

    fn source(url: &str) -> Result<HttpsSource, SourceError> {
        HttpsSource::new(url.parse().expect("a URL"), Client::new(&HttpConfig::default()).expect("a client"))
    }

    #[test]
    fn a_url_is_a_prefix() {
        let source = source("https://store.example:8443/models/tiny").expect("a source");
        assert_eq!((source.url(), source.account()), ("https://store.example:8443/models/tiny/", "store.example:8443"));
        let object = source.object_url("a/b c.bin").expect("a URL");
        assert_eq!(object, "https://store.example:8443/models/tiny/a/b%20c.bin");
        assert!(source.object_url("../secret").is_err());
    }

    #[test]
    fn a_url_with_a_secret_is_refused_and_not_repeated() {
        for url in ["https://me:secret@store.example/", "https://store.example/?sig=secret", "file:///secret"] {
            let error = source(url).expect_err("refused").to_string();
            assert!(url.starts_with("file") || !error.contains("secret"), "{error}");
        }
    }
}
