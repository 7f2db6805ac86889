//! Makes landed bytes durable behind the load's back: one thread for each load.
//!
//! Writing begins as soon as an extent landed, so that little is left to wait for after the last.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::error::CacheError;
use super::journaled::Journaled;
use super::lock::Lock;
use super::metrics::{Failure, Metrics};
use crate::region::begin_writeback;

/// The bounds on data that is not durable yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// After so many new bytes.
    pub(super) bytes: u64,
    /// After so long.
    pub(super) interval: Duration,
}

/// The thread. Dropping this lets it make durable what has landed, and then end.
#[derive(Debug)]
pub(super) struct Syncer {
    inbox: Inbox,
}

/// The thread's queue. Clones feed the same thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Inbox {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    news: Mutex<News>,
    arrived: Condvar,
}

/// Bounded by the load: an extent lands once.
#[derive(Debug, Default)]
struct News {
    landed: Vec<(Arc<Journaled>, Range<u64>)>,
    flushes: Vec<oneshot::Sender<Result<(), CacheError>>>,
    is_over: bool,
}

impl Syncer {
    /// Starts the thread. It holds the load's lock until it ends: nobody may open the files while
    /// it still writes to their journals.
    pub(super) fn start(pace: Pace, metrics: Metrics, lock: Arc<Lock>) -> Result<Self, CacheError> {
        let inbox = Inbox::default();
        let mut thread = Thread { inbox: inbox.clone(), pace, metrics, dirty: BTreeMap::new(), bytes: 0, since: None };
        std::thread::Builder::new()
            .name("cache-sync".into())
            .spawn(move || {
                thread.run();
                drop(lock);
            })
            .map_err(|source| CacheError::Interrupted { problem: format!("no thread could be started: {source}") })?;
        Ok(Self { inbox })
    }

    pub(super) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Waits until everything that landed before is durable.
    pub(super) async fn flush(&self) -> Result<(), CacheError> {
        let (answer, done) = oneshot::channel();
        self.inbox.tell(|news| news.flushes.push(answer));
        done.await.unwrap_or_else(|_| Err(CacheError::Interrupted { problem: "the thread that syncs ended".into() }))
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.inbox.tell(|news| news.is_over = true);
    }
}

impl Inbox {
    /// Bytes of a file landed.
    pub(super) fn landed(&self, file: &Arc<Journaled>, range: Range<u64>) {
        self.tell(|news| {
            // After the end nobody reads on, and the file would be held for ever.
            if !news.is_over {
                news.landed.push((Arc::clone(file), range));
            }
        });
    }

    fn tell(&self, say: impl FnOnce(&mut News)) {
        say(&mut self.news());
        self.shared.arrived.notify_one();
    }

    /// Waits for news until `deadline`.
    fn next(&self, deadline: Option<Instant>) -> News {
        let is_quiet = |news: &mut News| news.landed.is_empty() && news.flushes.is_empty() && !news.is_over;
        let mut news = self.news();
        match deadline {
            None => self.shared.arrived.wait_while(&mut news, is_quiet),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.shared.arrived.wait_while_for(&mut news, is_quiet, left);
            }
        }
        let is_over = news.is_over;
        std::mem::replace(&mut *news, News { is_over, ..News::default() })
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.shared.news.lock()
    }
}

struct Thread {
    inbox: Inbox,
    pace: Pace,
    metrics: Metrics,
    dirty: BTreeMap<PathBuf, Arc<Journaled>>,
    bytes: u64,
    since: Option<Instant>,
}

impl Thread {
    fn run(&mut self) {
        loop {
            let news = self.inbox.next(self.since.map(|since| since + self.pace.interval));
            for (file, range) in news.landed {
                self.take(file, range);
            }
            let is_late = self.since.is_some_and(|since| since.elapsed() >= self.pace.interval);
            let is_asked = news.is_over || !news.flushes.is_empty();
            if is_late || is_asked || self.bytes >= self.pace.bytes {
                let mut result = self.sync_all();
                for flush in news.flushes {
                    // Whoever asked may have left.
                    let _ = flush.send(std::mem::replace(&mut result, Ok(())));
                }
            }
            if news.is_over {
                return;
            }
        }
    }

    fn take(&mut self, file: Arc<Journaled>, range: Range<u64>) {
        self.bytes += range.end - range.start;
        self.metrics.unsynced((range.end - range.start) as f64);
        self.since.get_or_insert_with(Instant::now);
        // Advice: without it the sync below writes.
        let _ = begin_writeback(file.data(), range);
        self.dirty.entry(file.path().to_owned()).or_insert(file);
    }

    /// The first failure, all files tried.
    fn sync_all(&mut self) -> Result<(), CacheError> {
        let mut result = Ok(());
        for file in std::mem::take(&mut self.dirty).into_values() {
            if let Err(error) = file.sync() {
                self.metrics.failure(Failure::Sync);
                tracing::warn!(%error, cause = ?std::error::Error::source(&error), "a cached file is not durable");
                result = result.and(Err(error));
            }
        }
        self.metrics.unsynced(-(std::mem::take(&mut self.bytes) as f64));
        self.since = None;
        result
    }
}
