//! A finished model of the cache: its files are open, and kept from eviction, only while they are asked for.

use loader::Content;
use loader::cache::Cache;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use wire::digest::Digest;

/// The time for which files stay open that nobody asks for: within a load they are asked for all the time, and opening
/// them again costs less than a millisecond.
const REST_AFTER: Duration = Duration::from_secs(3);

/// A model of the cache.
#[derive(Debug)]
pub(super) struct Cached {
    cache: Cache,
    root: Digest,
    /// It stands for the files that were proven as wholes, and for no others.
    is_attested: bool,
    opened: Mutex<Option<Opened>>,
}

#[derive(Debug)]
struct Opened {
    content: Arc<Content>,
    used: Instant,
}

impl Cached {
    /// A model and its files, which are closed again when they are let go. None where it is not there, or cannot be read.
    pub(super) async fn look(cache: &Cache, root: Digest) -> Option<(Arc<Self>, Arc<Content>)> {
        let cached = Self { cache: cache.clone(), root, is_attested: false, opened: Mutex::default() };
        let content = cached.find().await?;
        Some((Arc::new(cached), content))
    }

    /// Its files that were proven as wholes.
    pub(super) fn attested(&self) -> Arc<Self> {
        let (cache, root) = (self.cache.clone(), self.root);
        Arc::new(Self { cache, root, is_attested: true, opened: Mutex::default() })
    }

    /// Its files, open from now on.
    pub(super) async fn open(&self) -> Option<Arc<Content>> {
        let mut opened = self.opened.lock().await;
        if let Some(opened) = &mut *opened {
            opened.used = Instant::now();
            return Some(Arc::clone(&opened.content));
        }
        let content = self.find().await?;
        *opened = Some(Opened { content: Arc::clone(&content), used: Instant::now() });
        Some(content)
    }

    /// Closes its files if they were not asked for lately. A body under way keeps them.
    pub(super) fn rest(&self, now: Instant) {
        if let Ok(mut opened) = self.opened.try_lock() {
            opened.take_if(|opened| now.saturating_duration_since(opened.used) >= REST_AFTER);
        }
    }

    async fn find(&self) -> Option<Arc<Content>> {
        let finished = self.cache.finished(self.root).await;
        let found =
            finished.inspect_err(|error| tracing::warn!(root = %self.root, %error, "reading the cache")).ok()??;
        let opened = tokio::task::spawn_blocking(move || Content::of_finished(found)).await.ok()?;
        let opened = opened.inspect_err(|error| tracing::warn!(root = %self.root, %error, "opening a cached model"));
        let content = opened.ok()?;
        if self.is_attested {
            content.attested().map(|(_, content)| Arc::new(content))
        } else {
            Some(Arc::new(content))
        }
    }
}
