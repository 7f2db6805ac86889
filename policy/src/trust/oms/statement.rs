//! The signed payload: an in-toto statement that lists a model's files or shards with digests.
//!
//! Formats: github.com/in-toto/attestation (statement), github.com/ossf/model-signing-spec.

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest as _, Sha256 as Hasher};
use wire::digest::{AnyDigest, Digest, Sha256};
use wire::evidence::{Expected, ShardDigest};
use wire::manifest::check_name;

use super::error::OmsError;

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";
const PART: &str = "the signed statement";
/// The largest integer that every JSON reader reads alike: shard sizes are written as floats.
const INTEGER_MAX: f64 = 9_007_199_254_740_991.0;

/// A signer's list of a model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// By name: [`Expected::Whole`], or [`Expected::Shards`] that tile the file.
    pub files: BTreeMap<String, Expected>,
    /// True if files were cut into shards.
    pub is_sharded: bool,
}

#[derive(Deserialize)]
struct RawStatement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<RawSubject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: RawPredicate,
}

#[derive(Deserialize)]
struct RawSubject {
    digest: RawSubjectDigest,
}

#[derive(Deserialize)]
struct RawSubjectDigest {
    sha256: String,
}

#[derive(Deserialize)]
struct RawPredicate {
    serialization: RawSerialization,
    resources: Vec<RawResource>,
}

#[derive(Deserialize)]
struct RawSerialization {
    method: String,
    hash_type: String,
    shard_size: Option<f64>,
}

#[derive(Deserialize)]
struct RawResource {
    name: String,
    algorithm: String,
    digest: String,
}

/// The way a model was cut and hashed.
struct Method {
    algorithm: String,
    is_blake3: bool,
    shard_bytes: Option<u64>,
}

impl Statement {
    /// Reads a statement. Fields beyond the format's are ignored, as it asks of verifiers.
    ///
    /// # Errors
    /// It is no statement about a model's files, uses other hashes than SHA-256 and BLAKE3, lists
    /// a name twice or one that leaves the model, has shards that do not tile their file, or its
    /// subject's digest is not the one of its resources.
    pub fn parse(payload: &[u8]) -> Result<Self, OmsError> {
        let raw: RawStatement =
            serde_json::from_slice(payload).map_err(|cause| OmsError::malformed(PART, cause.to_string()))?;
        if raw.kind != STATEMENT_TYPE || raw.predicate_type != PREDICATE_TYPE {
            let feature = format!("a statement of type {:?} about {:?}", raw.kind, raw.predicate_type);
            return Err(OmsError::unsupported(feature));
        }
        let method = Method::new(&raw.predicate.serialization)?;
        let [subject] = raw.subject.as_slice() else {
            return Err(OmsError::malformed(
                PART,
                format!("it has {} subjects where one is wanted", raw.subject.len()),
            ));
        };
        let mut root = Hasher::new();
        let mut files = BTreeMap::new();
        for resource in &raw.predicate.resources {
            root.update(method.add(resource, &mut files)?);
        }
        let root = Sha256(root.finalize().into());
        if root.to_hex() != subject.digest.sha256 {
            let problem = format!("its subject's digest is not {}, the digest of its resources", root.to_hex());
            return Err(OmsError::malformed(PART, problem));
        }
        if let Some(bytes) = method.shard_bytes {
            files.iter_mut().try_for_each(|(name, expected)| check_tiling(name, expected, bytes))?;
        }
        Ok(Self { files, is_sharded: method.shard_bytes.is_some() })
    }
}

impl Method {
    fn new(raw: &RawSerialization) -> Result<Self, OmsError> {
        let is_blake3 = match raw.hash_type.as_str() {
            "sha256" => false,
            "blake3" => true,
            other => return Err(OmsError::unsupported(format!("the hash {other:?}"))),
        };
        match (raw.method.as_str(), raw.shard_size) {
            ("files", _) => Ok(Self { algorithm: raw.hash_type.clone(), is_blake3, shard_bytes: None }),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range and whole")]
            ("shards", Some(size)) if (1.0..=INTEGER_MAX).contains(&size) && size.fract() == 0.0 => {
                let bytes = size as u64;
                Ok(Self {
                    algorithm: format!("{}-sharded-{bytes}", raw.hash_type),
                    is_blake3,
                    shard_bytes: Some(bytes),
                })
            }
            ("shards", size) => Err(OmsError::malformed(PART, format!("its `shard_size` is {size:?}"))),
            (other, _) => Err(OmsError::unsupported(format!("the serialization method {other:?}"))),
        }
    }

    /// Adds one resource to the files and returns its digest's bytes.
    fn add(&self, raw: &RawResource, files: &mut BTreeMap<String, Expected>) -> Result<[u8; 32], OmsError> {
        let malformed = |problem: String| OmsError::malformed(PART, problem);
        if raw.algorithm != self.algorithm {
            let problem =
                format!("{:?} has the algorithm {:?} in place of {:?}", raw.name, raw.algorithm, self.algorithm);
            return Err(malformed(problem));
        }
        let Sha256(bytes) = Sha256::from_hex(&raw.digest)
            .map_err(|cause| malformed(format!("the digest of {:?}: {cause}", raw.name)))?;
        let digest = if self.is_blake3 { AnyDigest::Blake3(Digest(bytes)) } else { AnyDigest::Sha256(Sha256(bytes)) };
        let name = match self.shard_bytes {
            None => {
                let twice = files.insert(raw.name.clone(), Expected::Whole(digest)).is_some();
                if twice {
                    return Err(malformed(format!("{:?} is listed twice", raw.name)));
                }
                raw.name.as_str()
            }
            Some(_) => {
                let (name, range) = split_shard(&raw.name)
                    .ok_or_else(|| malformed(format!("{:?} is no `NAME:START:END`", raw.name)))?;
                let file = files.entry(name.to_owned()).or_insert_with(|| Expected::Shards(Vec::new()));
                if let Expected::Shards(shards) = file {
                    shards.push(ShardDigest { range, digest });
                }
                name
            }
        };
        check_name(name).map_err(|problem| malformed(format!("a name {problem}")))?;
        Ok(bytes)
    }
}

/// `NAME:START:END`, where the name may have colons of its own.
fn split_shard(text: &str) -> Option<(&str, std::ops::Range<u64>)> {
    let (rest, end) = text.rsplit_once(':')?;
    let (name, start) = rest.rsplit_once(':')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    Some((name, number(start)?..number(end)?))
}

/// Puts a file's shards in order; all but the last have the stated size, with no gap between.
fn check_tiling(name: &str, expected: &mut Expected, shard_bytes: u64) -> Result<(), OmsError> {
    let Expected::Shards(shards) = expected else { return Ok(()) };
    shards.sort_unstable_by_key(|shard| shard.range.start);
    let mut at = 0;
    let last = shards.len() - 1;
    for (index, shard) in shards.iter().enumerate() {
        let bytes = shard.range.end.saturating_sub(shard.range.start);
        let fits = if index == last { (1..=shard_bytes).contains(&bytes) } else { bytes == shard_bytes };
        if shard.range.start != at || !fits {
            return Err(OmsError::malformed(PART, format!("the shards of {name:?} do not tile it at byte {at}")));
        }
        at = shard.range.end;
    }
    Ok(())
}
