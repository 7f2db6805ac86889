//! Errors of opening weights: the operation, the file and the fix.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::fetch::FetchError;
use crate::gguf::GgufError;
use crate::header::HeaderError;
use crate::landing::LandingError;
use crate::plan::PlanError;
use crate::source::SourceError;

/// Errors of opening weights. The cause, where there is one, is the error's source and is
/// not repeated in its message.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The path given as a model directory does not exist or is not a directory.
    #[error("opening the weights in {path}: not a directory; give the directory that holds the model's files")]
    NotADirectory {
        /// The path that was given.
        path: PathBuf,
    },
    /// The directory could not be listed.
    #[error("listing {path}; check that it exists and may be read")]
    ListDirectory {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The directory holds no weights at all.
    #[error(
        "opening the weights in {path}: no *.safetensors and no *.gguf file; download the model's safetensors files into it"
    )]
    NoWeights {
        /// The directory.
        path: PathBuf,
    },
    /// A part of a model in several files is missing.
    #[error(
        "looking at {url}: there is no {file} beside it, and the model is in several files; give a folder that holds all of them"
    )]
    MissingPart {
        /// The model's URL.
        url: String,
        /// The file that is not there.
        file: String,
    },
    /// The directory holds several GGUF files, and nothing says which is meant.
    #[error("opening the weights in {path}: found {first} and {second}; give the one file that is meant")]
    SeveralGgufs {
        /// The directory.
        path: PathBuf,
        /// One of them.
        first: String,
        /// Another.
        second: String,
    },
    /// The directory holds weights of another format only.
    #[error(
        "opening the weights in {path}: found {found} but neither *.safetensors nor a *.gguf file, which are read; convert \
         the model with transformers: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)"
    )]
    ForeignWeights {
        /// The directory.
        path: PathBuf,
        /// A file of the other format.
        found: String,
    },
    /// Shard files are numbered, and one number is absent.
    #[error("opening the weights in {path}: the shard file {missing} is missing; finish the download")]
    IncompleteShards {
        /// The directory.
        path: PathBuf,
        /// The first shard file that is missing.
        missing: String,
    },
    /// A source did not do as asked.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There are no weights at a URL.
    #[error("{url}: {}", no_model(url))]
    NoModel {
        /// The model's URL.
        url: String,
    },
    /// A file that should be small is not.
    #[error("{url}: `{name}` has {bytes} bytes, over the limit of {limit_bytes}; it is not what its name says")]
    SmallFileTooLarge {
        /// The model's URL.
        url: String,
        /// The file.
        name: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// An index names more files than a model can have.
    #[error("the index names {count} shard files, over the limit of {limit}; it is damaged")]
    TooManyShards {
        /// The number that it names.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// The manifest was refused.
    #[error("{url}: reading forebay.manifest.json; write it anew with `forebay manifest --write`")]
    Manifest {
        /// The model's URL.
        url: String,
        /// The problem.
        #[source]
        source: wire::manifest::ManifestError,
    },
    /// Bytes are not what they must be.
    #[error(
        "`{object}`, bytes {}..{}, read from {source_url}: {found} instead of {expected}; the copy is damaged or not \
         the one that was published",
        .range.start, .range.end
    )]
    Corrupt {
        /// The object.
        object: String,
        /// Which bytes of it.
        range: std::ops::Range<u64>,
        /// The source's URL.
        source_url: String,
        /// Their digest.
        found: String,
        /// The digest that they must have.
        expected: String,
    },
    /// A store sends another header of a file than the verified copy in the cache has.
    #[error(
        "`{object}`: the header that {source_url} sends is not the one of the verified file in the cache, so it describes \
         other bytes; find out who changed the object, and if the change is meant, publish its digests anew"
    )]
    HeaderContradicted {
        /// The object.
        object: String,
        /// The store's URL.
        source_url: String,
    },
    /// Nothing may be asked, and the cache does not hold the model.
    #[error(
        "{url}: offline, and the cache does not hold this model; run `forebay pull {url}` online first, or unset \
         --offline, `loader.offline` and HF_HUB_OFFLINE"
    )]
    Offline {
        /// The model's URL.
        url: String,
    },
    /// Fetching failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Bytes could not be kept.
    #[error(transparent)]
    Landing(#[from] LandingError),
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A load that others wait for as well has ended.
    #[error("the load ended")]
    Ended(#[source] std::sync::Arc<LoadError>),
    /// Nobody waits for the load any more.
    #[error("the load was cancelled")]
    Cancelled,
    /// A directory changed while it was being looked at.
    #[error("{directory} changed while it was being opened; try again when whoever writes to it is done")]
    DirectoryChanged {
        /// The directory.
        directory: String,
    },
    /// A file could not be read.
    #[error("reading {path}; it may have been cut short while it was read, or the disk fails")]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Someone asked for a tensor that no file holds.
    #[error("there is no tensor `{name}`")]
    NoTensor {
        /// Its name.
        name: String,
    },
    /// The disk is full, or a quota is.
    #[error(
        "allocating {bytes} bytes for {path}: the disk or its quota is full; free space, or see `forebay cache gc`"
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// The bytes that were asked for.
        bytes: u64,
    },
    /// The machine has too little memory.
    #[error("holding {bytes} bytes of {name} in memory; give the machine more, or a disk for the cache")]
    NoMemory {
        /// The purpose.
        name: String,
        /// The bytes that were asked for.
        bytes: u64,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file could not be opened.
    #[error("opening {path}; check that it exists and may be read")]
    OpenFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The path is a directory, a pipe, a socket or a device.
    #[error("opening {path}: not a regular file; put the weights' file there")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file could not be mapped.
    #[error("mapping {path} into memory; check the limit on address space (ulimit -v) and vm.max_map_count")]
    MapFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// More files are mapped than the table of live mappings holds.
    #[error("mapping {path} into memory: {limit} files are mapped already; unload a model first")]
    TooManyRegions {
        /// The file.
        path: PathBuf,
        /// The most mappings that may live at once.
        limit: usize,
    },
    /// The header of a file was refused.
    #[error("reading the GGUF header of {file}")]
    Gguf {
        /// The file's path, or the object's name.
        file: String,
        /// The problem.
        #[source]
        source: GgufError,
    },
    /// A header is malformed.
    #[error("reading the safetensors header of {file}")]
    Header {
        /// The file.
        file: String,
        /// The problem.
        #[source]
        source: HeaderError,
    },
    /// A tensor is in two files.
    #[error(
        "opening the weights: the tensor {tensor:?} is in both {first} and {second}; remove the file that is stale"
    )]
    TensorInTwoFiles {
        /// The tensor.
        tensor: String,
        /// The file where it was first seen, or where the index says it is.
        first: String,
        /// The other file.
        second: String,
    },
    /// The index is larger than its limit.
    #[error("reading the index {index}: over the limit of {limit_bytes} bytes; it is damaged, download it again")]
    IndexTooLarge {
        /// The index file.
        index: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// The index is not the JSON it should be.
    #[error("reading the index {index}: not a JSON object with a weight_map of strings; download it again")]
    IndexJson {
        /// The index file.
        index: PathBuf,
        /// The JSON reader's error.
        #[source]
        source: serde_json::Error,
    },
    /// The index has no `weight_map`.
    #[error("reading the index {index}: it has no weight_map; download it again")]
    IndexWithoutMap {
        /// The index file.
        index: PathBuf,
    },
    /// The index has a key twice.
    #[error("reading the index {index}: the key {key:?} is given twice; download it again or write it anew")]
    IndexDuplicateKey {
        /// The index file.
        index: PathBuf,
        /// The key.
        key: String,
    },
    /// The index names a file outside its directory.
    #[error(
        "reading the index {index}: the tensor {tensor:?} is said to be in {file:?}, but a shard file's name must be \
         relative and stay within the directory; do not use this model unless you trust its publisher, and correct the index"
    )]
    IndexUnsafeName {
        /// The index file.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The name that was refused.
        file: String,
    },
    /// A shard file that the index names is missing.
    #[error("opening the weights by {index}: the shard file {file} is missing; finish the download")]
    IndexMissingShard {
        /// The index file.
        index: PathBuf,
        /// The missing file.
        file: String,
    },
    /// A tensor is not in the file that the index names.
    #[error(
        "opening the weights by {index}: the tensor {tensor:?} is not in {file}; index and shard files are of different \
         revisions, download them together"
    )]
    IndexMissingTensor {
        /// The index file.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard file where it should be.
        file: String,
    },
    /// A shard file holds a tensor that the index does not list.
    #[error(
        "opening the weights by {index}: {file} holds the tensor {tensor:?}, which the index does not list; index and \
         shard files are of different revisions, download them together"
    )]
    IndexUnlistedTensor {
        /// The index file.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard file that holds it.
        file: String,
    },
}

impl LoadError {
    /// Returns true if the store could not be asked, so that another copy of the model may do.
    #[must_use]
    pub(crate) fn is_unreachable(&self) -> bool {
        use SourceError::{NoCredentials, Throttled, Transient};
        matches!(self, Self::Source(Transient { .. } | Throttled { .. } | NoCredentials { .. }))
    }
}

/// The way out where there is no model: the URL of one file is not exact, or a folder holds other files.
fn no_model(url: &str) -> &'static str {
    let path = url.rsplit_once('@').map_or(url, |(path, _)| path);
    if path.to_ascii_lowercase().ends_with(".gguf") {
        "there is no such file; names are exact, capitals included: copy it from the list of the folder's files"
    } else {
        "there is neither model.safetensors nor model.safetensors.index.json; give the folder that holds the model's \
         files, as Hugging Face publishes them, or the one GGUF file that is meant, as in hf://ORG/NAME/FILE.gguf"
    }
}
