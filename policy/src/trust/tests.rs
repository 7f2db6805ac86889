//! Digests that are believed, and those that are refused.

use wire::digest::Sha256;
use wire::evidence::{Pinned, ShardDigest};
use wire::manifest::ManifestFile;

use super::*;

const KEY: &str = include_str!("../../tests/fixtures/oms/key.pub.pem");
const OTHER_KEY: &str = include_str!("../../tests/fixtures/oms/other.pub.pem");
const FILES: &[u8] = include_bytes!("../../tests/fixtures/oms/files.sig");
const SHARDS: &[u8] = include_bytes!("../../tests/fixtures/oms/shards.sig");
const MANIFEST_SIG: &[u8] = include_bytes!("../../tests/fixtures/oms/manifest.sig");
const MANIFEST_SHARDS_SIG: &[u8] = include_bytes!("../../tests/fixtures/oms/manifest-shards.sig");
const MANIFEST: &[u8] = include_bytes!("../../tests/fixtures/oms/model/forebay.manifest.json");

fn object(name: &str, bytes: u64) -> ObjectEvidence {
    let role = match name {
        _ if name.ends_with(".safetensors") || name.ends_with(".gguf") => Role::Weights,
        _ if name.ends_with(".json") || name.ends_with(".jinja") => Role::Settings,
        _ => Role::Companion,
    };
    ObjectEvidence { name: name.into(), role, bytes, etag: Some(format!("\"{name}\"")), version: None, checksum: None }
}

/// The fixture model behind a network, without any proof.
fn remote() -> Evidence {
    Evidence {
        origin: Origin::Remote { url: "https://models.test/demo/".into() },
        objects: vec![
            object("config.json", 22),
            object("empty.txt", 0),
            object("model.safetensors", 600),
            object("sub/note.txt", 7),
        ],
        absent: Vec::new(),
        manifest: None,
        manifest_sha256: None,
        signature: None,
        pinned: None,
    }
}

fn manifest() -> Manifest {
    Manifest::parse(MANIFEST).expect("the fixture, written by a script of another language")
}

fn with_manifest() -> Evidence {
    let sha256 = <sha2::Sha256 as sha2::Digest>::digest(MANIFEST);
    Evidence { manifest: Some(manifest()), manifest_sha256: Some(Sha256(sha256.into())), ..remote() }
}

/// The digests that an earlier load of the fixture would have pinned.
fn pinned() -> Pinned {
    let pin = |file: &ManifestFile| PinnedObject {
        name: file.name.clone(),
        bytes: file.bytes,
        etag: Some(format!("\"{}\"", file.name)),
        extents: file.extents.clone(),
    };
    Pinned { root: manifest().root(), objects: manifest().files().iter().map(pin).collect() }
}

fn trust(keys: &[&str]) -> TrustConfig {
    TrustConfig { keys: keys.iter().map(|&key| key.to_owned()).collect(), ..TrustConfig::default() }
}

fn decide(config: &TrustConfig, evidence: &Evidence) -> Result<Verdict, Refusal> {
    Trust::new(config).expect("a valid configuration").decide(evidence)
}

fn decide_by_default(evidence: &Evidence) -> Verdict {
    decide(&TrustConfig::default(), evidence).expect("accepted")
}

#[test]
fn a_manifest_proves_by_extents() {
    let verdict = decide_by_default(&with_manifest());
    assert_eq!((verdict.proof, verdict.root), (Proof::Proven, Some(manifest().root())));
    let file = manifest().file("model.safetensors").expect("listed").clone();
    assert_eq!(verdict.expected("model.safetensors"), &Expected::Extents(file.extents));
    assert_eq!(verdict.expected("empty.txt"), &Expected::Extents(Vec::new()));
    assert_eq!(verdict.expected("other.bin"), &Expected::NotCovered);
}

#[test]
fn a_manifest_of_other_sizes_is_refused() {
    let mut evidence = with_manifest();
    evidence.objects[2].bytes = 601;
    let refusal = decide(&TrustConfig::default(), &evidence).expect_err("another size");
    assert!(matches!(refusal, Refusal::Size { bytes: 601, listed: 600, .. }), "{refusal}");
}

#[test]
fn a_file_that_is_read_and_not_listed_is_refused_in_plain_words() {
    for name in ["extra.safetensors", "model.gguf", "chat_template.jinja", "generation_config.json"] {
        let cases = [with_manifest(), signed(FILES), signed(SHARDS)];
        for (mut evidence, config) in cases.into_iter().zip([trust(&[]), trust(&[KEY]), trust(&[KEY])]) {
            evidence.objects.push(object(name, 1));
            let refusal = decide(&config, &evidence).expect_err(name);
            assert!(matches!(&refusal, Refusal::NotCovered { name: found, .. } if found == name), "{refusal}");
            assert!(refusal.to_string().contains("does not list it"), "{refusal}");
        }
    }
}

#[test]
fn a_file_that_is_not_read_and_not_listed_is_left_out_and_named() {
    let mut evidence = with_manifest();
    evidence.objects.push(object("merges.txt", 1));
    evidence.objects.push(ObjectEvidence { role: Role::Unread, ..object("consolidated.safetensors", 1) });
    let verdict = decide_by_default(&evidence);
    assert_eq!(verdict.proof, Proof::Proven);
    assert_eq!(verdict.expected("merges.txt"), &Expected::NotCovered);
    let named = verdict.reasons.iter().find(|reason| reason.contains("merges.txt")).expect("named");
    assert!(named.contains("left out") && named.contains("consolidated.safetensors"), "{named}");
    assert!(!named.contains("config.json"), "{named}");
}

#[test]
fn a_listed_file_that_is_missing_is_refused_in_plain_words() {
    for (evidence, config) in
        [(with_manifest(), trust(&[])), (signed(FILES), trust(&[KEY])), (signed(SHARDS), trust(&[KEY]))]
    {
        let mut evidence = evidence;
        evidence.objects.retain(|object| object.name != "config.json");
        decide(&config, &evidence).expect("nobody looked for it");
        evidence.absent.push("config.json".into());
        let refusal = decide(&config, &evidence).expect_err("missing");
        assert!(matches!(&refusal, Refusal::Missing { name, .. } if name == "config.json"), "{refusal}");
        assert!(refusal.to_string().contains("`config.json`, which is missing"), "{refusal}");
    }
}

#[test]
fn a_directory_is_seen_whole_so_no_listed_weights_may_be_missing() {
    let origin = Origin::Local { directory: "models/demo".into() };
    for (evidence, config) in [(with_manifest(), trust(&[])), (signed(FILES), trust(&[KEY]))] {
        let mut evidence = Evidence { origin: origin.clone(), ..evidence };
        decide(&config, &evidence).expect("whole");
        evidence.objects.retain(|object| object.name != "model.safetensors");
        evidence.objects.push(object("config.json", 22));
        let refusal = decide(&config, &evidence).expect_err("weights are gone");
        assert!(matches!(&refusal, Refusal::Missing { name, .. } if name == "model.safetensors"), "{refusal}");
    }
}

fn signed(bundle: &[u8]) -> Evidence {
    Evidence { signature: Some(bundle.to_vec()), ..remote() }
}

#[test]
fn a_signature_proves_by_whole_files_or_shards() {
    let verdict = decide(&trust(&[OTHER_KEY, KEY]), &signed(FILES)).expect("signed");
    assert_eq!((verdict.proof, verdict.root), (Proof::Proven, None));
    assert!(matches!(verdict.expected("model.safetensors"), Expected::Whole(AnyDigest::Sha256(_))));
    let verdict = decide(&trust(&[KEY]), &signed(SHARDS)).expect("signed");
    let Expected::Shards(shards) = verdict.expected("model.safetensors") else { panic!("not in shards") };
    assert_eq!(shards.last().map(|shard: &ShardDigest| shard.range.clone()), Some(512..600));
    assert_eq!(verdict.expected("empty.txt"), &Expected::Shards(Vec::new()), "empty, so proven by its size");
    assert_eq!(verdict.expected("other.bin"), &Expected::NotCovered);
}

#[test]
fn a_signature_over_shards_knows_the_sizes() {
    let mut evidence = signed(SHARDS);
    evidence.objects[2].bytes = 599;
    let refusal = decide(&trust(&[KEY]), &evidence).expect_err("another size");
    assert!(matches!(refusal, Refusal::Size { bytes: 599, listed: 600, .. }), "{refusal}");
}

#[test]
fn a_failing_signature_is_refused_whatever_else_is_there() {
    let evidence = Evidence { signature: Some(MANIFEST_SIG.to_vec()), ..with_manifest() };
    let config = TrustConfig { roots: vec![manifest().root()], ..trust(&[OTHER_KEY]) };
    for config in [config, trust(&[OTHER_KEY])] {
        let refusal = decide(&config, &evidence).expect_err("another key");
        assert!(matches!(refusal, Refusal::Signature { .. }), "{refusal}");
    }
    assert_eq!(decide_by_default(&evidence).proof, Proof::Proven, "without keys nobody asked for one");
}

#[test]
fn a_signed_manifest_decides_by_extents() {
    for bundle in [MANIFEST_SIG, MANIFEST_SHARDS_SIG] {
        let evidence = Evidence { signature: Some(bundle.to_vec()), ..with_manifest() };
        let verdict = decide(&trust(&[KEY]), &evidence).expect("signed");
        assert_eq!(verdict.root, Some(manifest().root()));
        assert!(verdict.reasons.iter().any(|reason| reason.contains("covered by the signature")));
    }
}

#[test]
fn a_manifest_other_than_the_signed_one_is_refused() {
    let files = with_manifest().manifest.expect("there").files()[..3].to_vec();
    for (bundle, sha256) in
        [(MANIFEST_SIG, Some(Sha256([1; 32]))), (MANIFEST_SHARDS_SIG, Some(Sha256([1; 32]))), (MANIFEST_SIG, None)]
    {
        let evidence = Evidence {
            manifest: Some(Manifest::new(files.clone()).expect("valid")),
            manifest_sha256: sha256,
            signature: Some(bundle.to_vec()),
            ..remote()
        };
        let refusal = decide(&trust(&[KEY]), &evidence).expect_err("not signed");
        assert!(matches!(refusal, Refusal::ManifestNotAsSigned { .. }), "{refusal}");
    }
}

#[test]
fn beside_a_signature_a_manifest_that_it_does_not_cover_is_ignored() {
    let evidence = Evidence { signature: Some(FILES.to_vec()), ..with_manifest() };
    let verdict = decide(&trust(&[KEY]), &evidence).expect("signed");
    assert_eq!(verdict.root, None);
    assert!(matches!(verdict.expected("model.safetensors"), Expected::Whole(_)));
    let config = TrustConfig { roots: vec![manifest().root()], ..trust(&[KEY]) };
    assert_eq!(decide(&config, &evidence).expect("named by its root").root, Some(manifest().root()));
}

#[test]
fn a_signature_can_be_required() {
    let config = TrustConfig { require_signature: true, ..trust(&[KEY]) };
    let refusal = decide(&config, &with_manifest()).expect_err("unsigned");
    assert!(matches!(refusal, Refusal::SignatureRequired { .. }), "{refusal}");
    decide(&config, &signed(FILES)).expect("signed");
    let error = Trust::new(&TrustConfig { keys: Vec::new(), ..config }).expect_err("no key");
    assert_eq!(error.field, "trust.require_signature");
}

#[test]
fn only_configured_roots_are_accepted() {
    let config = |root| TrustConfig { roots: vec![Digest([3; 32]), root], ..TrustConfig::default() };
    assert_eq!(decide(&config(manifest().root()), &with_manifest()).expect("listed").proof, Proof::Proven);
    for evidence in [with_manifest(), remote(), signed(FILES)] {
        let refusal = decide(&config(Digest([4; 32])), &evidence).expect_err("not listed");
        assert!(matches!(refusal, Refusal::RootNotAccepted { .. }), "{refusal}");
    }
}

#[test]
fn a_stores_checksums_prove_if_all_weights_have_one() {
    let mut evidence = remote();
    let sha256 = Sha256([5; 32]);
    evidence.objects[2].checksum = Some(StoreChecksum::Sha256(sha256));
    let verdict = decide_by_default(&evidence);
    assert_eq!(verdict.proof, Proof::Proven);
    assert_eq!(verdict.expected("model.safetensors"), &Expected::Whole(AnyDigest::Sha256(sha256)));
    assert_eq!(verdict.expected("config.json"), &Expected::Unknown);
    evidence.objects.push(object("more.safetensors", 9));
    assert_eq!(decide_by_default(&evidence).proof, Proof::Pinned);
    evidence.objects.retain(|object| !object.name.ends_with("safetensors"));
    assert_eq!(decide_by_default(&evidence).proof, Proof::Pinned, "no weights, nothing proven");
}

#[test]
fn a_hubs_sha256_proves_a_gguf_as_it_does_safetensors() {
    let sha256 = Sha256([6; 32]);
    let gguf = ObjectEvidence { checksum: Some(StoreChecksum::Sha256(sha256)), ..object("model.Q8_0.gguf", 9) };
    let mut evidence = Evidence { objects: vec![gguf, object("tokenizer.json", 3)], ..remote() };
    let verdict = decide_by_default(&evidence);
    assert_eq!(verdict.proof, Proof::Proven);
    assert_eq!(verdict.expected("model.Q8_0.gguf"), &Expected::Whole(AnyDigest::Sha256(sha256)));
    evidence.objects[0].checksum = None;
    assert_eq!(decide_by_default(&evidence).proof, Proof::Pinned);
}

#[test]
fn without_proof_digests_are_computed_and_then_held() {
    let first = decide_by_default(&remote());
    assert_eq!((first.proof, first.expected("model.safetensors")), (Proof::Pinned, &Expected::Unknown));
    let mut evidence = Evidence { pinned: Some(pinned()), ..remote() };
    let second = decide_by_default(&evidence);
    assert_eq!(second.proof, Proof::Pinned);
    let file = manifest().file("model.safetensors").expect("listed").clone();
    assert_eq!(second.expected("model.safetensors"), &Expected::Extents(file.extents));
    evidence.objects[2].etag = Some("\"new\"".into());
    assert_eq!(decide_by_default(&evidence).expected("model.safetensors"), &Expected::Unknown, "another object now");
    evidence.objects[2].etag = None;
    evidence.pinned.as_mut().expect("there").objects[2].etag = None;
    let verdict = decide_by_default(&evidence);
    assert_eq!(verdict.expected("model.safetensors"), &Expected::Unknown);
    assert!(verdict.reasons.iter().any(|reason| reason.contains("no ETag")), "{:?}", verdict.reasons);
}

#[test]
fn a_pin_that_contradicts_the_manifest_is_refused() {
    let mut evidence = Evidence { pinned: Some(pinned()), ..with_manifest() };
    assert_eq!(decide_by_default(&evidence).proof, Proof::Proven);
    evidence.pinned.as_mut().expect("there").objects[2].extents[0].0[0] ^= 1;
    let refusal = decide(&TrustConfig::default(), &evidence).expect_err("other bytes, same ETag");
    assert!(matches!(&refusal, Refusal::PinContradicted { name, .. } if name == "model.safetensors"), "{refusal}");
}

#[test]
fn a_size_that_changed_under_its_etag_is_refused() {
    let mut evidence = Evidence { pinned: Some(pinned()), ..remote() };
    evidence.objects[2].bytes += 1;
    let refusal = decide(&TrustConfig::default(), &evidence).expect_err("another size, same ETag");
    assert!(matches!(refusal, Refusal::PinContradicted { .. }), "{refusal}");
}

#[test]
fn a_damaged_pin_is_as_good_as_none() {
    let mut evidence = Evidence { pinned: Some(pinned()), ..remote() };
    evidence.pinned.as_mut().expect("there").objects[2].extents.clear();
    assert_eq!(decide_by_default(&evidence).expected("model.safetensors"), &Expected::Unknown);
}

#[test]
fn a_local_directory_is_trusted_and_a_manifest_there_proves() {
    let origin = Origin::Local { directory: "models/demo".into() };
    assert_eq!(decide_by_default(&Evidence { origin: origin.clone(), ..remote() }).proof, Proof::Trusted);
    assert_eq!(decide_by_default(&Evidence { origin, ..with_manifest() }).proof, Proof::Proven);
}

#[test]
fn required_proof_accepts_proven_alone_and_says_how_to_get_it() {
    let config = TrustConfig { require_proof: true, ..trust(&[KEY]) };
    let local = Evidence { origin: Origin::Local { directory: "models/demo".into() }, ..remote() };
    let pinned = Evidence { pinned: Some(pinned()), ..remote() };
    for evidence in [remote(), local, pinned] {
        let refusal = decide(&config, &evidence).expect_err("not proven");
        assert!(
            refusal.to_string().contains("forebay manifest") && refusal.to_string().contains("--write"),
            "{refusal}"
        );
    }
    decide(&config, &with_manifest()).expect("proven");
    decide(&config, &signed(FILES)).expect("proven");
}

#[test]
fn a_wrong_key_names_its_place() {
    let error = Trust::new(&trust(&[KEY, "ssh-ed25519 AAAA"])).expect_err("no PEM");
    assert_eq!(error.field, "trust.keys[1]");
    assert!(error.to_string().contains("openssl"), "{error}");
}

#[test]
fn the_configuration_is_read_from_what_an_operator_writes() {
    let root = manifest().root();
    let json = serde_json::json!({"require_proof": true, "roots": [root.to_string()], "keys": [KEY]});
    let config: TrustConfig = serde_json::from_value(json).expect("valid");
    assert_eq!(config.roots, [root]);
    assert!(serde_json::from_str::<TrustConfig>(r#"{"require_prof": true}"#).is_err());
    assert!(serde_json::from_str::<TrustConfig>(r#"{"roots": ["sha256:00"]}"#).is_err());
}
