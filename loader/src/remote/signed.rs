//! A source whose requests are signed by `object_store` and made by our own client: what Azure,
//! S3 and Google Cloud Storage have in common.
//!
//! The library finds credentials, renews them and signs; each read is signed anew, so credentials
//! that end during a load are replaced on the way. Bodies never pass through it
//! ([`capture`]). What each cloud's environment means is in `azure`, `s3` and `gcs`.

mod capture;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, ETAG, HeaderMap, LAST_MODIFIED};
use http::{Request, Response};
use object_store::path::Path;
use object_store::{BackoffConfig, GetOptions, GetRange, ObjectStore, RetryConfig};
use parking_lot::RwLock;
use wire::evidence::StoreChecksum;

use self::capture::Capture;
pub(super) use self::capture::Wire;
use super::http::{Client, HttpError, error_code, retry_after};
use crate::landing::Landing;
use crate::source::{Object, ReadOptions, Source, SourceError, Tag};

/// Answers to `HEAD` have no body; this much is read of what is none.
const HEAD_BODY_BYTES_MAX: usize = 16 << 10;
/// Codes by which stores say that credentials have ended, whatever the status.
const EXPIRED: [&str; 5] =
    ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAuthenticationInfo"];

/// Makes the library's store; called again when credentials have to be found anew.
pub(super) type Open = Box<dyn Fn(Wire) -> Result<Arc<dyn ObjectStore>, String> + Send + Sync>;

/// The differences between kinds of clouds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    /// The fix when a read is refused: the variables to set.
    pub(super) fix: &'static str,
    /// The field with an object's version.
    pub(super) version_field: &'static str,
    /// The field with the region in which a bucket is, if it is not the one that was asked.
    pub(super) region_field: Option<&'static str>,
    /// The digest of the whole object that the store vouches for.
    pub(super) checksum: fn(&HeaderMap) -> Option<StoreChecksum>,
}

/// The folder to open.
pub(super) struct Folder {
    /// The model's URL.
    pub(super) url: String,
    /// See [`Source::account`].
    pub(super) account: String,
    /// See [`Source::region`].
    pub(super) region: Option<String>,
    /// The objects' common beginning, without slashes at its ends.
    pub(super) prefix: String,
}

/// A model in a cloud's object storage.
pub(super) struct SignedSource {
    folder: Folder,
    dialect: Dialect,
    client: Client,
    wire: Wire,
    open: Open,
    opened: RwLock<Opened>,
}

/// The library's store, and how often it had to be opened. Zero: credentials have never worked.
#[derive(Clone)]
struct Opened {
    store: Arc<dyn ObjectStore>,
    generation: u64,
    has_signed: bool,
}

impl SignedSource {
    /// Opens a store. Nothing is asked of the network yet.
    ///
    /// # Errors
    /// [`SourceError::Config`]: the environment is contradictory or incomplete.
    pub(super) fn new(folder: Folder, dialect: Dialect, client: &Client, open: Open) -> Result<Self, SourceError> {
        let wire = Wire::new(client.clone());
        let store = open(wire.clone()).map_err(|problem| config(&folder, problem))?;
        let opened = RwLock::new(Opened { store, generation: 0, has_signed: false });
        Ok(Self { folder, dialect, client: client.clone(), wire, open, opened })
    }

    /// A signed request for `name`: a `HEAD`, or a `GET` of `part`.
    async fn sign(
        &self,
        opened: &Opened,
        name: &str,
        part: Option<(Range<u64>, &Tag)>,
    ) -> Result<Request<()>, SourceError> {
        let path = self.path(name)?;
        let capture = Capture::default();
        let mut options = GetOptions { head: part.is_none(), ..GetOptions::default() };
        options.extensions.insert(capture.clone());
        if let Some((range, tag)) = part {
            options.range = Some(GetRange::Bounded(range));
            options.if_match = tag.etag.clone().filter(|etag| !etag.starts_with("W/"));
        }
        let outcome = opened.store.get_opts(&path, options).await.map(|_| ());
        match (capture.take(), outcome) {
            (Some(request), _) => {
                if !opened.has_signed {
                    self.opened.write().has_signed = true;
                }
                Ok(request)
            }
            (None, outcome) => Err(self.unsigned(name, opened, outcome.err())),
        }
    }

    /// The error of a request that could not be signed.
    fn unsigned(&self, name: &str, opened: &Opened, error: Option<object_store::Error>) -> SourceError {
        let (url, name) = (self.folder.url.clone(), name.to_owned());
        let said = error.map_or_else(|| "no request was made".to_owned(), |error| redacted(&error.to_string()));
        match self.wire.take_trouble() {
            // Credentials that worked before will be had again; before that, most likely there are none.
            Some(trouble) if trouble.passing && opened.has_signed => {
                SourceError::Transient { url, name, problem: trouble.text, source: None }
            }
            Some(trouble) if trouble.passing => {
                SourceError::NoCredentials { url, name, problem: trouble.text, fix: self.dialect.fix.to_owned() }
            }
            Some(trouble) => SourceError::Denied { url, name, status: trouble.text, fix: self.dialect.fix.to_owned() },
            None => SourceError::Denied { url, name, status: said, fix: self.dialect.fix.to_owned() },
        }
    }

    fn path(&self, name: &str) -> Result<Path, SourceError> {
        let full = match self.folder.prefix.as_str() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        };
        Path::parse(&full)
            .map_err(|error| config(&self.folder, format!("`{full}` cannot be an object's name: {error}")))
    }

    /// Finds credentials anew, unless somebody has since `generation`.
    fn renew(&self, generation: u64) -> Result<Opened, SourceError> {
        let mut opened = self.opened.write();
        if opened.generation == generation {
            opened.store = (self.open)(self.wire.clone()).map_err(|problem| config(&self.folder, problem))?;
            opened.generation += 1;
        }
        Ok(opened.clone())
    }

    async fn head(&self, opened: &Opened, name: &str) -> Result<Response<Bytes>, SourceError> {
        let request = self.sign(opened, name, None).await?.map(|()| Bytes::new());
        let answer = self.client.send(request, HEAD_BODY_BYTES_MAX).await;
        answer.map_err(|error| self.told(error, name))
    }

    async fn read_once(
        &self,
        opened: &Opened,
        object: &Object,
        landing: &mut Landing,
        options: ReadOptions,
    ) -> Result<Result<(), HttpError>, SourceError> {
        let wanted = landing.position()..landing.range().end;
        let request = self.sign(opened, &object.name, Some((wanted, &object.tag))).await?;
        Ok(self.client.read_range(request, object, landing, options.fresh_connection).await.map(|_| ()))
    }

    fn told(&self, error: HttpError, name: &str) -> SourceError {
        error.about(&self.folder.url, name, self.dialect.fix)
    }

    /// The error of a `HEAD` that was not answered with 200.
    fn refused(&self, answer: &Response<Bytes>, name: &str) -> SourceError {
        let (status, headers) = (answer.status().as_u16(), answer.headers());
        let region = self.dialect.region_field.and_then(|field| text(headers, field));
        if let (300..=400, Some(region)) = (status, region) {
            return config(&self.folder, format!("the bucket is in region {region}; set AWS_REGION={region}"));
        }
        let code = error_code(headers, answer.body());
        let retry_after = retry_after(headers, std::time::SystemTime::now());
        self.told(
            HttpError::Refused { host: self.folder.account.clone(), status, code, retry_after, others: None },
            name,
        )
    }

    fn object(&self, name: &str, headers: &HeaderMap) -> Result<Object, SourceError> {
        let bytes = text(headers, CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());
        let bytes = bytes.ok_or_else(|| SourceError::Protocol {
            url: self.folder.url.clone(),
            name: name.to_owned(),
            problem: "an answer without a size".to_owned(),
        })?;
        let tag = Tag {
            etag: text(headers, ETAG.as_str()),
            version: text(headers, self.dialect.version_field),
            modified: text(headers, LAST_MODIFIED.as_str()),
        };
        Ok(Object { name: name.to_owned(), bytes, tag, checksum: (self.dialect.checksum)(headers) })
    }
}

#[async_trait]
impl Source for SignedSource {
    fn url(&self) -> &str {
        &self.folder.url
    }

    fn account(&self) -> &str {
        &self.folder.account
    }

    fn region(&self) -> Option<&str> {
        self.folder.region.as_deref()
    }

    async fn authenticate(&self) -> Result<(), SourceError> {
        let opened = self.opened.read().clone();
        self.sign(&opened, "any", None).await.map(drop)
    }

    async fn stat(&self, name: &str) -> Result<Object, SourceError> {
        let opened = self.opened.read().clone();
        let mut answer = self.head(&opened, name).await?;
        let code = error_code(answer.headers(), answer.body());
        // The answer to a HEAD has no body, so S3 cannot say why.
        if opened.has_signed && (is_expired(answer.status().as_u16(), code.as_deref()) || is_unexplained(&answer)) {
            answer = self.head(&self.renew(opened.generation)?, name).await?;
        }
        if answer.status().as_u16() != 200 {
            return Err(self.refused(&answer, name));
        }
        self.object(name, answer.headers())
    }

    async fn read(&self, object: &Object, landing: &mut Landing, options: ReadOptions) -> Result<(), SourceError> {
        while landing.remaining() > 0 {
            let opened = self.opened.read().clone();
            let mut outcome = self.read_once(&opened, object, landing, options).await?;
            if matches!(&outcome, Err(HttpError::Refused { status, code, .. }) if is_expired(*status, code.as_deref()))
            {
                let opened = self.renew(opened.generation)?;
                outcome = self.read_once(&opened, object, landing, options).await?;
            }
            outcome.map_err(|error| self.told(error, &object.name))?;
        }
        Ok(())
    }
}

impl fmt::Debug for SignedSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("SignedSource").field(&self.folder.url).finish()
    }
}

/// The library's retries to get credentials: reads it never makes. Three attempts within ten
/// seconds ride out a restart of a metadata agent; a longer trouble is the fetcher's to wait out.
pub(super) fn credentials_retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 2,
        retry_timeout: Duration::from_secs(10),
    }
}

/// The library's word on why it cannot be set up, without anything that may be secret.
pub(super) fn redacted(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match word.split_once('?') {
        Some((before, after)) if !after.is_empty() => format!("{before}?…"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Returns true if the store says that credentials have ended.
fn is_expired(status: u16, code: Option<&str>) -> bool {
    match status {
        401 => true,
        400 | 403 => code.is_some_and(|code| EXPIRED.contains(&code)),
        _ => false,
    }
}

/// Returns true if a refusal gives no reason, so that it may be ended credentials.
fn is_unexplained(answer: &Response<Bytes>) -> bool {
    matches!(answer.status().as_u16(), 400 | 403) && error_code(answer.headers(), answer.body()).is_none()
}

fn config(folder: &Folder, problem: String) -> SourceError {
    SourceError::Config { url: folder.url.clone(), problem }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_credentials_are_told_from_refused_ones() {
        assert!(is_expired(401, None));
        assert!(is_expired(400, Some("ExpiredToken")) && is_expired(403, Some("ExpiredToken")));
        assert!(!is_expired(403, Some("AccessDenied")) && !is_expired(403, None) && !is_expired(404, None));
    }

    #[test]
    fn a_query_is_never_repeated() {
        let told = redacted("Error performing GET http://h/x?sig=SECRET&b in 3 ms");
        assert_eq!(told, "Error performing GET http://h/x?… in 3 ms");
    }
}
