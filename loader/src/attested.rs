//! Files that are known by a digest of the whole alone, as a hub tells them: nothing says what one extent must be.
//!
//! Whoever proved such files knows the digests of their extents and may *attest* them. Nobody is believed for it: attested
//! digests tell which peer sent something else, and the whole decides whether any byte is shown. Files are asked for
//! by a key: everybody who knows what the wholes must be has the same one.

use std::sync::atomic::{AtomicBool, Ordering};

use std::sync::Arc;
use wire::digest::Digest;
use wire::manifest::Manifest;

use crate::fetch::Keeper;
use crate::landing::LandingError;

const CONTEXT: &str = "forebay files known as wholes v1";

/// A file that is known as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whole {
    name: String,
    bytes: u64,
    /// The name of the expectation that it meets as a whole.
    met: Digest,
}

impl Whole {
    pub(crate) fn new(name: &str, bytes: u64, met: Digest) -> Self {
        Self { name: name.to_owned(), bytes, met }
    }
}

/// The key of these files, given in any order; none where there are none.
pub(crate) fn key(mut files: Vec<Whole>) -> Option<Digest> {
    files.sort_unstable_by(|left, right| left.name.cmp(&right.name));
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    for Whole { name, bytes, met } in &files {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&bytes.to_le_bytes());
        hasher.update(&met.0);
    }
    (!files.is_empty()).then(|| Digest(*hasher.finalize().as_bytes()))
}

/// Says why a manifest is not one of these files; sizes are known from elsewhere.
pub(crate) fn check(manifest: &Manifest, files: &[Whole]) -> Result<(), String> {
    let is_there = |whole: &&Whole| manifest.file(&whole.name).is_some_and(|file| file.bytes == whole.bytes);
    match files.iter().find(|whole| !is_there(whole)) {
        Some(missing) => Err(format!("it attests no `{}` of {} bytes", missing.name, missing.bytes)),
        None if manifest.files().len() != files.len() => Err("it attests other files as well".to_owned()),
        None => Ok(()),
    }
}

/// Digests of extents that a member attests.
#[derive(Debug)]
pub(crate) struct Attestation {
    pub(crate) manifest: Manifest,
    /// The member's id.
    pub(crate) by: String,
    /// Storage sent other bytes: one of the two is wrong, and peers are asked no more.
    pub(crate) is_contradicted: AtomicBool,
}

/// Judges what peers send by attested digests, and what storage sends by nothing but the whole.
pub(crate) struct AttestedKeeper {
    /// Keeps what was judged, and judges the whole.
    pub(crate) keeper: Arc<dyn Keeper>,
    pub(crate) attestation: Arc<Attestation>,
    pub(crate) object: String,
}

impl Keeper for AttestedKeeper {
    fn check(&self, extent: u64, digest: blake3::Hash, source_url: &str) -> Result<(), LandingError> {
        let Attestation { manifest, by, is_contradicted } = &*self.attestation;
        let file = manifest.file(&self.object);
        let attested = file.and_then(|file| file.extents.get(usize::try_from(extent).ok()?));
        let is_it = attested.is_some_and(|attested| attested.0 == *digest.as_bytes());
        if !source_url.starts_with(PEER) {
            if !is_it && !is_contradicted.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    object = self.object,
                    extent,
                    attested_by = by,
                    "storage sent other bytes than a peer attests; peers are left"
                );
            }
            return self.keeper.check(extent, digest, source_url);
        }
        if is_it && !is_contradicted.load(Ordering::Relaxed) {
            return self.keeper.check(extent, digest, source_url);
        }
        let bytes = file.map_or(0, |file| file.bytes);
        Err(LandingError::Corrupt {
            object: self.object.clone(),
            range: wire::extent::range(bytes, extent).unwrap_or_default(),
            source_url: source_url.to_owned(),
            found: digest.to_hex().to_string(),
            expected: attested.map_or_else(|| "nothing".to_owned(), |attested| format!("{attested}, as {by} attests")),
        })
    }

    fn keep(&self, extent: u64, digest: blake3::Hash, bytes: &[u8]) -> Result<(), LandingError> {
        self.keeper.keep(extent, digest, bytes)
    }
}

/// The scheme of peers' URLs.
const PEER: &str = "peer://";

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;
    use wire::manifest::ManifestFile;

    fn whole(name: &str, bytes: u64, met: u8) -> Whole {
        Whole::new(name, bytes, Digest([met; 32]))
    }

    #[test]
    fn a_key_stands_for_names_sizes_and_wholes_in_any_order() {
        let (a, b) = (whole("a", 1, 1), whole("b", 2, 2));
        let both = key(vec![a.clone(), b.clone()]);
        assert_eq!(both, key(vec![b.clone(), a.clone()]));
        assert_eq!(key(Vec::new()), None);
        for other in [vec![a.clone()], vec![a.clone(), whole("b", 2, 3)], vec![a.clone(), whole("b", 3, 2)]] {
            assert_ne!(both, key(other));
        }
        assert_ne!(key(vec![whole("ab", 1, 1)]), key(vec![whole("a", 1, 1)]));
    }

    fn manifest(files: &[(&str, u64)]) -> Manifest {
        let file = |(name, bytes): &(&str, u64)| ManifestFile {
            name: (*name).to_owned(),
            bytes: *bytes,
            extents: vec![Digest(*blake3::hash(b"right").as_bytes()); wire::extent::count(*bytes) as usize],
            tensors: Vec::new(),
        };
        Manifest::new(files.iter().map(file).collect()).unwrap()
    }

    #[test]
    fn only_the_very_files_are_taken() {
        let files = [whole("a", 1, 1), whole("b", 2, 2)];
        assert_eq!(check(&manifest(&[("a", 1), ("b", 2)]), &files), Ok(()));
        for other in [&[("a", 1)][..], &[("a", 1), ("b", 3)], &[("a", 1), ("c", 2)], &[("a", 1), ("b", 2), ("c", 3)]] {
            assert!(check(&manifest(other), &files).is_err(), "{other:?}");
        }
    }

    struct Yes;

    impl Keeper for Yes {
        fn check(&self, _: u64, _: blake3::Hash, _: &str) -> Result<(), LandingError> {
            Ok(())
        }

        fn keep(&self, _: u64, _: blake3::Hash, _: &[u8]) -> Result<(), LandingError> {
            Ok(())
        }
    }

    #[test]
    fn peers_are_judged_until_storage_contradicts_and_storage_never_is() {
        let attestation =
            Attestation { manifest: manifest(&[("a", 1)]), by: "liar".into(), is_contradicted: AtomicBool::new(false) };
        let attestation = Arc::new(attestation);
        let keeper =
            AttestedKeeper { keeper: Arc::new(Yes), attestation: Arc::clone(&attestation), object: "a".into() };
        let (right, other) = (blake3::hash(b"right"), blake3::hash(b"other"));
        let is_fine = |digest, url| keeper.check(0, digest, url).is_ok();
        assert!(is_fine(right, "peer://x") && !is_fine(other, "peer://x") && is_fine(right, "hf://x"));
        assert!(keeper.check(1, right, "peer://x").is_err(), "beyond the file");
        assert!(!attestation.is_contradicted.load(Ordering::Relaxed));
        assert!(is_fine(other, "hf://x") && attestation.is_contradicted.load(Ordering::Relaxed));
        assert!(!is_fine(right, "peer://x") && is_fine(right, "hf://x"));
    }
}
