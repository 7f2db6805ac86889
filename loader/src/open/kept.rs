//! A source in front of another: objects that the cache holds are read from there, and from nowhere
//! else. Without the other source it serves a whole model while nothing can be reached.
//!
//! Files of the cache were verified when they were finished, and are compared by name, size and tag with
//! those that the store has now: so a header that describes verified bytes is read from those bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::cache::journal::Identity;
use crate::cache::{Finished, Kept};
use crate::landing::Landing;
use crate::probe::speaks_for_others;
use crate::remote::LocalSource;
use crate::source::{Object, ReadOptions, Source, SourceError};

/// A model of the cache before its store, or instead of it.
#[derive(Debug)]
pub(super) struct KeptSource {
    url: String,
    account: String,
    inner: Option<Arc<dyn Source>>,
    objects: BTreeMap<String, Object>,
    files: LocalSource,
    /// While it lives, nobody removes the model.
    _finished: Finished,
}

impl KeptSource {
    /// The model `kept` of the URL; `inner` is asked what objects are now, and read for those that
    /// are others than the cache has.
    pub(super) fn new(url: String, kept: Kept, inner: Option<Arc<dyn Source>>) -> Self {
        let account = inner.as_ref().map_or_else(|| "cache".to_owned(), |inner| inner.account().to_owned());
        let objects = kept.objects.into_iter().map(|object| (object.name.clone(), object)).collect();
        let files = LocalSource::new(kept.finished.directory.clone());
        Self { url, account, inner, objects, files, _finished: kept.finished }
    }

    /// Returns true if the cache holds this very version of an object. Of two URLs with one content it has
    /// the proofs of one, so these are its own only where nothing else can be asked.
    fn holds(&self, object: &Object) -> bool {
        if self.inner.is_some() && speaks_for_others(&object.name) {
            return false;
        }
        let is_same = |kept: &Object| {
            // A version may be that of a whole repository; the store's digest of the object decides.
            let has_digest = kept.checksum.is_some() && kept.checksum == object.checksum && kept.bytes == object.bytes;
            has_digest || Identity::of(kept) == Identity::of(object)
        };
        self.objects.get(&object.name).is_some_and(is_same)
    }

    fn unreachable(&self, name: &str) -> SourceError {
        let problem =
            format!("offline, and the cache does not hold `{name}`; run `forebay pull {}` online first", self.url);
        SourceError::Config { url: self.url.clone(), problem }
    }
}

#[async_trait]
impl Source for KeptSource {
    fn url(&self) -> &str {
        &self.url
    }

    fn region(&self) -> Option<&str> {
        self.inner.as_ref()?.region()
    }

    fn account(&self) -> &str {
        &self.account
    }

    async fn authenticate(&self) -> Result<(), SourceError> {
        match &self.inner {
            Some(inner) => inner.authenticate().await,
            None => Ok(()),
        }
    }

    async fn stat(&self, name: &str) -> Result<Object, SourceError> {
        match &self.inner {
            Some(inner) => inner.stat(name).await,
            None => self.objects.get(name).cloned().ok_or_else(|| {
                let (url, name) = (self.url.clone(), name.to_owned());
                SourceError::NotFound { url, name }
            }),
        }
    }

    async fn read(&self, object: &Object, landing: &mut Landing, options: ReadOptions) -> Result<(), SourceError> {
        if self.holds(object)
            && let Ok(file) = self.files.stat(&object.name).await
            && file.bytes == object.bytes
        {
            return self.files.read(&file, landing, options).await;
        }
        match &self.inner {
            Some(inner) => inner.read(object, landing, options).await,
            None => Err(self.unreachable(&object.name)),
        }
    }
}
