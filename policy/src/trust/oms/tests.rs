//! Real bundles of the reference implementation, whole and damaged. `policy/tests/fixtures/oms`
//! says how they were made.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::EncodePublicKey as _;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::Digest as _;
use wire::digest::{AnyDigest, Digest, Sha256};
use wire::evidence::ShardDigest;

use super::*;

const FILES: &[u8] = include_bytes!("../../../tests/fixtures/oms/files.sig");
const FILES_BLAKE3: &[u8] = include_bytes!("../../../tests/fixtures/oms/files-blake3.sig");
const FILES_BLAKE2: &[u8] = include_bytes!("../../../tests/fixtures/oms/files-blake2.sig");
const SHARDS: &[u8] = include_bytes!("../../../tests/fixtures/oms/shards.sig");
const CERTIFICATE: &[u8] = include_bytes!("../../../tests/fixtures/oms/certificate.sig");
const P384: &[u8] = include_bytes!("../../../tests/fixtures/oms/p384.sig");
const KEY: &str = include_str!("../../../tests/fixtures/oms/key.pub.pem");
const OTHER_KEY: &str = include_str!("../../../tests/fixtures/oms/other.pub.pem");
const P384_KEY: &str = include_str!("../../../tests/fixtures/oms/p384.pub.pem");
const MODEL: &[u8] = include_bytes!("../../../tests/fixtures/oms/model/model.safetensors");
const CONFIG: &[u8] = include_bytes!("../../../tests/fixtures/oms/model/config.json");

fn key(pem: &str) -> PublicKey {
    PublicKey::from_pem(pem).expect("a P-256 key")
}

fn verify(bundle: &[u8]) -> Result<Signed, OmsError> {
    Signed::verify(bundle, &[key(OTHER_KEY), key(KEY)])
}

fn sha256(bytes: &[u8]) -> AnyDigest {
    AnyDigest::Sha256(Sha256(sha2::Sha256::digest(bytes).into()))
}

fn blake3(bytes: &[u8]) -> AnyDigest {
    AnyDigest::Blake3(Digest(::blake3::hash(bytes).into()))
}

/// A bundle over any statement, rightly signed by a key of the test's own.
fn sign(statement: &Value) -> (Vec<u8>, PublicKey) {
    let signer = SigningKey::from_slice(&[7; 32]).expect("a scalar");
    let pem = signer.verifying_key().to_public_key_pem(p256::pkcs8::LineEnding::LF).expect("a key");
    let mut bundle = Bundle { payload: statement.to_string().into_bytes(), signature: Vec::new(), hint: None };
    let signature: DerSignature = signer.sign(&bundle.signed_message());
    bundle.signature = signature.as_bytes().to_vec();
    let json = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": ""}},
        "dsseEnvelope": {
            "payload": STANDARD.encode(&bundle.payload),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": STANDARD.encode(&bundle.signature)}],
        },
    });
    (json.to_string().into_bytes(), key(&pem))
}

/// The statement of a real bundle, edited, its subject's digest made right again, and signed.
fn edited(bundle: &[u8], edit: impl FnOnce(&mut Value)) -> Result<Signed, OmsError> {
    let mut statement: Value = serde_json::from_slice(&Bundle::parse(bundle).expect("real").payload).expect("JSON");
    edit(&mut statement);
    let mut root = sha2::Sha256::new();
    for resource in statement["predicate"]["resources"].as_array().expect("a list") {
        let hex = resource["digest"].as_str().expect("text");
        root.update(Sha256::from_hex(hex).map_or([0; 32], |digest| digest.0));
    }
    statement["subject"][0]["digest"]["sha256"] = Sha256(root.finalize().into()).to_hex().into();
    let (bundle, key) = sign(&statement);
    Signed::verify(&bundle, &[key])
}

#[test]
fn file_digests_of_a_real_signature_are_those_of_the_files() {
    let signed = verify(FILES).expect("verifies");
    assert_eq!(signed.expected("model.safetensors"), Some(&Expected::Whole(sha256(MODEL))));
    assert_eq!(signed.expected("config.json"), Some(&Expected::Whole(sha256(CONFIG))));
    assert_eq!(signed.expected("empty.txt"), Some(&Expected::Whole(sha256(b""))));
    assert_eq!(signed.all().len(), 4);
    assert_eq!(signed.key(), Bundle::parse(FILES).expect("parses").hint.expect("named"));
    let signed = verify(FILES_BLAKE3).expect("verifies");
    assert_eq!(signed.expected("model.safetensors"), Some(&Expected::Whole(blake3(MODEL))));
}

#[test]
fn shard_digests_of_a_real_signature_tile_the_files() {
    let signed = verify(SHARDS).expect("verifies");
    let shard =
        |start: usize, end: usize| ShardDigest { range: start as u64..end as u64, digest: sha256(&MODEL[start..end]) };
    let expected = Expected::Shards(vec![shard(0, 256), shard(256, 512), shard(512, 600)]);
    assert_eq!(signed.expected("model.safetensors"), Some(&expected));
    assert!(signed.is_sharded() && signed.expected("empty.txt").is_none());
}

#[test]
fn a_changed_file_has_another_digest_than_was_signed() {
    let signed = verify(FILES).expect("verifies");
    let mut model = MODEL.to_vec();
    model[599] ^= 1;
    assert_ne!(signed.expected("model.safetensors"), Some(&Expected::Whole(sha256(&model))));
}

#[test]
fn another_key_verifies_nothing() {
    let error = Signed::verify(FILES, &[key(OTHER_KEY)]).expect_err("signed by another");
    assert!(matches!(&error, OmsError::WrongSignature { hint: Some(hint) } if hint == key(KEY).id()), "{error}");
    assert!(Signed::verify(FILES, &[]).is_err());
}

#[test]
fn every_flipped_bit_of_payload_and_signature_is_refused() {
    let json: Value = serde_json::from_slice(SHARDS).expect("JSON");
    for pointer in ["/dsseEnvelope/payload", "/dsseEnvelope/signatures/0/sig"] {
        let bytes = STANDARD.decode(json.pointer(pointer).expect("there").as_str().expect("text")).expect("base64");
        for place in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
            let (mut bytes, mut json) = (bytes.clone(), json.clone());
            bytes[place] ^= 1;
            *json.pointer_mut(pointer).expect("there") = STANDARD.encode(bytes).into();
            let error = verify(json.to_string().as_bytes()).expect_err("changed");
            assert!(matches!(error, OmsError::WrongSignature { .. }), "{pointer} {place}: {error}");
        }
    }
}

#[test]
fn a_changed_envelope_is_refused() {
    type Edit = fn(&mut Value);
    let edits: [Edit; 8] = [
        |json| json["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.2".into(),
        |json| json["dsseEnvelope"]["payloadType"] = "text/plain".into(),
        |json| json["dsseEnvelope"]["signatures"] = json!([]),
        |json| {
            let signatures = json["dsseEnvelope"]["signatures"].as_array_mut().expect("a list");
            signatures.push(signatures[0].clone());
        },
        |json| json["dsseEnvelope"]["payload"] = "%".into(),
        |json| drop(json.as_object_mut().expect("an object").remove("dsseEnvelope")),
        |json| json["verificationMaterial"] = json!({}),
        |json| json["dsseEnvelope"]["signatures"][0]["sig"] = STANDARD.encode([0; 300]).into(),
    ];
    for (index, edit) in edits.iter().enumerate() {
        let mut json: Value = serde_json::from_slice(FILES).expect("JSON");
        edit(&mut json);
        assert!(verify(json.to_string().as_bytes()).is_err(), "edit {index}");
    }
}

#[test]
fn certificates_other_curves_and_other_hashes_are_refused_by_name() {
    for (bundle, name) in [(CERTIFICATE, "certificate"), (FILES_BLAKE2, "blake2b")] {
        let error = verify(bundle).expect_err(name);
        assert!(matches!(error, OmsError::Unsupported { .. }) && error.to_string().contains(name), "{error}");
    }
    assert!(matches!(verify(P384), Err(OmsError::WrongSignature { .. })));
    assert!(PublicKey::from_pem(P384_KEY).expect_err("another curve").contains("P-256"));
    assert!(PublicKey::from_pem("").is_err());
}

#[test]
fn a_changed_resource_list_is_refused_even_if_rightly_signed() {
    assert!(edited(SHARDS, |_| ()).is_ok(), "unedited, only signed by another key");
    let mut statement: Value = serde_json::from_slice(&Bundle::parse(FILES).expect("real").payload).expect("JSON");
    statement["predicate"]["resources"][0]["digest"] = "ab".repeat(32).into();
    let (bundle, key) = sign(&statement);
    let error = Signed::verify(&bundle, &[key]).expect_err("the subject's digest is another");
    assert!(error.to_string().contains("subject"), "{error}");
}

#[test]
fn shards_that_do_not_tile_their_file_are_refused() {
    type Edit = fn(&mut Value);
    let edits: [Edit; 6] = [
        |json| drop(json["predicate"]["resources"].as_array_mut().expect("a list").remove(2)),
        |json| json["predicate"]["resources"][2]["name"] = "model.safetensors:0:256".into(),
        |json| json["predicate"]["resources"][3]["name"] = "model.safetensors:512:900".into(),
        |json| json["predicate"]["resources"][3]["name"] = "model.safetensors:512:512".into(),
        |json| json["predicate"]["resources"][3]["name"] = "model.safetensors:512".into(),
        |json| json["predicate"]["resources"][3]["name"] = "model.safetensors:+512:600".into(),
    ];
    for (index, edit) in edits.into_iter().enumerate() {
        let error = edited(SHARDS, edit).expect_err("does not tile");
        assert!(matches!(error, OmsError::Malformed { .. }), "edit {index}: {error}");
    }
}

#[test]
fn statements_about_anything_else_are_refused() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 9] = [
        ("Statement", |json| json["_type"] = "https://in-toto.io/Statement/v0.1".into()),
        ("about", |json| json["predicateType"] = "https://slsa.dev/provenance/v1".into()),
        ("method", |json| json["predicate"]["serialization"]["method"] = "tensors".into()),
        ("hash", |json| json["predicate"]["serialization"]["hash_type"] = "md5".into()),
        ("algorithm", |json| json["predicate"]["resources"][0]["algorithm"] = "blake3".into()),
        ("twice", |json| json["predicate"]["resources"][1]["name"] = "config.json".into()),
        ("plain path", |json| json["predicate"]["resources"][0]["name"] = "../config.json".into()),
        ("hexadecimal", |json| json["predicate"]["resources"][0]["digest"] = "abc".into()),
        ("subjects", |json| json["subject"].as_array_mut().expect("a list").push(json!({"digest": {"sha256": ""}}))),
    ];
    for (word, edit) in edits {
        let error = edited(FILES, edit).expect_err(word);
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

#[test]
fn an_oversized_bundle_is_not_parsed() {
    let spaces = vec![b' '; BUNDLE_BYTES_MAX + 1];
    assert!(matches!(verify(&spaces), Err(OmsError::TooLarge { .. })));
}

proptest! {
    #[test]
    fn a_damaged_bundle_verifies_to_the_same_or_is_refused(place: prop::sample::Index, byte: u8) {
        let mut bundle = SHARDS.to_vec();
        let place = place.index(bundle.len());
        bundle[place] = byte;
        if let Ok(signed) = verify(&bundle) {
            prop_assert_eq!(signed, verify(SHARDS).expect("undamaged"));
        }
    }

    #[test]
    fn any_bytes_are_a_statement_or_refused(bytes: Vec<u8>) {
        let _ = Statement::parse(&bytes);
        let _ = Bundle::parse(&bytes);
    }
}
