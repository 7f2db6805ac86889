//! A fetch on its way: what is still missing of it, and where it lands.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::task::spawn_blocking;
use wire::extent::EXTENT_BYTES;

use super::budget::Reservation;
use super::error::FetchError;
use super::shared::Shared;
use crate::landing::{Judge, Landed, Landing, LandingError};

/// One fetch, from its first attempt to its last.
pub(super) struct ActiveFetch {
    pub(super) file: usize,
    pub(super) extents: Range<u64>,
    pub(super) began: Instant,
    /// The bytes it may have in flight; what is verified is given back at once.
    reservation: Arc<Reservation>,
    /// The source of the bytes at the moment; the judge names it.
    reading_from: Arc<AtomicUsize>,
    landing: Option<Landing>,
}

impl ActiveFetch {
    pub(super) fn new(file: usize, extents: Range<u64>, reservation: Reservation, now: Instant) -> Self {
        Self {
            file,
            extents,
            began: now,
            reservation: Arc::new(reservation),
            reading_from: Arc::default(),
            landing: None,
        }
    }

    /// The bytes that are still missing.
    pub(super) fn missing(&self, shared: &Shared) -> Range<u64> {
        let region = &shared.targets[self.file].region;
        let bytes = |extent: u64| extent * EXTENT_BYTES..((extent + 1) * EXTENT_BYTES).min(region.len());
        let first = self.extents.clone().find(|extent| !region.has_arrived(bytes(*extent)));
        let end = (self.extents.end * EXTENT_BYTES).min(region.len());
        first.map_or(end, |extent| extent * EXTENT_BYTES)..end
    }

    /// The destination of the next attempt, from `source`: the one of the last attempt where it was kept, so that a body
    /// goes on in the middle of an extent; it may have nothing left to come. Nothing if all has come.
    pub(super) fn land(&mut self, shared: &Arc<Shared>, source: usize) -> Result<Option<Landing>, FetchError> {
        self.reading_from.store(source, Ordering::Relaxed);
        if let Some(landing) = self.landing.take() {
            return Ok(Some(landing));
        }
        let missing = self.missing(shared);
        if missing.is_empty() {
            return Ok(None);
        }
        let target = &shared.targets[self.file];
        let Some(lease) = target.region.lease(missing.clone()) else {
            return Err(FetchError::Busy { object: target.objects[0].name.clone(), range: missing });
        };
        Ok(Some(Landing::in_region(lease, self.judge(shared))))
    }

    /// Keeps the destination for the next attempt.
    pub(super) fn keep(&mut self, landing: Landing) {
        self.landing = Some(landing);
    }

    /// Believes a verified extent that a hedge brought: it is copied in and kept as if it had
    /// landed, on a thread that may wait for the disk. The first request's lease must have been given up. Broken off, the
    /// range is free again when the write has ended.
    pub(super) async fn install(
        &self,
        shared: &Shared,
        extent: u64,
        digest: blake3::Hash,
        bytes: Vec<u8>,
        source: usize,
    ) -> Result<(), FetchError> {
        let target = &shared.targets[self.file];
        let range = extent * EXTENT_BYTES..extent * EXTENT_BYTES + bytes.len() as u64;
        let object = || target.object(source).name.clone();
        let Some(mut lease) = target.region.lease(range.clone()) else {
            if target.region.has_arrived(range.clone()) {
                // The first request finished this very extent in the moment the second one came.
                shared.tally.discarded(bytes.len() as u64);
                return Ok(());
            }
            return Err(FetchError::Busy { object: object(), range });
        };
        let writing = spawn_blocking(move || lease.write(&bytes).map(|()| (lease, bytes)));
        let written = writing.await.map_err(io::Error::other).flatten();
        let written = written.map_err(|error| LandingError::Keep { object: object(), problem: error.to_string() });
        let kept = written.and_then(|(lease, bytes)| {
            target.keeper.keep(extent, digest, &bytes)?;
            Ok((lease, bytes.len() as u64))
        });
        let (mut lease, length) =
            kept.map_err(|source| FetchError::Permanent { object: object(), range, source: Box::new(source.into()) })?;
        lease.publish(extent);
        shared.tally.verified(source, length);
        self.reservation.release(length);
        Ok(())
    }

    fn judge(&self, shared: &Arc<Shared>) -> Judge {
        let (shared, file) = (Arc::clone(shared), self.file);
        let (reservation, reading_from) = (Arc::clone(&self.reservation), Arc::clone(&self.reading_from));
        Arc::new(move |landed: Landed<'_>| {
            let source = reading_from.load(Ordering::Relaxed);
            let keeper = &shared.targets[file].keeper;
            keeper.check(landed.extent, landed.digest, shared.source(source).url())?;
            keeper.keep(landed.extent, landed.digest, landed.bytes)?;
            shared.tally.verified(source, landed.bytes.len() as u64);
            reservation.release(landed.bytes.len() as u64);
            Ok(())
        })
    }
}
