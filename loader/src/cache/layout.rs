//! The paths below the cache's root. Names alone: nothing here touches the disk.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use wire::digest::Digest;
use wire::manifest::{MANIFEST_NAME, check_name};

use super::error::CacheError;
use super::journal::hash_object;
use crate::source::Object;

/// The folder within a model's directory that is ours; everything beside it is as published.
const OURS: &str = ".forebay";

/// The paths of one cache.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.join("v1") }
    }

    /// The folder of this version of the layout.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// All finished models, each in a directory named by its root.
    pub(super) fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    pub(super) fn model(&self, root: Digest) -> PathBuf {
        self.models().join(root.to_hex())
    }

    /// All loads under way or broken off, each in a directory named by its key.
    pub(super) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(super) fn partial(&self, key: Digest) -> PathBuf {
        self.partials().join(key.to_hex())
    }

    /// References: the content that each URL was last found to have.
    pub(super) fn references(&self) -> PathBuf {
        self.root.join("refs")
    }

    pub(super) fn reference(&self, url: &str) -> PathBuf {
        self.references().join(format!("{}.json", blake3::hash(url.as_bytes()).to_hex()))
    }

    pub(super) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// Held by whoever loads (exclusive) or uses (shared) the model or load of this name.
    pub(super) fn lock(&self, name: Digest) -> PathBuf {
        self.locks().join(name.to_hex())
    }

    /// Held while room is being made, so that two loads do not both take the last of it.
    pub(super) fn space_lock(&self) -> PathBuf {
        self.locks().join("space")
    }

    /// Notes of others on where models come from.
    pub(super) fn notes(&self) -> PathBuf {
        self.root.join("notes")
    }

    /// Models being removed: they are renamed to here first, so that they disappear at once.
    pub(super) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }
}

/// Within a model's directory, finished or not: what it was loaded from.
pub(super) fn origin(directory: &Path) -> PathBuf {
    directory.join(OURS).join("origin.json")
}

/// Within a finished model's directory: its files' identities.
pub(super) fn record(directory: &Path) -> PathBuf {
    directory.join(OURS).join("model.json")
}

/// Its modification time is when the model was last used.
pub(super) fn used(directory: &Path) -> PathBuf {
    directory.join(OURS).join("used")
}

/// It exists while the model is pinned.
pub(super) fn pinned(directory: &Path) -> PathBuf {
    directory.join(OURS).join("pinned")
}

pub(super) fn manifest(directory: &Path) -> PathBuf {
    directory.join(MANIFEST_NAME)
}

/// The journal of a file; `name` was checked.
pub(super) fn journal(directory: &Path, name: &str) -> PathBuf {
    directory.join(OURS).join("journal").join(format!("{name}.journal"))
}

/// The path of a model's file.
///
/// # Errors
/// The name is no plain relative path, or would lie in the folder that is ours.
pub(super) fn file(directory: &Path, name: &str) -> Result<PathBuf, CacheError> {
    check_name(name).map_err(|problem| CacheError::Name { problem })?;
    if name.split('/').next() == Some(OURS) {
        return Err(CacheError::Name { problem: format!("is {name:?}; the folder {OURS} is the cache's own") });
    }
    Ok(directory.join(name))
}

/// The name of a load whose content is not known yet: a digest of URL, names, sizes and tags.
pub(super) fn key(url: &str, objects: &[Object]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("forebay cache provisional key v1");
    hasher.update(&(url.len() as u64).to_le_bytes());
    hasher.update(url.as_bytes());
    let mut sorted: Vec<&Object> = objects.iter().collect();
    sorted.sort_unstable_by(|left, right| left.name.cmp(&right.name));
    sorted.into_iter().for_each(|object| hash_object(&mut hasher, object));
    Digest(*hasher.finalize().as_bytes())
}

/// The cache's root unless configured: `$FOREBAY_CACHE`, `$XDG_CACHE_HOME/forebay` or
/// `$HOME/.cache/forebay`.
pub(super) fn default_root(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("FOREBAY_CACHE")
        // A relative XDG_CACHE_HOME is to be ignored, says the XDG Base Directory Specification.
        .or_else(|| set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("forebay")))
        .or_else(|| set("HOME").map(|path| path.join(".cache").join("forebay")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;
    use crate::source::Tag;

    #[test]
    fn the_root_is_where_the_environment_says() {
        let root = |set: &[(&str, &str)]| {
            default_root(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        let all = [("FOREBAY_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(root(&all), Some("/a".into()));
        assert_eq!(root(&all[1..]), Some("/b/forebay".into()));
        assert_eq!(root(&all[2..]), Some("/c/.cache/forebay".into()));
        assert_eq!(
            root(&[("FOREBAY_CACHE", ""), ("XDG_CACHE_HOME", "b"), ("HOME", "/c")]),
            Some("/c/.cache/forebay".into())
        );
        assert_eq!(root(&[]), None);
    }

    #[test]
    fn names_stay_within_the_model() {
        let directory = Path::new("/models/m");
        assert_eq!(file(directory, "a/b.safetensors").unwrap(), Path::new("/models/m/a/b.safetensors"));
        for wrong in ["../a", "/a", "a/../b", "", ".forebay/model.json", "a\\b"] {
            assert!(file(directory, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_of_everything_that_pins_the_objects_and_of_no_order() {
        let object = |name: &str, etag: &str| Object {
            name: name.into(),
            bytes: 1,
            tag: Tag { etag: Some(etag.into()), ..Tag::default() },
            checksum: None,
        };
        let first = key("u", &[object("a", "1"), object("b", "2")]);
        assert_eq!(first, key("u", &[object("b", "2"), object("a", "1")]));
        assert_ne!(first, key("v", &[object("a", "1"), object("b", "2")]));
        assert_ne!(first, key("u", &[object("a", "1"), object("b", "3")]));
        assert_ne!(first, key("u", &[object("a", "1")]));
    }
}
