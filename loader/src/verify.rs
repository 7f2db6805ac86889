//! Holding bytes against what they must be.
//!
//! An object with extent digests is judged extent by extent as it lands, before anything of it is
//! shown. An object that is known only as a whole, or by a signer's shards, is held until all its
//! bytes were hashed. Where nobody says what bytes must be, their digests are noted, so that a
//! manifest can be made of them. This file decides nothing about whom to believe: that is the
//! verdict it is given.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use wire::digest::{AnyDigest, Digest};
use wire::evidence::{Expected, ShardDigest, Verdict};
use wire::extent::{self, EXTENT_BYTES};

use crate::landing::LandingError;
use crate::probe::Shard;
use crate::{LoadError, Region};

/// Judges the extents of one object and notes their digests.
pub(crate) struct Checks {
    object: String,
    bytes: u64,
    expected: Expected,
    /// The file's beginning as it was parsed, and must be.
    head: Arc<[u8]>,
    seen: Mutex<Vec<Option<blake3::Hash>>>,
}

impl Checks {
    pub(crate) fn new(object: &str, bytes: u64, expected: Expected, head: Arc<[u8]>) -> Self {
        let count = usize::try_from(extent::count(bytes)).expect("extents are counted in memory");
        Self { object: object.to_owned(), bytes, expected, head, seen: Mutex::new(vec![None; count]) }
    }

    /// The checks of a file of weights.
    pub(crate) fn of(shard: &Shard, verdict: &Verdict) -> Self {
        let (name, bytes) = (&shard.object.name, shard.object.bytes);
        Self::new(name, bytes, verdict.expected(name).clone(), Arc::clone(&shard.head))
    }

    /// Returns true if this object can be judged only as a whole.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.expected, Expected::Whole(_) | Expected::Shards(_))
    }

    /// Checks that this is the digest that the extent must have.
    pub(crate) fn check(&self, extent: u64, digest: blake3::Hash, source_url: &str) -> Result<(), LandingError> {
        match &self.expected {
            Expected::Extents(digests) => {
                let expected = usize::try_from(extent).ok().and_then(|place| digests.get(place));
                match expected {
                    Some(expected) if expected.0 == *digest.as_bytes() => Ok(()),
                    Some(expected) => Err(self.corrupt(extent, digest, expected.to_string(), source_url)),
                    None => Err(self.corrupt(extent, digest, "nothing: the manifest ends before".into(), source_url)),
                }
            }
            Expected::NotCovered => {
                let expected = "nothing: neither manifest nor signature lists it".into();
                Err(self.corrupt(extent, digest, expected, source_url))
            }
            Expected::Whole(_) | Expected::Shards(_) | Expected::Unknown => Ok(()),
        }
    }

    /// Takes a checked extent whose bytes are in place: its header must be the one that was
    /// parsed.
    pub(crate) fn keep(
        &self,
        extent: u64,
        digest: blake3::Hash,
        bytes: &[u8],
        source_url: &str,
    ) -> Result<(), LandingError> {
        if !self.agrees_with_head(extent, bytes) {
            return Err(self.corrupt(extent, digest, "the header that was read first".into(), source_url));
        }
        self.note(extent, digest);
        Ok(())
    }

    /// Notes an extent's digest.
    pub(crate) fn note(&self, extent: u64, digest: blake3::Hash) {
        let place = usize::try_from(extent).expect("extents are counted in memory");
        self.seen.lock()[place] = Some(digest);
    }

    /// The extents that hold bytes of the file's header.
    pub(crate) fn header_extents(&self) -> Range<u64> {
        0..extent::count(self.head.len() as u64)
    }

    /// The file's beginning as it was parsed.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Returns true if digests say what each extent must be, before any of it lands.
    pub(crate) fn knows_extents(&self) -> bool {
        matches!(self.expected, Expected::Extents(_))
    }

    fn corrupt(&self, extent: u64, digest: blake3::Hash, expected: String, source_url: &str) -> LandingError {
        LandingError::Corrupt {
            object: self.object.clone(),
            range: extent::range(self.bytes, extent).unwrap_or_default(),
            source_url: source_url.to_owned(),
            found: digest.to_hex().to_string(),
            expected,
        }
    }

    /// Returns true if an extent begins as the header did when it was parsed: the tensors' places come
    /// from there.
    fn agrees_with_head(&self, extent: u64, bytes: &[u8]) -> bool {
        let begin = usize::try_from(extent * EXTENT_BYTES).expect("an object fits the address space");
        let rest = self.head.get(begin..).unwrap_or_default();
        let common = rest.len().min(bytes.len());
        rest[..common] == bytes[..common]
    }

    /// The digests of all extents, if all were judged.
    pub(crate) fn digests(&self) -> Option<Vec<Digest>> {
        let seen = self.seen.lock();
        seen.iter().map(|digest| digest.map(|digest| Digest(*digest.as_bytes()))).collect()
    }

    /// Judges a finished file as a whole: by its extents, or as a held object.
    ///
    /// # Errors
    /// It is not what it must be.
    pub(crate) fn judge_file(&self, region: &Region, source_url: &str) -> Result<(), LoadError> {
        for extent in 0..extent::count(self.bytes) {
            let range = extent::range(self.bytes, extent).unwrap_or_default();
            let bytes = region.arrived(range).map_err(LoadError::Ended)?;
            let digest = blake3::hash(bytes);
            self.check(extent, digest, source_url)?;
            self.keep(extent, digest, bytes, source_url)?;
        }
        self.judge_whole(region, source_url).map_err(LoadError::Ended)
    }

    /// Judges a held object as its bytes arrive, and shows it when it was found right. Blocks
    /// until then.
    ///
    /// # Errors
    /// It is not what it must be, or the load failed.
    pub(crate) fn judge_whole(&self, region: &Region, source_url: &str) -> Result<(), Arc<LoadError>> {
        let whole;
        let shards = match &self.expected {
            Expected::Shards(shards) => shards.as_slice(),
            Expected::Whole(digest) => {
                whole = [ShardDigest { range: 0..self.bytes, digest: *digest }];
                &whole
            }
            _ => return Ok(()),
        };
        for shard in shards {
            let found = hash_range(region, shard)?;
            if found != shard.digest {
                return Err(Arc::new(LoadError::Corrupt {
                    object: self.object.clone(),
                    range: shard.range.clone(),
                    source_url: source_url.to_owned(),
                    found: found.to_string(),
                    expected: shard.digest.to_string(),
                }));
            }
        }
        region.show();
        Ok(())
    }
}

/// Hashes a range as its bytes arrive.
fn hash_range(region: &Region, shard: &ShardDigest) -> Result<AnyDigest, Arc<LoadError>> {
    let mut hasher = match shard.digest {
        AnyDigest::Blake3(_) => Hasher::Blake3(Box::default()),
        AnyDigest::Sha256(_) => Hasher::Sha256(Sha256::new()),
    };
    let mut from = shard.range.start;
    while from < shard.range.end {
        let to = ((from / EXTENT_BYTES + 1) * EXTENT_BYTES).min(shard.range.end);
        let bytes = region.arrived(from..to)?;
        match &mut hasher {
            Hasher::Blake3(hasher) => drop(hasher.update(bytes)),
            Hasher::Sha256(hasher) => hasher.update(bytes),
        }
        from = to;
    }
    Ok(match hasher {
        Hasher::Blake3(hasher) => AnyDigest::Blake3(Digest(*hasher.finalize().as_bytes())),
        Hasher::Sha256(hasher) => AnyDigest::Sha256(wire::digest::Sha256(hasher.finalize().into())),
    })
}

enum Hasher {
    Blake3(Box<blake3::Hasher>),
    Sha256(Sha256),
}

/// A name for an expectation that only a whole object meets, to note that an object met it. Extents
/// need none: the manifest of a finished model has them.
pub(crate) fn fingerprint(expected: &Expected) -> Option<Digest> {
    let whole;
    let shards = match expected {
        Expected::Shards(shards) => shards.as_slice(),
        Expected::Whole(digest) => {
            whole = [ShardDigest { range: 0..u64::MAX, digest: *digest }];
            &whole
        }
        Expected::Extents(_) | Expected::Unknown | Expected::NotCovered => return None,
    };
    let mut hasher = blake3::Hasher::new_derive_key("forebay expectation of a whole object v1");
    for ShardDigest { range, digest } in shards {
        hasher.update(format!("{}..{} {digest}\n", range.start, range.end).as_bytes());
    }
    Some(Digest(*hasher.finalize().as_bytes()))
}

/// Holds a small object's bytes against what they must be.
///
/// # Errors
/// They are something else, or nobody who decides lists the object.
pub(crate) fn check_small(object: &str, bytes: &[u8], expected: &Expected, source_url: &str) -> Result<(), LoadError> {
    let corrupt = |range: Range<u64>, found: String, expected: String| LoadError::Corrupt {
        object: object.to_owned(),
        range,
        source_url: source_url.to_owned(),
        found,
        expected,
    };
    let length = bytes.len() as u64;
    match expected {
        Expected::Unknown => Ok(()),
        Expected::NotCovered => Err(corrupt(0..length, "an object".into(), "nothing: it is not listed".into())),
        Expected::Extents(digests) => {
            let found: Vec<Digest> = digests_of(bytes);
            let wrong = (0..).zip(&found).find(|(place, digest)| digests.get(*place) != Some(*digest));
            match wrong {
                None if found.len() == digests.len() => Ok(()),
                None => Err(corrupt(0..length, format!("{} extents", found.len()), format!("{}", digests.len()))),
                Some((place, found)) => {
                    let range = extent::range(length, place as u64).unwrap_or_default();
                    let expected = digests.get(place).map_or_else(|| "nothing".into(), ToString::to_string);
                    Err(corrupt(range, found.to_string(), expected))
                }
            }
        }
        Expected::Whole(digest) => check_ranges(bytes, &[ShardDigest { range: 0..length, digest: *digest }], corrupt),
        Expected::Shards(shards) => check_ranges(bytes, shards, corrupt),
    }
}

fn check_ranges(
    bytes: &[u8],
    shards: &[ShardDigest],
    corrupt: impl Fn(Range<u64>, String, String) -> LoadError,
) -> Result<(), LoadError> {
    for ShardDigest { range, digest } in shards {
        let part = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let part = part.and_then(|(start, end)| bytes.get(start..end)).unwrap_or_default();
        let found = match digest {
            AnyDigest::Blake3(_) => AnyDigest::Blake3(Digest(*blake3::hash(part).as_bytes())),
            AnyDigest::Sha256(_) => AnyDigest::Sha256(wire::digest::Sha256(Sha256::digest(part).into())),
        };
        if found != *digest {
            return Err(corrupt(range.clone(), found.to_string(), digest.to_string()));
        }
    }
    Ok(())
}

/// The digests of an object's extents.
#[must_use]
pub(crate) fn digests_of(bytes: &[u8]) -> Vec<Digest> {
    let extent = usize::try_from(EXTENT_BYTES).expect("an extent fits memory");
    bytes.chunks(extent).map(|extent| Digest(*blake3::hash(extent).as_bytes())).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    fn object() -> Vec<u8> {
        (0..EXTENT_BYTES + 100).map(|index| (index % 250) as u8 + 1).collect()
    }

    fn judge(checks: &Checks, object: &[u8], extent: usize) -> Result<(), LandingError> {
        let bytes = object.chunks(EXTENT_BYTES as usize).nth(extent).unwrap();
        let digest = blake3::hash(bytes);
        checks.check(extent as u64, digest, "test://")?;
        checks.keep(extent as u64, digest, bytes, "test://")
    }

    #[test]
    fn a_flipped_bit_is_found_and_named() {
        let object = object();
        let length = object.len() as u64;
        let checks = Checks::new("o", length, Expected::Extents(digests_of(&object)), [].into());
        let mut flipped = object.clone();
        flipped[EXTENT_BYTES as usize + 7] ^= 4;
        judge(&checks, &flipped, 0).unwrap();
        let message = judge(&checks, &flipped, 1).unwrap_err().to_string();
        assert!(message.contains("`o`, bytes 4194304..4194404, read from test://"), "{message}");
        assert_eq!(checks.digests(), None);
        judge(&checks, &object, 1).unwrap();
        assert_eq!(checks.digests().unwrap(), digests_of(&object));
    }

    #[test]
    fn a_header_that_changed_after_it_was_parsed_is_found_even_where_nobody_knows_digests() {
        let object = object();
        let mut head = object[..50].to_vec();
        let length = object.len() as u64;
        judge(&Checks::new("o", length, Expected::Unknown, head.clone().into()), &object, 0).unwrap();
        head[3] ^= 1;
        assert!(judge(&Checks::new("o", length, Expected::Unknown, head.into()), &object, 0).is_err());
    }

    #[test]
    fn what_is_known_only_as_a_whole_is_held_until_it_was_hashed() {
        let object = object();
        let sha256 = |bytes: &[u8]| AnyDigest::Sha256(wire::digest::Sha256(Sha256::digest(bytes).into()));
        let cut = 1_000_000;
        let shards = vec![
            ShardDigest { range: 0..cut as u64, digest: sha256(&object[..cut]) },
            ShardDigest { range: cut as u64..object.len() as u64, digest: sha256(&object[cut..]) },
        ];
        for expected in [Expected::Whole(sha256(&object)), Expected::Shards(shards)] {
            for is_right in [true, false] {
                let region = Region::anonymous("o", object.len() as u64).unwrap();
                let checks = Checks::new("o", object.len() as u64, expected.clone(), [].into());
                assert!(checks.is_held());
                region.hold();
                let mut bytes = object.clone();
                bytes[2_000_000] ^= u8::from(!is_right);
                for (extent, part) in (0..).zip(bytes.chunks(EXTENT_BYTES as usize)) {
                    checks.keep(extent, blake3::hash(part), part, "test://").unwrap();
                    assert!(region.fill_extent(extent, part));
                }
                assert_eq!(region.bytes(), None);
                assert_eq!(checks.judge_whole(&region, "test://").is_ok(), is_right);
                assert_eq!(region.bytes().is_some(), is_right);
            }
        }
    }

    #[test]
    fn small_files_are_held_against_every_kind_of_digest() {
        let object = object();
        let check = |bytes: &[u8], expected: &Expected| check_small("o", bytes, expected, "test://").is_ok();
        let whole = Expected::Whole(AnyDigest::Blake3(Digest(*blake3::hash(&object).as_bytes())));
        for expected in [Expected::Extents(digests_of(&object)), whole] {
            assert!(check(&object, &expected));
            assert!(!check(&object[1..], &expected));
            assert!(!check(&[], &expected));
        }
        assert!(check(&object, &Expected::Unknown) && !check(&object, &Expected::NotCovered));
    }
}
