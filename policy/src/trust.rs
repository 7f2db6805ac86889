//! Which digests to believe: evidence about a model in, what the loader must check out.
//!
//! The strongest that is there decides: a manifest (signed, or named by its root, or as published),
//! a signature over the files themselves, the store's checksums, digests of an earlier load. What
//! contradicts itself is refused, never weighed. No byte is read here and no time is known; keys
//! have no validity, they are configured or not. `docs/trust.md` tells the rules to operators.

mod config;
pub mod oms;
mod refusal;

pub use config::TrustConfig;
pub use refusal::Refusal;

use std::collections::BTreeMap;

use wire::digest::{AnyDigest, Digest};
use wire::evidence::{Evidence, Expected, ObjectEvidence, Origin, PinnedObject, Role, StoreChecksum, Verdict};
use wire::extent;
use wire::manifest::{MANIFEST_NAME, Manifest, SIGNATURE_NAME};
use wire::proof::Proof;

use crate::ConfigError;
use oms::{PublicKey, Signed};

/// A compiled configuration.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    require_proof: bool,
    require_signature: bool,
    roots: Vec<Digest>,
    keys: Vec<PublicKey>,
}

impl Trust {
    /// Compiles a configuration.
    ///
    /// # Errors
    /// A key is none, a signature is required and no key is given, or a list is too long.
    pub fn new(config: &TrustConfig) -> Result<Self, ConfigError> {
        let keys = config.parse_keys()?;
        Ok(Self {
            require_proof: config.require_proof,
            require_signature: config.require_signature,
            roots: config.roots.clone(),
            keys,
        })
    }

    /// Decides what the loader must check, and the proof that the load then has.
    ///
    /// # Errors
    /// The evidence contradicts itself, a signature fails, or it proves less than is required.
    pub fn decide(&self, evidence: &Evidence) -> Result<Verdict, Refusal> {
        let mut reasons = Vec::new();
        let signed = self.check_signature(evidence, &mut reasons)?;
        let manifest = self.manifest_in_force(evidence, signed.as_ref(), &mut reasons)?;
        let (proof, expected) = match (manifest, &signed, &evidence.origin) {
            (Some(manifest), ..) => (Proof::Proven, by_manifest(evidence, manifest, &mut reasons)?),
            (None, Some(signed), _) => (Proof::Proven, by_signature(evidence, signed, &mut reasons)?),
            (None, None, Origin::Remote { .. }) => by_store(evidence, &mut reasons)?,
            (None, None, Origin::Local { directory }) => {
                reasons.push(format!("{directory} is a local directory without a manifest and is believed as it is"));
                (Proof::Trusted, BTreeMap::new())
            }
        };
        if self.require_proof && proof != Proof::Proven {
            return Err(Refusal::ProofRequired { place: place(evidence).to_owned(), proof });
        }
        let is_exhaustive = manifest.is_some() || signed.is_some();
        Ok(Verdict { proof, expected, is_exhaustive, root: manifest.map(Manifest::root), reasons })
    }

    /// The signed digests, if there is a signature and a key to check it with. A signature that
    /// fails is refused even where none is required: somebody meant it to hold.
    fn check_signature(&self, evidence: &Evidence, reasons: &mut Vec<String>) -> Result<Option<Signed>, Refusal> {
        let place = || place(evidence).to_owned();
        match &evidence.signature {
            Some(bundle) if !self.keys.is_empty() => {
                let signed = Signed::verify(bundle, &self.keys)
                    .map_err(|source| Refusal::Signature { place: place(), source })?;
                reasons.push(format!("`model.sig` was signed with the configured key {}", signed.key()));
                Ok(Some(signed))
            }
            None if self.require_signature => Err(Refusal::SignatureRequired { place: place() }),
            Some(_) => {
                reasons.push("`model.sig` was not checked: no key is configured in `trust.keys`".into());
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// The manifest, if it may decide: where a signature is in force, only one that it covers; where
    /// roots are configured, only one of those.
    fn manifest_in_force<'a>(
        &self,
        evidence: &'a Evidence,
        signed: Option<&Signed>,
        reasons: &mut Vec<String>,
    ) -> Result<Option<&'a Manifest>, Refusal> {
        let manifest = evidence.manifest.as_ref();
        let root = manifest.map(Manifest::root);
        let listed = root.is_some_and(|root| self.roots.contains(&root));
        if !self.roots.is_empty() && !listed {
            return Err(Refusal::RootNotAccepted { place: place(evidence).to_owned(), root });
        }
        let Some(manifest) = manifest else { return Ok(None) };
        let covered = match signed.and_then(|signed| signed.expected(MANIFEST_NAME)) {
            Some(expected) if !is_file_of(expected, evidence) => {
                return Err(Refusal::ManifestNotAsSigned { place: place(evidence).to_owned() });
            }
            Some(_) => true,
            None => false,
        };
        if signed.is_some() && !covered && !listed {
            reasons.push(format!("`{MANIFEST_NAME}` is not covered by the signature and is ignored"));
            return Ok(None);
        }
        let why = match (listed, covered) {
            (true, _) => "its root is configured in `trust.roots`",
            (_, true) => "it is covered by the signature",
            _ => "it is published beside the weights; neither key nor root says by whom",
        };
        reasons.push(format!("every extent is checked against the manifest {}: {why}", manifest.root()));
        Ok(Some(manifest))
    }
}

/// Returns true if this signed digest is the one of the manifest's file. A shard is the whole file where
/// it has the whole file's digest.
fn is_file_of(expected: &Expected, evidence: &Evidence) -> bool {
    let found = evidence.manifest_sha256.map(AnyDigest::Sha256);
    match expected {
        Expected::Whole(digest) => Some(*digest) == found,
        Expected::Shards(shards) => matches!(shards.as_slice(), [shard] if Some(shard.digest) == found),
        Expected::Extents(_) | Expected::Unknown | Expected::NotCovered => false,
    }
}

fn by_manifest(
    evidence: &Evidence,
    manifest: &Manifest,
    reasons: &mut Vec<String>,
) -> Result<BTreeMap<String, Expected>, Refusal> {
    let by = MANIFEST_NAME;
    check_presence(evidence, by, manifest.files().iter().map(|file| file.name.as_str()))?;
    for object in &evidence.objects {
        match manifest.file(&object.name) {
            Some(file) if file.bytes != object.bytes => return Err(size_refusal(by, object, file.bytes)),
            Some(file) => check_pin(evidence, object, &file.extents)?,
            None => check_unlisted(by, object)?,
        }
    }
    name_left_out(evidence, |name| manifest.file(name).is_some(), reasons);
    let extents = |file: &wire::manifest::ManifestFile| Expected::Extents(file.extents.clone());
    Ok(manifest.files().iter().map(|file| (file.name.clone(), extents(file))).collect())
}

fn by_signature(
    evidence: &Evidence,
    signed: &Signed,
    reasons: &mut Vec<String>,
) -> Result<BTreeMap<String, Expected>, Refusal> {
    let by = SIGNATURE_NAME;
    let mut all = signed.all().clone();
    check_presence(evidence, by, all.keys().map(String::as_str))?;
    for object in &evidence.objects {
        match all.get(&object.name) {
            Some(Expected::Shards(shards)) => {
                let listed = shards.last().map_or(0, |shard| shard.range.end);
                if listed != object.bytes {
                    return Err(size_refusal(by, object, listed));
                }
            }
            Some(_) => {}
            // Cut into shards, an empty file has none and cannot be listed; its size is its proof.
            None if object.bytes == 0 && signed.is_sharded() => {
                all.insert(object.name.clone(), Expected::Shards(Vec::new()));
            }
            None => check_unlisted(by, object)?,
        }
    }
    name_left_out(evidence, |name| all.contains_key(name), reasons);
    reasons.push("every file is checked against the signed digests".into());
    Ok(all)
}

/// Refuses a list that names a file which a load looked for in vain. A directory is seen whole, so
/// there every listed file of weights must be among the objects; elsewhere only those can be known
/// to be missing that were looked for.
fn check_presence<'a>(
    evidence: &Evidence,
    by: &'static str,
    listed: impl Iterator<Item = &'a str>,
) -> Result<(), Refusal> {
    let is_local = matches!(evidence.origin, Origin::Local { .. });
    let is_there = |name: &str| evidence.objects.iter().any(|object| object.name == name);
    let is_missing = |name: &str| {
        evidence.absent.iter().any(|absent| absent == name)
            || (is_local && !name.contains('/') && wire::evidence::is_weights_name(name) && !is_there(name))
    };
    match listed.into_iter().find(|name| is_missing(name)) {
        Some(name) => Err(Refusal::Missing { by, name: name.to_owned() }),
        None => Ok(()),
    }
}

/// Refuses an object that is read and that nothing vouches for. Others are left out of the load.
fn check_unlisted(by: &'static str, object: &ObjectEvidence) -> Result<(), Refusal> {
    if object.role.is_read() { Err(Refusal::NotCovered { by, name: object.name.clone() }) } else { Ok(()) }
}

fn size_refusal(by: &'static str, object: &ObjectEvidence, listed: u64) -> Refusal {
    Refusal::Size { by, name: object.name.clone(), bytes: object.bytes, listed }
}

/// Without manifest and signature: the store's checksums where it has them, then an earlier load's
/// digests. Proven only if every file of weights has a checksum; the small files beside them may
/// be without (a hub keeps those outside of its large file storage).
fn by_store(evidence: &Evidence, reasons: &mut Vec<String>) -> Result<(Proof, BTreeMap<String, Expected>), Refusal> {
    let mut expected = BTreeMap::new();
    let mut unchecked = Vec::new();
    for object in &evidence.objects {
        let pin = find_pin(evidence, object)?;
        match (object.checksum, pin) {
            (Some(StoreChecksum::Sha256(sha256)), _) => {
                expected.insert(object.name.clone(), Expected::Whole(AnyDigest::Sha256(sha256)));
            }
            (None, Some(pin)) => {
                unchecked.push(object);
                expected.insert(object.name.clone(), Expected::Extents(pin.extents.clone()));
            }
            (None, None) => unchecked.push(object),
        }
    }
    for object in unchecked.iter().filter(|object| object.etag.is_none() && object.role.is_read()) {
        reasons.push(format!("{} has no ETag: digests of this load cannot be tied to it", object.name));
    }
    let is_weights = |object: &ObjectEvidence| object.role == Role::Weights;
    let has_weights = evidence.objects.iter().any(is_weights);
    let proof = if has_weights && !unchecked.iter().any(|object| is_weights(object)) {
        reasons.push("every file of weights is checked against its store's SHA-256".into());
        Proof::Proven
    } else {
        reasons.push("no manifest, signature or store checksum: digests are pinned to ETags at the first load".into());
        Proof::Pinned
    };
    Ok((proof, expected))
}

/// Refuses a manifest that says other digests than an earlier load found under the same ETag.
fn check_pin(evidence: &Evidence, object: &ObjectEvidence, extents: &[Digest]) -> Result<(), Refusal> {
    match find_pin(evidence, object)? {
        Some(pin) if pin.extents != extents => Err(pin_refusal(evidence, object)),
        _ => Ok(()),
    }
}

/// The digests that an earlier load found of this object; `None` if the ETag is another or there is none.
fn find_pin<'a>(evidence: &'a Evidence, object: &ObjectEvidence) -> Result<Option<&'a PinnedObject>, Refusal> {
    let Some(pinned) = &evidence.pinned else { return Ok(None) };
    let same = |pin: &&PinnedObject| pin.name == object.name && pin.etag.is_some() && pin.etag == object.etag;
    match pinned.objects.iter().find(same) {
        Some(pin) if pin.bytes != object.bytes => Err(pin_refusal(evidence, object)),
        // A pin of another number of extents is damaged: as good as none.
        Some(pin) => Ok((pin.extents.len() as u64 == extent::count(pin.bytes)).then_some(pin)),
        None => Ok(None),
    }
}

fn pin_refusal(evidence: &Evidence, object: &ObjectEvidence) -> Refusal {
    let etag = object.etag.clone().unwrap_or_default();
    Refusal::PinContradicted { place: place(evidence).to_owned(), name: object.name.clone(), etag }
}

/// Names the companions that nothing covers, so that nobody takes them for proven.
fn name_left_out(evidence: &Evidence, is_covered: impl Fn(&str) -> bool, reasons: &mut Vec<String>) {
    const NAMED_MAX: usize = 8;
    let left_out = |object: &&ObjectEvidence| !object.role.is_read() && !is_covered(&object.name);
    let names: Vec<&str> = evidence.objects.iter().filter(left_out).map(|object| object.name.as_str()).collect();
    if !names.is_empty() {
        let more = if names.len() > NAMED_MAX { ", …" } else { "" };
        let named = names[..names.len().min(NAMED_MAX)].join(", ");
        reasons.push(format!("not listed, and left out of the load: {named}{more}"));
    }
}

/// The URL or directory, for messages.
fn place(evidence: &Evidence) -> &str {
    match &evidence.origin {
        Origin::Local { directory } => directory,
        Origin::Remote { url } => url,
    }
}

#[cfg(test)]
mod tests;
