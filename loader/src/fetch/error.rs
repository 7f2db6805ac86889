//! Errors that end a load from far storage.

use std::ops::Range;

use thiserror::Error;

use crate::landing::LandingError;
use crate::source::SourceError;

/// Errors that end a load from far storage.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Trying again cannot help.
    #[error("fetching `{object}`, bytes {}..{}", .range.start, .range.end)]
    Permanent {
        /// The object.
        object: String,
        /// Which bytes of it.
        range: Range<u64>,
        /// The source's error.
        #[source]
        source: Box<SourceError>,
    },
    /// The same extent came wrong twice.
    #[error(
        "fetching `{object}`: bytes {}..{} came corrupt twice, from {first_url} and from {second_url}; \
         check the object against its manifest (`forebay verify`)", .range.start, .range.end
    )]
    Corrupt {
        /// The object.
        object: String,
        /// The extent's bytes.
        range: Range<u64>,
        /// The source of the first copy.
        first_url: String,
        /// The source of the second copy.
        second_url: String,
        /// The problem of the second copy.
        #[source]
        source: Box<LandingError>,
    },
    /// Attempts or time have run out.
    #[error(
        "fetching `{object}`, bytes {}..{}: gave up after {tries} failed attempts in {seconds:.0} s",
        .range.start, .range.end
    )]
    Exhausted {
        /// The object.
        object: String,
        /// Which bytes of it were still missing.
        range: Range<u64>,
        /// Failed attempts.
        tries: u32,
        /// Since the first failure.
        seconds: f64,
        /// The last failure.
        #[source]
        source: Box<SourceError>,
    },
    /// The peers did not give it, and there is nobody else to ask.
    #[error(
        "fetching file {file} of the manifest, bytes {}..{}: no peer gave it for {seconds:.0} s, and there is no other \
         source; start the load again when a peer that has it can be reached, or its storage", .range.start, .range.end
    )]
    NoPeer {
        /// The file, by its place among those that are loaded.
        file: usize,
        /// Which bytes of it.
        range: Range<u64>,
        /// Since anything came.
        seconds: f64,
    },
    /// Someone else is writing the same bytes.
    #[error("fetching `{object}`, bytes {}..{}: another load is writing them", .range.start, .range.end)]
    Busy {
        /// The object.
        object: String,
        /// Which bytes of it.
        range: Range<u64>,
    },
    /// The job or the configuration cannot work.
    #[error("fetching: {problem}")]
    Config {
        /// The problem.
        problem: String,
    },
}
