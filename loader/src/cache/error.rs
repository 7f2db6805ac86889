//! Errors of the cache: the operation, the file and the fix.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use wire::manifest::ManifestError;

/// Errors of the cache. None of them is a reason not to serve a model: a load goes
/// on without the cache, in memory.
#[derive(Debug, Error)]
pub enum CacheError {
    /// No place was named and the usual ones are unknown.
    #[error("finding a place for the cache: neither FOREBAY_CACHE, XDG_CACHE_HOME nor HOME is set; set FOREBAY_CACHE")]
    NoRoot,
    /// The system refused.
    #[error("{doing} {path}")]
    Io {
        /// The operation.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The disk is full, or the quota is, even after everything unused was evicted.
    #[error(
        "making room for {bytes} bytes in {root}: {problem}; free space, raise the quota, unpin models, or see \
         `forebay cache ls`"
    )]
    NoSpace {
        /// The bytes that are needed.
        bytes: u64,
        /// The cache's root.
        root: PathBuf,
        /// Which bound is in the way.
        problem: String,
    },
    /// The cache may be read and not written.
    #[error("writing to the cache {root}: it is read-only; mount it writable, or set FOREBAY_CACHE to another place")]
    ReadOnly {
        /// The cache's root.
        root: PathBuf,
    },
    /// A file's name would leave the model's directory, or is one of ours.
    #[error("keeping a file: its name {problem}")]
    Name {
        /// The problem.
        problem: String,
    },
    /// The manifest to finish with is none.
    #[error("finishing {directory}")]
    Manifest {
        /// The load.
        directory: PathBuf,
        /// The problem.
        #[source]
        source: ManifestError,
    },
    /// The load is not what the manifest says.
    #[error("finishing {directory}: `{file}` {problem}")]
    Mismatch {
        /// The load.
        directory: PathBuf,
        /// The file.
        file: String,
        /// The problem.
        problem: String,
    },
    /// An earlier attempt to make data durable failed; what the disk holds is not known.
    #[error("making {path} durable: {problem}; check the disk (dmesg), then pull the model again")]
    NotDurable {
        /// The file.
        path: PathBuf,
        /// The system's error then.
        problem: String,
    },
    /// Nothing in the cache has this name.
    #[error("`{id}` is not in the cache; `forebay cache ls` shows what is")]
    Unknown {
        /// The ID that was given.
        id: String,
    },
    /// More than one thing in the cache has this name.
    #[error("`{id}` may be any of {matches}; give more of it")]
    Ambiguous {
        /// The ID that was given.
        id: String,
        /// The IDs that it matches.
        matches: String,
    },
    /// A process loads or serves it.
    #[error("`{id}` is in use by another process; stop that first")]
    InUse {
        /// The ID that was given.
        id: String,
    },
    /// It is pinned.
    #[error("`{id}` is pinned; `forebay cache unpin {id}` first")]
    Pinned {
        /// The ID that was given.
        id: String,
    },
    /// A thread ended before its work did.
    #[error("the cache's work was cut short: {problem}")]
    Interrupted {
        /// The problem.
        problem: String,
    },
}

impl CacheError {
    /// For `map_err`: the system refused this, on that file.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    /// Returns true if the system refused because nothing may be written there.
    pub(super) fn is_read_only(&self) -> bool {
        let refused = |kind| matches!(kind, io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied);
        matches!(self, Self::Io { source, .. } if refused(source.kind()))
    }

    /// Returns true if a full disk or quota is the reason.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { source, .. } => is_full(source),
            _ => false,
        }
    }
}

/// Returns true if the system says that a disk or a quota is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
