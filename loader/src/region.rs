//! Memory that holds weights: a file mapped read-only, a file that is being filled in place, memory
//! without a file, or bytes compiled into the binary.
//!
//! A region is mapped once and shared by everyone who reads it (`Arc<Region>`); it is unmapped
//! when the last holder lets go. It knows nothing of what the bytes mean, nor where they come
//! from. A region that is being filled shows nothing but verified extents ([`Region::view`]);
//! writers have leases ([`Lease`]).
//!
//! A mapped file is taken as immutable: replacing it by rename is harmless, because the mapping
//! keeps the old file alive; writing into it is the operator's mistake and changes the weights
//! under the model. If it *shrinks*, the pages beyond its end are gone, and touching them raises
//! SIGBUS: see `region/truncation.rs`.
#![expect(unsafe_code, reason = "mapping a file is unsafe: others could change it under us")]

mod arrival;
mod file;
mod lease;
mod table;
mod truncation;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use wire::extent::{self, EXTENT_BYTES};

use crate::LoadError;
use arrival::Arrival;
use file::FilledFile;

pub(crate) use file::Written;
pub use lease::Lease;
pub use truncation::on_truncation;

/// Bytes held in place.
pub struct Region {
    // Fields drop in this order: the mapping leaves the table before it is unmapped, so the table
    // never names an address that could belong to someone else.
    _entry: Option<table::Entry>,
    memory: Memory,
    name: String,
}

enum Memory {
    /// A finished file.
    File(memmap2::Mmap, File),
    Embedded(&'static [u8]),
    /// Being filled: a file, mapped to be read and written by system calls, or memory of the
    /// process without one.
    Filling(MmapRaw, Arrival, Option<FilledFile>),
}

impl Region {
    /// Maps a whole file, read-only and shared. No page is read: the kernel brings in what is
    /// touched. Symbolic links are followed, as caches of Hugging Face are made of them.
    ///
    /// The first call also installs the process's SIGBUS handler, see [`on_truncation`].
    ///
    /// # Errors
    /// The file cannot be opened, is not a regular file, or cannot be mapped; or too many files
    /// are mapped already.
    pub fn map_file(path: &Path) -> Result<Arc<Self>, LoadError> {
        let (file, _) = open(path, OpenOptions::new().read(true))?;
        // SAFETY: the mapping is read-only, and the file is taken as immutable while it lives (see
        // the head of this file); if it shrinks, the SIGBUS handler ends the process before a
        // read could return.
        let mapping = unsafe { memmap2::Mmap::map(&file) }
            .map_err(|source| LoadError::MapFile { path: path.to_owned(), source })?;
        let entry = enter(path, &file, mapping.as_ptr(), mapping.len())?;
        Ok(Arc::new(Self {
            _entry: Some(entry),
            memory: Memory::File(mapping, file),
            name: path.display().to_string(),
        }))
    }

    /// Maps a file of `bytes` bytes, to be filled in place: written by system calls, read through
    /// the mapping, the same pages. Its blocks are allocated first, so that writing cannot meet a
    /// full disk; what the file already holds stays and
    /// can be believed with [`Region::adopt`].
    ///
    /// # Errors
    /// [`LoadError::NoSpace`] if the disk or a quota is full; otherwise as [`Region::map_file`].
    pub fn create_file(path: &Path, bytes: u64) -> Result<Arc<Self>, LoadError> {
        Self::filling(path, bytes, FilledFile::new)
    }

    /// [`Region::create_file`] for a file that nobody is about to read: it is written past the page
    /// cache where the file system can do that, which costs neither memory nor copies. Its bytes
    /// can be viewed all the same; they are then read from disk.
    ///
    /// # Errors
    /// As [`Region::create_file`].
    pub(crate) fn create_unread_file(path: &Path, bytes: u64) -> Result<Arc<Self>, LoadError> {
        Self::filling(path, bytes, |file| FilledFile::past_page_cache(file, path))
    }

    fn filling(path: &Path, bytes: u64, filled: impl FnOnce(File) -> FilledFile) -> Result<Arc<Self>, LoadError> {
        let (file, length) = open(path, OpenOptions::new().read(true).write(true).create(true).truncate(false))?;
        let map_error = |source| LoadError::MapFile { path: path.to_owned(), source };
        if length > bytes {
            file.set_len(bytes).map_err(map_error)?;
        }
        if bytes > 0 {
            allocate(&file, bytes).map_err(|source| match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    LoadError::NoSpace { path: path.to_owned(), bytes }
                }
                _ => map_error(source),
            })?;
        }
        let mapping = MmapOptions::new().len(in_memory(bytes)).map_raw_read_only(&file).map_err(map_error)?;
        let entry = enter(path, &file, mapping.as_ptr(), mapping.len())?;
        let memory = Memory::Filling(mapping, Arrival::new(bytes), Some(filled(file)));
        Ok(Arc::new(Self { _entry: Some(entry), memory, name: path.display().to_string() }))
    }

    /// Memory of `bytes` bytes without a file, to be filled: for when there is no disk. It asks
    /// for huge pages (docs/decisions/0008).
    ///
    /// # Errors
    /// [`LoadError::NoMemory`] if the machine has less memory available than that.
    pub fn anonymous(name: &str, bytes: u64) -> Result<Arc<Self>, LoadError> {
        let no_memory = |source| LoadError::NoMemory { name: name.to_owned(), bytes, source };
        if let Some(available) = available_bytes().filter(|available| *available < bytes) {
            let message = format!("{available} bytes are available");
            return Err(no_memory(std::io::Error::other(message)));
        }
        let mapping = MmapOptions::new().len(in_memory(bytes)).map_anon().map_err(no_memory)?;
        let mapping = MmapRaw::from(mapping);
        // Advice: where there are no huge pages, small ones do.
        let _ = mapping.advise(memmap2::Advice::HugePage);
        let memory = Memory::Filling(mapping, Arrival::new(bytes), None);
        Ok(Arc::new(Self { _entry: None, memory, name: name.to_owned() }))
    }

    /// A region over bytes that are part of the program and live as long as it does.
    #[must_use]
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Arc<Self> {
        Arc::new(Self { _entry: None, memory: Memory::Embedded(bytes), name: name.to_owned() })
    }

    /// The bytes of a range, in place (a mapped file begins at a page, a range at any
    /// alignment); nothing unless every extent it touches is verified.
    #[must_use]
    pub fn view(&self, range: Range<usize>) -> Option<&[u8]> {
        match &self.memory {
            Memory::File(mapping, _) => mapping.get(range),
            Memory::Embedded(bytes) => bytes.get(range),
            Memory::Filling(mapping, arrival, _) => {
                let inside = range.start <= range.end && range.end as u64 <= self.len();
                if !inside || !arrival.is_verified(&(range.start as u64..range.end as u64)) {
                    return None;
                }
                // SAFETY: the range lies within the mapping (checked) and is verified: no lease
                // covers it or ever will, so nobody writes it while it can be seen.
                Some(unsafe { std::slice::from_raw_parts(mapping.as_ptr().add(range.start), range.len()) })
            }
        }
    }

    /// All bytes, if all have arrived.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        // A mapping's length is a usize.
        self.view(0..self.len() as usize)
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.memory {
            Memory::File(mapping, _) => mapping.len() as u64,
            Memory::Embedded(bytes) => bytes.len() as u64,
            Memory::Filling(_, arrival, _) => arrival.bytes(),
        }
    }

    /// Returns true if it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes whole extents to write: `range` begins at an extent and ends at one or at the
    /// region's end. Nothing if one of them is verified or leased already, or the region is
    /// finished.
    #[must_use]
    pub fn lease(self: &Arc<Self>, range: Range<u64>) -> Option<Lease> {
        let Memory::Filling(_, arrival, _) = &self.memory else { return None };
        let whole = range.start.is_multiple_of(EXTENT_BYTES)
            && range.start < range.end
            && (range.end == arrival.bytes()
                || (range.end < arrival.bytes() && range.end.is_multiple_of(EXTENT_BYTES)));
        assert!(whole, "whole extents are leased, not {range:?}");
        arrival.lease(&range).then(|| Lease::new(Arc::clone(self), range))
    }

    /// Believes that an extent's bytes are there already: a journal vouches for them. Returns true if it
    /// was still missing.
    pub fn adopt(self: &Arc<Self>, extent: u64) -> bool {
        self.take(extent).map(|mut lease| lease.publish(extent)).is_some()
    }

    /// Copies a verified extent in. Returns true if it was still missing and could be written; if it was
    /// there, the bytes are not needed.
    pub fn fill_extent(self: &Arc<Self>, extent: u64, bytes: &[u8]) -> bool {
        let Some(mut lease) = self.take(extent) else { return false };
        if lease.write(bytes).is_err() {
            return false;
        }
        lease.publish(extent);
        true
    }

    fn take(self: &Arc<Self>, extent: u64) -> Option<Lease> {
        self.lease(extent::range(self.len(), extent)?)
    }

    /// Shows nothing of what arrives until [`Region::show`]: what this object must be is known
    /// only of the whole. To be called before anything is published.
    pub fn hold(&self) {
        if let Memory::Filling(_, arrival, _) = &self.memory {
            arrival.hold();
        }
    }

    /// Shows what was held: it was found right.
    pub fn show(&self) {
        if let Memory::Filling(_, arrival, _) = &self.memory {
            arrival.show();
        }
    }

    /// Forgets what has arrived of a held region: as a whole it was found wrong.
    pub(crate) fn begin_again(&self) {
        if let Memory::Filling(_, arrival, _) = &self.memory {
            arrival.begin_again();
        }
    }

    /// Blocks until the range has arrived and gives its bytes, held or not: for the one who judges
    /// the whole.
    ///
    /// # Errors
    /// The load failed.
    pub(crate) fn arrived(&self, range: Range<u64>) -> Result<&[u8], Arc<LoadError>> {
        let (start, end) = (in_memory(range.start), in_memory(range.end));
        match &self.memory {
            Memory::File(mapping, _) => Ok(&mapping[start..end]),
            Memory::Embedded(bytes) => Ok(&bytes[start..end]),
            Memory::Filling(mapping, arrival, _) => {
                arrival.wait_arrived(&range)?;
                // SAFETY: the range lies within the mapping (the arrival has checked) and has been
                // published: no lease covers it or ever will, so nobody writes it.
                Ok(unsafe { std::slice::from_raw_parts(mapping.as_ptr().add(start), end - start) })
            }
        }
    }

    /// Returns true if every extent that the range touches is there, shown or held.
    pub(crate) fn has_arrived(&self, range: Range<u64>) -> bool {
        match &self.memory {
            Memory::Filling(_, arrival, _) => arrival.has_arrived(&range),
            Memory::File(..) | Memory::Embedded(_) => true,
        }
    }

    /// Returns true if every extent that the range touches is verified.
    #[must_use]
    pub fn is_verified(&self, range: Range<u64>) -> bool {
        match &self.memory {
            Memory::Filling(_, arrival, _) => arrival.is_verified(&range),
            Memory::File(..) | Memory::Embedded(_) => true,
        }
    }

    /// Returns true if all has arrived.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match &self.memory {
            Memory::Filling(_, arrival, _) => arrival.is_complete(),
            Memory::File(..) | Memory::Embedded(_) => true,
        }
    }

    /// The extents that have arrived, in order; all of them in a finished region.
    #[must_use]
    pub fn verified(&self) -> Vec<u64> {
        match &self.memory {
            Memory::Filling(_, arrival, _) => arrival.verified(),
            Memory::File(..) | Memory::Embedded(_) => (0..extent::count(self.len())).collect(),
        }
    }

    /// Blocks until the range has arrived: for threads that compute.
    ///
    /// # Errors
    /// The load failed.
    pub fn wait(&self, range: Range<u64>) -> Result<(), Arc<LoadError>> {
        match &self.memory {
            Memory::Filling(_, arrival, _) => arrival.wait(&range),
            Memory::File(..) | Memory::Embedded(_) => Ok(()),
        }
    }

    /// Waits until the range has arrived.
    ///
    /// # Errors
    /// The load failed.
    pub async fn ready(&self, range: Range<u64>) -> Result<(), Arc<LoadError>> {
        match &self.memory {
            Memory::Filling(_, arrival, _) => arrival.ready(&range).await,
            Memory::File(..) | Memory::Embedded(_) => Ok(()),
        }
    }

    /// Blocks until the range has arrived, but no longer than `patience`. Returns true if it has.
    ///
    /// # Errors
    /// The load failed.
    pub fn wait_for(&self, range: Range<u64>, patience: Duration) -> Result<bool, Arc<LoadError>> {
        match &self.memory {
            Memory::Filling(_, arrival, _) => arrival.wait_for(&range, patience),
            Memory::File(..) | Memory::Embedded(_) => Ok(true),
        }
    }

    /// Ends all waiting: the load has failed, and what is missing will not come.
    pub fn fail(&self, error: Arc<LoadError>) {
        if let Memory::Filling(_, arrival, _) = &self.memory {
            arrival.fail(error);
        }
    }

    /// The bytes of a range, none of which need be in memory yet: those of a mapped file are read
    /// into `buffer`, which brings them into the page cache at the disk's speed, as touching the
    /// mapping does not (docs/performance.md). Nothing where [`Region::view`] shows nothing. Blocks.
    ///
    /// # Errors
    /// The system's error; a file that has become shorter.
    pub fn read<'a>(&'a self, range: Range<usize>, buffer: &'a mut Vec<u8>) -> std::io::Result<Option<&'a [u8]>> {
        let Memory::File(mapping, file) = &self.memory else { return Ok(self.view(range)) };
        if range.start > range.end || range.end > mapping.len() {
            return Ok(None);
        }
        buffer.resize(range.len(), 0);
        file.read_exact_at(buffer, range.start as u64)?;
        Ok(Some(buffer))
    }

    /// The number of extents that can be viewed.
    #[must_use]
    pub(crate) fn shown_extents(&self) -> u64 {
        match &self.memory {
            Memory::Filling(_, arrival, _) => arrival.shown(),
            Memory::File(..) | Memory::Embedded(_) => extent::count(self.len()),
        }
    }

    /// Returns true if reading this range, which lies within the region, waits for no disk.
    #[must_use]
    pub(crate) fn is_resident(&self, range: Range<u64>) -> bool {
        let start = match &self.memory {
            Memory::File(mapping, _) => mapping.as_ptr(),
            Memory::Filling(mapping, _, Some(_)) => mapping.as_ptr(),
            Memory::Filling(_, _, None) | Memory::Embedded(_) => return true,
        };
        if range.start >= range.end || range.end > self.len() {
            return true;
        }
        // SAFETY: a question about the system, which touches no memory.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let (first, end) = (in_memory(range.start) / page * page, in_memory(range.end));
        let mut pages = vec![0_u8; (end - first).div_ceil(page)];
        // SAFETY: the pages lie within the mapping, whose last page reaches to its end; `pages` has a byte for each.
        let result = unsafe { libc::mincore(start.add(first).cast_mut().cast(), end - first, pages.as_mut_ptr()) };
        result == 0 && pages.iter().all(|page| page & 1 == 1)
    }

    /// Reads a range of the file into the page cache, at the disk's speed. Blocks.
    ///
    /// # Errors
    /// The system's error; a file that has become shorter.
    pub(crate) fn bring(&self, range: Range<u64>) -> std::io::Result<()> {
        let mut buffer = vec![0; in_memory(range.end.saturating_sub(range.start))];
        match &self.memory {
            Memory::File(_, file) => file.read_exact_at(&mut buffer, range.start),
            Memory::Filling(_, _, Some(file)) => file.read(&mut buffer, range.start),
            Memory::Filling(_, _, None) | Memory::Embedded(_) => Ok(()),
        }
    }

    /// The file's path as it was given, or the name of the embedded bytes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hidden contract: only regions that are being filled have leases.
    fn arrival(&self) -> &Arrival {
        match &self.memory {
            Memory::Filling(_, arrival, _) => arrival,
            Memory::File(..) | Memory::Embedded(_) => unreachable!("a finished region has no leases"),
        }
    }

    /// The memory of a region without a file.
    fn writable(&self) -> *mut u8 {
        match &self.memory {
            Memory::Filling(mapping, _, None) => mapping.as_mut_ptr(),
            _ => unreachable!("files are written by system calls"),
        }
    }

    fn readable(&self) -> *const u8 {
        match &self.memory {
            Memory::Filling(mapping, ..) => mapping.as_ptr(),
            Memory::File(..) | Memory::Embedded(_) => unreachable!("a finished region has no leases"),
        }
    }

    /// The bytes written to its file since the last call, by way; none where it has no
    /// file, or a finished one.
    pub(crate) fn take_written(&self) -> Written {
        self.file().map(FilledFile::take_written).unwrap_or_default()
    }

    /// Has the pages of a range made before they are written: writers of one file take turns, but
    /// not in making its pages, which costs more than filling them where a virtual machine must
    /// fetch memory from its host.
    fn make_pages(&self, range: Range<u64>) {
        if let Memory::Filling(mapping, _, Some(file)) = &self.memory
            && file.is_cached()
        {
            let (start, length) = (in_memory(range.start), in_memory(range.end - range.start));
            // Advice: without it the writing makes them.
            let _ = mapping.advise_range(memmap2::Advice::PopulateRead, start, length);
        }
    }

    /// The file that is being filled.
    fn file(&self) -> Option<&FilledFile> {
        match &self.memory {
            Memory::Filling(_, _, file) => file.as_ref(),
            Memory::File(..) | Memory::Embedded(_) => None,
        }
    }
}

/// The file that a slice of a region is mapped from, and the slice's place in it; none where it lies in no file. It can
/// be sent from there without a copy.
#[must_use]
pub fn file_behind(bytes: &[u8]) -> Option<(BorrowedFd<'_>, u64)> {
    let (descriptor, offset) = table::file_of(bytes)?;
    // SAFETY: the slice borrows its region, which holds the file open and leaves the table before it closes it.
    Some((unsafe { BorrowedFd::borrow_raw(descriptor) }, offset))
}

/// Starts writing a range of a file's dirty pages to disk without waiting for it, so that a later
/// `sync_data` finds little to do.
///
/// # Errors
/// The system's error; nothing depends on it.
pub(crate) fn begin_writeback(file: &File, range: Range<u64>) -> std::io::Result<()> {
    let (offset, count) = (range.start.cast_signed(), (range.end - range.start).cast_signed());
    // SAFETY: a system call on a file descriptor that is open while `file` is borrowed; it touches
    // no memory of ours.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, count, libc::SYNC_FILE_RANGE_WRITE) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Opens a regular file. Without O_NONBLOCK, opening a pipe would wait for someone to write to it;
/// regular files ignore the flag.
fn open(path: &Path, options: &mut OpenOptions) -> Result<(File, u64), LoadError> {
    let open_error = |source| LoadError::OpenFile { path: path.to_owned(), source };
    let file = options.custom_flags(libc::O_NONBLOCK).open(path).map_err(open_error)?;
    let facts = file.metadata().map_err(open_error)?;
    if !facts.is_file() {
        return Err(LoadError::NotAFile { path: path.to_owned() });
    }
    Ok((file, facts.len()))
}

/// Enters a file's mapping in the table that names it when it fails.
fn enter(path: &Path, file: &File, start: *const u8, length: usize) -> Result<table::Entry, LoadError> {
    truncation::install();
    table::insert(start.addr()..start.addr() + length, &path.display().to_string(), file.as_raw_fd())
        .ok_or_else(|| LoadError::TooManyRegions { path: path.to_owned(), limit: table::SLOTS })
}

fn allocate(file: &File, bytes: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        // A file system that cannot allocate (NFS, overlay on some kernels): sparse it is.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(bytes),
        result => Ok(result?),
    }
}

/// Memory that can be had without swapping, as the kernel estimates it.
fn available_bytes() -> Option<u64> {
    let facts = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = facts.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("64-bit machines map any file")
}

impl fmt::Debug for Region {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.memory {
            Memory::File(..) => "mapped",
            Memory::Embedded(_) => "embedded",
            Memory::Filling(..) => "being filled",
        };
        write!(formatter, "{} ({kind}, {} bytes)", self.name, self.len())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_slice_knows_its_file_and_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.bin");
        let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        std::fs::write(&path, &bytes).unwrap();
        let region = Region::map_file(&path).unwrap();
        let (file, offset) = file_behind(region.view(5_000..6_000).unwrap()).unwrap();
        assert_eq!(offset, 5_000);
        let mut read = [0; 1_000];
        assert_eq!(rustix::io::pread(file, &mut read, offset).unwrap(), 1_000);
        assert!(read[..] == bytes[5_000..6_000]);
        assert!(file_behind(&bytes).is_none(), "memory of the process");
    }

    #[test]
    fn a_mapped_region_shows_the_files_bytes_after_the_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weights");
        std::fs::write(&path, b"first").unwrap();
        let region = Region::map_file(&path).unwrap();
        std::fs::write(directory.path().join("new"), b"second").unwrap();
        std::fs::rename(directory.path().join("new"), &path).unwrap();
        assert_eq!(region.bytes().unwrap(), b"first");
        let mut buffer = Vec::new();
        assert_eq!(region.read(1..5, &mut buffer).unwrap().unwrap(), b"irst");
        assert!(region.read(1..6, &mut buffer).unwrap().is_none(), "beyond the end");
        assert_eq!(region.name(), path.display().to_string());
    }

    #[test]
    fn an_empty_file_is_an_empty_region() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(Region::map_file(&path).unwrap().bytes().unwrap(), b"");
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(Region::map_file(directory.path()), Err(LoadError::NotAFile { .. })));
        let absent = directory.path().join("absent");
        assert!(matches!(Region::map_file(&absent), Err(LoadError::OpenFile { .. })));
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(matches!(Region::map_file(&pipe), Err(LoadError::NotAFile { .. })));
    }

    #[test]
    fn an_embedded_region_is_the_very_bytes() {
        static BYTES: &[u8] = b"in the binary";
        let region = Region::embedded("demo", BYTES);
        assert!(std::ptr::eq(region.bytes().unwrap(), BYTES));
        assert_eq!(region.name(), "demo");
    }

    fn both_kinds(bytes: u64) -> (tempfile::TempDir, [Arc<Region>; 2]) {
        let directory = tempfile::tempdir().unwrap();
        let file = Region::create_file(&directory.path().join("weights"), bytes).unwrap();
        (directory, [file, Region::anonymous("memory", bytes).unwrap()])
    }

    #[test]
    fn what_is_not_verified_cannot_be_seen_and_what_is_can() {
        let (_directory, regions) = both_kinds(EXTENT_BYTES + 5);
        for region in regions {
            assert_eq!(region.view(0..1), None);
            let mut lease = region.lease(0..EXTENT_BYTES).unwrap();
            lease.write(&[b"abc", &[7; EXTENT_BYTES as usize - 3][..]].concat()).unwrap();
            assert_eq!(region.view(0..1), None, "written is not verified");
            lease.publish(0);
            assert_eq!(region.view(0..3).unwrap(), b"abc");
            assert_eq!(region.view(0..EXTENT_BYTES as usize + 1), None, "the next extent is missing");
            assert!(region.fill_extent(1, b"tail!"));
            assert!(region.is_complete() && region.bytes().unwrap().ends_with(b"tail!"));
            assert!(!region.fill_extent(1, b"other"), "a verified extent is never written again");
        }
    }

    #[test]
    fn two_writers_never_share_a_range() {
        let (_directory, regions) = both_kinds(3 * EXTENT_BYTES);
        for region in regions {
            let mut first = region.lease(0..2 * EXTENT_BYTES).unwrap();
            assert!(region.lease(EXTENT_BYTES..3 * EXTENT_BYTES).is_none());
            first.publish(0);
            drop(first);
            assert!(region.lease(0..EXTENT_BYTES).is_none(), "verified");
            assert!(region.lease(EXTENT_BYTES..3 * EXTENT_BYTES).is_some(), "given back by the drop");
        }
    }

    #[tokio::test]
    async fn a_range_is_not_free_before_the_last_write_to_it_has_ended() {
        let (_directory, [region, _]) = both_kinds(EXTENT_BYTES);
        let Memory::Filling(_, _, Some(file)) = &region.memory else { panic!("{region:?}") };
        let turn = file.turn();
        let mut lease = region.lease(0..EXTENT_BYTES).unwrap();
        let count = lease.bytes_mut(0..EXTENT_BYTES as usize).len();
        assert!(lease.settle(count, ()), "a full window is on its way");
        drop(lease);
        assert!(region.lease(0..EXTENT_BYTES).is_none(), "a write is under way");
        drop(turn);
        while region.lease(0..EXTENT_BYTES).is_none() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    #[should_panic(expected = "unpublished")]
    fn a_lessee_cannot_write_what_it_has_published() {
        let region = Region::anonymous("memory", 2 * EXTENT_BYTES).unwrap();
        let mut lease = region.lease(0..2 * EXTENT_BYTES).unwrap();
        lease.publish(0);
        lease.bytes_mut(0..1)[0] = 1;
    }

    #[test]
    fn waiters_wake_for_their_range_and_for_failure() {
        let region = Region::anonymous("memory", 2 * EXTENT_BYTES).unwrap();
        let waiter = Arc::clone(&region);
        let first = std::thread::spawn(move || waiter.wait(0..1));
        let waiter = Arc::clone(&region);
        let second = std::thread::spawn(move || waiter.wait(0..2 * EXTENT_BYTES));
        assert!(region.adopt(0));
        assert!(first.join().unwrap().is_ok());
        region.fail(Arc::new(LoadError::NotAFile { path: "gone".into() }));
        assert!(second.join().unwrap().is_err());
        assert!(region.wait(0..1).is_ok(), "what has arrived stays");
    }

    #[test]
    fn a_file_that_was_filled_in_place_is_the_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weights");
        let region = Region::create_file(&path, 4).unwrap();
        assert!(region.fill_extent(0, b"four"));
        assert_eq!(std::fs::read(&path).unwrap(), b"four");
        let again = Region::create_file(&path, 4).unwrap();
        assert!(again.adopt(0));
        assert_eq!(again.bytes().unwrap(), b"four");
    }

    #[test]
    fn a_held_region_shows_nothing_before_it_is_told_to() {
        let (_directory, regions) = both_kinds(5);
        for region in regions {
            region.hold();
            assert!(region.fill_extent(0, b"whole"));
            assert_eq!((region.bytes(), region.is_complete()), (None, false));
            assert_eq!(region.arrived(0..5).unwrap(), b"whole");
            region.show();
            assert_eq!(region.bytes().unwrap(), b"whole");
            assert!(region.is_complete() && region.wait(0..5).is_ok());
        }
    }

    #[test]
    fn more_memory_than_there_is_is_refused() {
        assert!(matches!(Region::anonymous("huge", 1 << 50), Err(LoadError::NoMemory { .. })));
    }

    #[test]
    fn an_empty_object_is_complete_at_once() {
        let (_directory, regions) = both_kinds(0);
        assert!(regions.iter().all(|region| region.is_complete() && region.bytes() == Some(&[])));
    }
}
