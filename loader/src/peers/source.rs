//! A peer as a source: whole extents of the manifest's files.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use http::header::{HeaderValue, RANGE};
use wire::extent::EXTENT_BYTES;
use wire::peers::{Resource, range_header};

use super::ledger::Ledger;
use super::request::Asked;
use crate::landing::Landing;
use crate::remote::http::HttpError;
use crate::source::{Object, ReadOptions, Source, SourceError, Tag};

/// The fix when a peer refuses.
const DENIED: &str = "check the peer's `peers.allow`, and the names in this process's certificate";

/// Hears of members that took an extent: the extent's place in its file, the file, and the members' ids.
pub(super) type OnTaken = Arc<dyn Fn(u32, u64, Vec<String>) + Send + Sync>;

/// A peer as a source.
pub(super) struct PeerSource {
    asked: Asked,
    /// The places of files in the manifest.
    files: Arc<BTreeMap<String, u32>>,
    on_taken: OnTaken,
    /// Hears of bytes that it brought.
    noted: Option<(Arc<Ledger>, String)>,
}

impl PeerSource {
    pub(super) fn new(asked: Asked, files: Arc<BTreeMap<String, u32>>, on_taken: OnTaken) -> Self {
        Self { asked, files, on_taken, noted: None }
    }

    /// The same as a member of a fleet, in whose ledger its bytes are noted.
    pub(super) fn noted_in(self, ledger: Arc<Ledger>, id: &str) -> Self {
        Self { noted: Some((ledger, id.to_owned())), ..self }
    }

    /// Notes the verified bytes of a read that began at `from`.
    fn note(&self, from: u64, landing: &Landing) {
        let Some((ledger, id)) = &self.noted else { return };
        let is_whole = landing.remaining() == 0;
        let to = if is_whole { landing.position() } else { landing.position() / EXTENT_BYTES * EXTENT_BYTES };
        ledger.brought(id, to.saturating_sub(from), Instant::now());
    }

    fn protocol(&self, object: &Object, problem: &str) -> SourceError {
        SourceError::Protocol { url: self.asked.url.clone(), name: object.name.clone(), problem: problem.to_owned() }
    }

    /// The error that a refusal is. What it says of others is passed on.
    fn about(&self, error: HttpError, object: &Object, file: u32, extent: u64) -> SourceError {
        let (url, name) = (self.asked.url.clone(), object.name.clone());
        match error {
            HttpError::Refused { status: 503, others: Some(others), .. } => {
                let retry_after = others.retry_after;
                if others.members.is_empty() {
                    return SourceError::Throttled { url, name, status: 503, retry_after: Some(retry_after) };
                }
                (self.on_taken)(file, extent, others.members);
                SourceError::Taken { url, name, retry_after }
            }
            // It may have it later: others ask for it meanwhile.
            HttpError::Refused { status: 409, .. } => {
                let problem = "it lacks an extent that it said it has".to_owned();
                SourceError::Transient { url, name, problem, source: None }
            }
            error => error.about(&url, &name, DENIED),
        }
    }
}

impl fmt::Debug for PeerSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.asked.url)
    }
}

#[async_trait]
impl Source for PeerSource {
    fn url(&self) -> &str {
        &self.asked.url
    }

    fn account(&self) -> &str {
        &self.asked.url
    }

    async fn stat(&self, name: &str) -> Result<Object, SourceError> {
        // Sizes are the manifest's: a peer is never asked for one.
        Err(SourceError::NotFound { url: self.asked.url.clone(), name: name.to_owned() })
    }

    async fn read(&self, object: &Object, landing: &mut Landing, options: ReadOptions) -> Result<(), SourceError> {
        let not_found = || SourceError::NotFound { url: self.asked.url.clone(), name: object.name.clone() };
        let file = *self.files.get(&object.name).ok_or_else(not_found)?;
        // Nothing of the origin's pins it: digests do.
        let bare = Object { tag: Tag::default(), checksum: None, ..object.clone() };
        while landing.remaining() > 0 {
            if !landing.position().is_multiple_of(EXTENT_BYTES) {
                return Err(self.protocol(object, "it ended within an extent"));
            }
            let extents = landing.position() / EXTENT_BYTES..landing.range().end.div_ceil(EXTENT_BYTES);
            let first = extents.start;
            let range = range_header(extents, object.bytes);
            let range = range.and_then(|range| HeaderValue::from_str(&range).ok());
            let range = range.ok_or_else(|| self.protocol(object, "more extents than one request may ask for"))?;
            let read = async {
                let mut request = self.asked.get(Resource::File(file))?;
                request.headers_mut().insert(RANGE, range);
                self.asked.client().read_range(request, &bare, landing, options.fresh_connection).await
            };
            let read = read.await;
            self.note(first * EXTENT_BYTES, landing);
            read.map_err(|error| self.about(error, object, file, first))?;
        }
        Ok(())
    }
}
