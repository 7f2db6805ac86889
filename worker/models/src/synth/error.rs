//! Errors of writing a model.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Errors of writing a model.
#[derive(Debug, Error)]
pub enum SynthError {
    /// The family or size is not known.
    #[error("there is no geometry {arch} {size}; choose one of: {known}")]
    UnknownGeometry {
        /// The family asked for.
        arch: String,
        /// The size asked for.
        size: String,
        /// All that are known.
        known: String,
    },
    /// The dtype is not known.
    #[error("there is no dtype {dtype}; choose bf16, f16 or f32")]
    UnknownDtype {
        /// The dtype asked for.
        dtype: String,
    },
    /// The shard size is not a size.
    #[error("{text:?} is not a shard size; write for example 5GB, 200MB or 1GiB")]
    ShardSize {
        /// The text.
        text: String,
    },
    /// The directory has something in it.
    #[error("writing a model to {path}: the directory is not empty; name a new one or empty it")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A file could not be written. What was written before it is left there.
    #[error("writing {path}; check the permissions and the free space")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}
