//! The state that every part of the cache needs: paths, configuration, metrics.

use super::config::CacheConfig;
use super::error::CacheError;
use super::layout::Layout;
use super::metrics::Metrics;

/// One cache, as its parts see it.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) layout: Layout,
    pub(super) config: CacheConfig,
    pub(super) metrics: Metrics,
    /// Nothing may be written: no lock is taken, no use is noted, nothing is mended.
    pub(super) is_read_only: bool,
}

impl Shelf {
    /// Refuses what writes.
    pub(super) fn check_writable(&self) -> Result<(), CacheError> {
        if self.is_read_only { Err(CacheError::ReadOnly { root: self.layout.root().to_owned() }) } else { Ok(()) }
    }
}

/// Runs what blocks on a thread where that is harmless.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
) -> Result<T, CacheError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(cause) => Err(CacheError::Interrupted { problem: cause.to_string() }),
    }
}
