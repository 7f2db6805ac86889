//! `model.safetensors.index.json`: which tensor is in which shard file.
//!
//! The index comes from the same stranger as the weights, so its file names must stay within the
//! directory. Where the files really lie (links into a cache) is not its business.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::LoadError;
use crate::json::Entries;

/// The largest index that is read. The largest in the wild (a hundred thousand tensors of a
/// mixture of experts) has about ten million bytes.
const INDEX_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A parsed index, its file names safe to open.
pub(crate) struct Index {
    /// The index's path.
    pub(crate) path: PathBuf,
    /// `metadata.total_size`, if it is an integer.
    pub(super) total_bytes: Option<u64>,
    shard_of: HashMap<String, String>,
}

impl Index {
    /// Reads and checks an index file.
    pub(super) fn read(path: PathBuf) -> Result<Self, LoadError> {
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(INDEX_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|source| LoadError::OpenFile { path: path.clone(), source })?;
        if bytes.len() as u64 > INDEX_BYTES_MAX {
            return Err(LoadError::IndexTooLarge { index: path, limit_bytes: INDEX_BYTES_MAX });
        }
        Self::parse(path, &bytes)
    }

    /// Parses and checks an index; `path` is for messages.
    pub(crate) fn parse(path: PathBuf, bytes: &[u8]) -> Result<Self, LoadError> {
        let json_error = |source| LoadError::IndexJson { index: path.clone(), source };
        let top = unique(&path, serde_json::from_slice::<Entries<&RawValue>>(bytes).map_err(json_error)?)?;
        let field = |name: &str| top.iter().find(|(key, _)| key == name).map(|(_, value)| value.get());
        let total_bytes = field("metadata").and_then(total_size);
        let Some(weight_map) = field("weight_map") else {
            return Err(LoadError::IndexWithoutMap { index: path });
        };
        let entries = unique(&path, serde_json::from_str::<Entries<String>>(weight_map).map_err(json_error)?)?;
        if let Some((tensor, file)) = entries.iter().find(|(_, file)| !stays_within(file)) {
            return Err(LoadError::IndexUnsafeName { index: path, tensor: tensor.clone(), file: file.clone() });
        }
        Ok(Self { path, total_bytes, shard_of: entries.into_iter().collect() })
    }

    /// Each shard file with the tensors listed in it.
    pub(crate) fn shards(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut shards = BTreeMap::<_, Vec<_>>::new();
        for (tensor, shard) in &self.shard_of {
            shards.entry(shard.as_str()).or_default().push(tensor.as_str());
        }
        shards
    }

    /// Checks that a tensor found in `shard` is listed there.
    pub(crate) fn check_listed(&self, tensor: &str, shard: &str) -> Result<(), LoadError> {
        let (index, tensor, file) = (self.path.clone(), tensor.to_owned(), shard.to_owned());
        match self.shard_of.get(&tensor) {
            Some(listed) if listed == shard => Ok(()),
            Some(listed) => Err(LoadError::TensorInTwoFiles { tensor, first: listed.clone(), second: file }),
            None => Err(LoadError::IndexUnlistedTensor { index, tensor, file }),
        }
    }
}

fn unique<V>(path: &Path, entries: Entries<V>) -> Result<Vec<(String, V)>, LoadError> {
    match entries.duplicate() {
        Some(key) => Err(LoadError::IndexDuplicateKey { index: path.to_owned(), key: key.to_owned() }),
        None => Ok(entries.0),
    }
}

/// `total_size` of the metadata, or nothing if it is absent or strange: it is only a hint.
fn total_size(metadata: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Metadata {
        total_size: Option<f64>,
    }
    // Some writers state it as a float; sizes stay far below where a float loses integers.
    let size = serde_json::from_str::<Metadata>(metadata).ok()?.total_size?;
    (size >= 0.0 && size.fract() == 0.0).then_some(size as u64)
}

/// Returns true if a shard file's name is made of plain names only: not absolute, not climbing.
fn stays_within(file: &str) -> bool {
    let plain = Path::new(file).components().all(|component| matches!(component, Component::Normal(_)));
    plain && !file.is_empty() && !file.contains(['\\', '\0'])
}
