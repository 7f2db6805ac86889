//! Memory that holds weights: a file mapped read-only, or bytes compiled into the binary.
//!
//! A region is mapped once and shared by everyone who reads it (`Arc<Region>`); it is unmapped
//! when the last holder lets go. It knows nothing of what the bytes mean.
//!
//! A mapped file is taken as immutable: replacing it by rename is harmless, because the mapping
//! keeps the old file alive; writing into it is the operator's mistake and changes the weights
//! under the model. If it *shrinks*, the pages beyond its end are gone, and touching them raises
//! SIGBUS: see `region/truncation.rs`.
#![expect(unsafe_code, reason = "mapping a file is unsafe: others could change it under us")]

mod table;
mod truncation;

use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::LoadError;

pub use truncation::on_truncation;

/// Bytes held in place: a mapped file or bytes compiled into the binary.
pub struct Region {
    // Fields drop in this order: the mapping leaves the table before it is unmapped, so the table
    // never names an address that could belong to someone else.
    _entry: Option<table::Entry>,
    memory: Memory,
    name: String,
}

enum Memory {
    File(memmap2::Mmap),
    Embedded(&'static [u8]),
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
        let open_error = |source| LoadError::OpenFile { path: path.to_owned(), source };
        // Without O_NONBLOCK, opening a pipe would wait for someone to write to it. Regular files
        // ignore the flag.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(open_error)?;
        if !file.metadata().map_err(open_error)?.is_file() {
            return Err(LoadError::NotAFile { path: path.to_owned() });
        }
        // SAFETY: the mapping is read-only, and the file is taken as immutable while it lives (see
        // the head of this file); if it shrinks, the SIGBUS handler ends the process before a
        // read could return.
        let mapping = unsafe { memmap2::Mmap::map(&file) }
            .map_err(|source| LoadError::MapFile { path: path.to_owned(), source })?;
        truncation::install();
        let name = path.display().to_string();
        let addresses = mapping.as_ptr_range();
        let entry = table::insert(addresses.start.addr()..addresses.end.addr(), &name)
            .ok_or_else(|| LoadError::TooManyRegions { path: path.to_owned(), limit: table::SLOTS })?;
        Ok(Arc::new(Self { _entry: Some(entry), memory: Memory::File(mapping), name }))
    }

    /// A region over bytes that are part of the program and live as long as it does.
    #[must_use]
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Arc<Self> {
        Arc::new(Self { _entry: None, memory: Memory::Embedded(bytes), name: name.to_owned() })
    }

    /// All bytes of the region, at whatever alignment (a mapped file begins at a page).
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::File(mapping) => mapping,
            Memory::Embedded(bytes) => bytes,
        }
    }

    /// The file's path as it was given, or the name of the embedded bytes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.memory {
            Memory::File(_) => "mapped",
            Memory::Embedded(_) => "embedded",
        };
        write!(formatter, "{} ({kind}, {} bytes)", self.name, self.bytes().len())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_region_shows_the_files_bytes_after_the_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weights");
        std::fs::write(&path, b"first").unwrap();
        let region = Region::map_file(&path).unwrap();
        std::fs::write(directory.path().join("new"), b"second").unwrap();
        std::fs::rename(directory.path().join("new"), &path).unwrap();
        assert_eq!(region.bytes(), b"first");
        assert_eq!(region.name(), path.display().to_string());
    }

    #[test]
    fn an_empty_file_is_an_empty_region() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(Region::map_file(&path).unwrap().bytes(), b"");
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
        assert!(std::ptr::eq(region.bytes(), BYTES));
        assert_eq!(region.name(), "demo");
    }
}
