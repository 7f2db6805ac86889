//! The destination of one fetch's bytes: in place, hashed as they arrive, extent by extent.
//!
//! A landing is the destination of one ranged read. Whoever reads from a socket receives straight
//! into [`Landing::buffer`] and says how much came ([`Landing::filled`]); the bytes are hashed
//! while they are still in the processor's cache, and each finished extent is handed to the
//! landing's judge, which compares digests, publishes the extent and notes it in the journal. A
//! landing knows no network and no file names.

mod error;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::region::Lease;

pub use error::LandingError;

/// The unit of digest, cache and proof: 4 MiB of one object, the last one shorter.
pub use wire::extent::EXTENT_BYTES;

/// The bytes that a reader is given at a time: small enough that the bytes are still in a cache when they
/// are hashed, large enough that taking them from a socket costs few system calls and few
/// acknowledgements. With 8 connections, 1 MiB costs 0.29 processor seconds per GB where 256 KiB
/// cost 0.39; more brings nothing (`examples/read_cpu.rs`, loopback).
const BUFFER_BYTES: usize = 1 << 20;

/// A judge's decision about a finished extent.
pub type Judgement = Result<(), LandingError>;

/// Decides about a finished extent: its number within the object, its bytes' digest, and the lease
/// of its memory (none if the landing is a bounce buffer or a small read).
pub type Judge = Arc<dyn Fn(Landed<'_>) -> Judgement + Send + Sync>;

/// An extent that has wholly arrived.
pub struct Landed<'a> {
    /// Its number within the object.
    pub extent: u64,
    /// BLAKE3 of its bytes.
    pub digest: blake3::Hash,
    /// Its bytes.
    pub bytes: &'a [u8],
}

enum Space {
    /// Memory of a region, ours alone until its extents are published.
    Region(Lease),
    /// A buffer of our own: a bounce extent of a hedge, or a small object.
    Own(Vec<u8>),
}

/// The destination of one read.
pub struct Landing {
    space: Space,
    range: Range<u64>,
    position: u64,
    hasher: blake3::Hasher,
    judge: Option<Judge>,
    /// An extent has wholly come and is not judged yet.
    is_due: bool,
    /// Since when something is on its way to the disk.
    writing_since: Option<Instant>,
    progress: Arc<LandingProgress>,
}

/// The progress of a landing, for others to watch.
#[derive(Debug, Default)]
pub struct LandingProgress {
    landed: AtomicU64,
    is_writing: AtomicBool,
    /// Nanoseconds that nothing came, since what had come was on its way to the disk.
    waited_ns: AtomicU64,
}

impl LandingProgress {
    /// Bytes that have landed so far, those of refused extents included.
    #[must_use]
    pub fn landed(&self) -> u64 {
        self.landed.load(Ordering::Relaxed)
    }

    /// Returns true if it waits for the disk at the moment, and for nobody else.
    #[must_use]
    pub(crate) fn is_writing(&self) -> bool {
        self.is_writing.load(Ordering::Relaxed)
    }

    /// The time that it has waited for the disk since this was asked the last time.
    pub(crate) fn take_waited(&self) -> Duration {
        Duration::from_nanos(self.waited_ns.swap(0, Ordering::Relaxed))
    }
}

impl Landing {
    /// Into a region: the lease's range of the object, whole extents.
    #[must_use]
    pub fn in_region(lease: Lease, judge: Judge) -> Self {
        let range = lease.range();
        Self::new(Space::Region(lease), range, Some(judge))
    }

    /// Into a buffer of its own, judged extent by extent: `range` begins at an extent. What comes
    /// of it is up to the judge; see also [`Landing::into_bytes`].
    #[must_use]
    pub fn bounce(range: Range<u64>, judge: Judge) -> Self {
        Self::new(Space::Own(vec![0; span(&range)]), range, Some(judge))
    }

    /// Into a buffer of its own, judged by nobody: headers and other small reads.
    #[must_use]
    pub fn small(range: Range<u64>) -> Self {
        Self::new(Space::Own(vec![0; span(&range)]), range, None)
    }

    fn new(space: Space, range: Range<u64>, judge: Option<Judge>) -> Self {
        let position = range.start;
        let (hasher, progress) = (blake3::Hasher::new(), Arc::default());
        Self { space, range, position, hasher, judge, is_due: false, writing_since: None, progress }
    }

    /// The object's bytes that are wanted.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The offset of the next byte within the object.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The number of bytes still to come.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.range.end - self.position
    }

    /// The progress, by which others see stalls.
    #[must_use]
    pub fn progress(&self) -> Arc<LandingProgress> {
        Arc::clone(&self.progress)
    }

    /// The destination of the next bytes: the memory itself, never more than is wanted, never beyond an
    /// extent's end. Empty when all has come.
    pub fn buffer(&mut self) -> &mut [u8] {
        let extent_end = (self.position / EXTENT_BYTES + 1) * EXTENT_BYTES;
        let end = extent_end.min(self.range.end).min(self.position + BUFFER_BYTES as u64);
        let within = offset(&self.range, self.position)..offset(&self.range, end);
        match &mut self.space {
            Space::Region(lease) => lease.bytes_mut(within),
            Space::Own(bytes) => &mut bytes[within],
        }
    }

    /// Says that the first `count` bytes of [`Landing::buffer`] have come, and waits until they are
    /// in place. Broken off, it is ended by [`Landing::settle`] before anything else lands.
    ///
    /// # Errors
    /// The judge refused the extent they finish, or they could not be written; the landing is then
    /// back at that extent's beginning, and what came of it counts as not landed.
    pub async fn filled(&mut self, count: usize) -> Result<(), LandingError> {
        let from = self.position;
        let to = from + count as u64;
        assert!(to <= self.range.end, "no more came than there was room for");
        if self.judge.is_some() {
            let within = offset(&self.range, from)..offset(&self.range, to);
            let bytes = match &self.space {
                Space::Region(lease) => lease.bytes(within),
                Space::Own(bytes) => &bytes[within],
            };
            self.hasher.update(bytes);
        }
        self.position = to;
        self.is_due = count > 0 && (to == self.range.end || to.is_multiple_of(EXTENT_BYTES));
        self.progress.landed.fetch_add(count as u64, Ordering::Relaxed);
        if let Space::Region(lease) = &mut self.space {
            let is_writing = lease.settle(offset(&self.range, to), self.judge.clone());
            self.progress.is_writing.store(is_writing, Ordering::Relaxed);
            self.writing_since = is_writing.then(Instant::now);
        }
        self.settle().await
    }

    /// Ends what a reading that was broken off has left behind: bytes on their way to the disk, and
    /// an extent that was not judged yet.
    ///
    /// # Errors
    /// As [`Landing::filled`].
    pub async fn settle(&mut self) -> Result<(), LandingError> {
        if let Err(error) = self.quiet().await {
            self.is_due = false;
            self.hasher.reset();
            self.position = self.extent_begin();
            return Err(error);
        }
        if std::mem::take(&mut self.is_due) { self.finish_extent() } else { Ok(()) }
    }

    /// Waits until nothing is on its way to the disk; before the landing is given up for another.
    ///
    /// # Errors
    /// The pending bytes could not be written.
    pub async fn quiet(&mut self) -> Result<(), LandingError> {
        let Space::Region(lease) = &mut self.space else { return Ok(()) };
        let settled = lease.settled().await;
        self.progress.is_writing.store(false, Ordering::Relaxed);
        if let Some(since) = self.writing_since.take() {
            let waited_ns = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.progress.waited_ns.fetch_add(waited_ns, Ordering::Relaxed);
        }
        settled.map_err(|error| LandingError::Keep {
            object: lease.region().name().to_owned(),
            problem: error.to_string(),
        })
    }

    /// The beginning of the extent that the last byte belongs to.
    fn extent_begin(&self) -> u64 {
        let extent = self.position.saturating_sub(1) / EXTENT_BYTES;
        (extent * EXTENT_BYTES).max(self.range.start)
    }

    /// The bytes of a landing with a buffer of its own; none for a landing in a region.
    #[must_use]
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        match self.space {
            Space::Own(bytes) => Some(bytes),
            Space::Region(_) => None,
        }
    }

    fn finish_extent(&mut self) -> Result<(), LandingError> {
        let Some(judge) = &self.judge else { return Ok(()) };
        let digest = self.hasher.finalize();
        self.hasher.reset();
        let begin = self.extent_begin();
        let extent = begin / EXTENT_BYTES;
        let within = offset(&self.range, begin)..offset(&self.range, self.position);
        let verdict = match &mut self.space {
            Space::Region(lease) => {
                let verdict = judge(Landed { extent, digest, bytes: lease.bytes(within.clone()) });
                if verdict.is_ok() {
                    lease.publish(extent);
                }
                verdict
            }
            Space::Own(bytes) => judge(Landed { extent, digest, bytes: &bytes[within] }),
        };
        if verdict.is_err() {
            self.position = begin;
        }
        verdict
    }
}

fn span(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("a read fits the address space")
}

fn offset(range: &Range<u64>, position: u64) -> usize {
    usize::try_from(position - range.start).expect("a read fits the address space")
}

impl fmt::Debug for Landing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a landing of {:?} at {}", self.range, self.position)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;
    use crate::Region;
    use crate::region::Written;
    use parking_lot::Mutex;

    fn object(bytes: u64) -> Vec<u8> {
        (0..bytes).map(|index| (index * 31 % 251) as u8 + 1).collect()
    }

    /// Feeds a landing from `object` in gulps of at most `gulp` bytes.
    async fn feed(landing: &mut Landing, object: &[u8], gulp: usize) -> Result<(), LandingError> {
        while landing.remaining() > 0 {
            let from = usize::try_from(landing.position()).unwrap();
            let buffer = landing.buffer();
            let count = buffer.len().min(gulp);
            buffer[..count].copy_from_slice(&object[from..from + count]);
            landing.filled(count).await?;
        }
        Ok(())
    }

    type Seen = Arc<Mutex<Vec<(u64, blake3::Hash)>>>;

    fn recording() -> (Judge, Seen) {
        let seen = Seen::default();
        let notes = Arc::clone(&seen);
        let judge: Judge = Arc::new(move |landed| {
            notes.lock().push((landed.extent, landed.digest));
            Ok(())
        });
        (judge, seen)
    }

    /// Memory, a file, and a file written past the page cache.
    fn every_kind(bytes: u64) -> (tempfile::TempDir, [Arc<Region>; 3]) {
        // Not in /tmp, which may be memory that knows no direct writes.
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let file = Region::create_file(&directory.path().join("read"), bytes).unwrap();
        let unread = Region::create_unread_file(&directory.path().join("unread"), bytes).unwrap();
        (directory, [Region::anonymous("memory", bytes).unwrap(), file, unread])
    }

    #[tokio::test]
    async fn every_extent_is_hashed_as_it_lands_whatever_the_gulps() {
        let bytes = 2 * EXTENT_BYTES + 12_345;
        let object = object(bytes);
        for gulp in [1_000_003, 7_777, usize::MAX] {
            let (_directory, regions) = every_kind(bytes);
            for region in regions {
                let (judge, seen) = recording();
                let lease = region.lease(0..bytes).unwrap();
                let mut landing = Landing::in_region(lease, judge);
                feed(&mut landing, &object, gulp).await.unwrap();
                let waits = region.name() != "memory";
                assert_eq!(landing.progress().take_waited() > Duration::ZERO, waits, "{region:?}");
                assert_eq!(landing.progress().take_waited(), Duration::ZERO, "it is told once");
                let expected: Vec<_> = (0..).zip(object.chunks(EXTENT_BYTES as usize).map(blake3::hash)).collect();
                assert_eq!(*seen.lock(), expected);
                assert!(region.bytes().unwrap() == object, "{region:?}");
            }
        }
    }

    /// Returns true if a file there can be written past the page cache, found out as simply as can be.
    fn takes_direct_writes(directory: &std::path::Path) -> bool {
        use std::os::unix::fs::{FileExt, OpenOptionsExt};
        let path = directory.join("tried");
        let opened = std::fs::File::options().write(true).create(true).custom_flags(libc::O_DIRECT).open(&path);
        let page = memmap2::MmapMut::map_anon(4096).unwrap();
        opened.is_ok_and(|file| file.write_all_at(&page, 0).is_ok())
    }

    #[tokio::test]
    async fn what_nobody_is_about_to_read_is_written_past_the_page_cache() {
        let bytes = 2 * EXTENT_BYTES + 12_345;
        let (directory, [memory, read, unread]) = every_kind(bytes);
        for region in [&memory, &read, &unread] {
            let mut landing = Landing::in_region(region.lease(0..bytes).unwrap(), recording().0);
            feed(&mut landing, &object(bytes), usize::MAX).await.unwrap();
        }
        assert_eq!(memory.take_written(), Written::default());
        assert_eq!(read.take_written(), Written { direct_bytes: 0, cached_bytes: bytes });
        if takes_direct_writes(directory.path()) {
            // All but the end, which fills no page.
            let expected = Written { direct_bytes: 2 * EXTENT_BYTES, cached_bytes: 12_345 };
            assert_eq!(unread.take_written(), expected);
        } else {
            eprintln!("skipped: {} takes no direct writes", directory.path().display());
            assert_eq!(unread.take_written(), Written { direct_bytes: 0, cached_bytes: bytes });
        }
        assert_eq!(unread.take_written(), Written::default(), "it is told once");
    }

    #[tokio::test]
    async fn a_landing_that_was_broken_off_while_writing_is_settled_and_goes_on() {
        let bytes = EXTENT_BYTES + 10;
        let object = object(bytes);
        let (_directory, regions) = every_kind(bytes);
        for region in regions {
            let (judge, seen) = recording();
            let mut landing = Landing::in_region(region.lease(0..bytes).unwrap(), judge);
            while landing.remaining() > 0 {
                let from = usize::try_from(landing.position()).unwrap();
                let buffer = landing.buffer();
                buffer.copy_from_slice(&object[from..from + buffer.len()]);
                let count = buffer.len();
                // Polled once, then dropped, as a reading that is given up.
                let _ = futures_util::FutureExt::now_or_never(landing.filled(count));
                landing.settle().await.unwrap();
            }
            assert_eq!(seen.lock().len(), 2, "{region:?}");
            assert!(region.bytes().unwrap() == object, "{region:?}");
        }
    }

    #[tokio::test]
    async fn a_refused_extent_is_not_seen_and_lands_again_from_its_beginning() {
        let bytes = 2 * EXTENT_BYTES;
        let object = object(bytes);
        let region = Region::anonymous("region", bytes).unwrap();
        let refusals = Arc::new(Mutex::new(1));
        let left = Arc::clone(&refusals);
        let judge: Judge = Arc::new(move |landed| {
            let mut left = left.lock();
            if landed.extent == 1 && *left > 0 {
                *left -= 1;
                return Err(LandingError::Keep { object: "o".into(), problem: "refused".into() });
            }
            Ok(())
        });
        let mut landing = Landing::in_region(region.lease(0..bytes).unwrap(), judge);
        assert!(feed(&mut landing, &object, usize::MAX).await.is_err());
        assert_eq!(landing.position(), EXTENT_BYTES);
        assert_eq!(region.verified(), [0]);
        feed(&mut landing, &object, usize::MAX).await.unwrap();
        assert_eq!(region.bytes().unwrap(), object);
    }

    #[tokio::test]
    async fn a_small_landing_gives_its_bytes_and_a_bounce_is_judged() {
        let object = object(EXTENT_BYTES + 10);
        let mut small = Landing::small(5..20);
        feed(&mut small, &object, 4).await.unwrap();
        assert_eq!(small.into_bytes().unwrap(), object[5..20]);
        let (judge, seen) = recording();
        let mut bounce = Landing::bounce(EXTENT_BYTES..EXTENT_BYTES + 10, judge);
        feed(&mut bounce, &object, 3).await.unwrap();
        assert_eq!(*seen.lock(), [(1, blake3::hash(&object[EXTENT_BYTES as usize..]))]);
    }
}
