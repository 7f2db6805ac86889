//! Texts that are manifests, and texts that are not.

use super::*;
use crate::extent::{self, EXTENT_BYTES};
use proptest::prelude::*;

fn file(name: &str, bytes: u64) -> ManifestFile {
    let digest = |index: u64| Digest([u8::try_from(index % 251).expect("below 251"); 32]);
    ManifestFile {
        name: name.into(),
        bytes,
        extents: (0..extent::count(bytes)).map(digest).collect(),
        tensors: Vec::new(),
    }
}

fn tensor(name: &str, byte: u8) -> TensorDigest {
    TensorDigest { name: name.into(), digest: Digest([byte; 32]) }
}

fn sample() -> Manifest {
    let mut weights = file("model.safetensors", 2 * EXTENT_BYTES + 1);
    weights.tensors = vec![tensor("b", 2), tensor("a", 1)];
    Manifest::new(vec![weights, file("config.json", 7), file("empty.txt", 0)]).expect("valid")
}

/// The sample's JSON with one text replaced by another.
fn edited(from: &str, to: &str) -> ManifestError {
    let json = String::from_utf8(sample().to_json()).expect("text");
    assert!(json.contains(from), "{from} is not in {json}");
    Manifest::parse(json.replacen(from, to, 1).as_bytes()).expect_err(to)
}

fn field_of(error: &ManifestError) -> &str {
    match error {
        ManifestError::Field { field, .. } => field,
        other => panic!("not about a field: {other}"),
    }
}

prop_compose! {
    fn some_file()(
        name in "[a-zA-Z0-9 é:._-]{1,9}(/[a-z]{1,5}){0,2}",
        bytes in prop_oneof![0..3_u64, 0..5 * EXTENT_BYTES],
        seed: [u8; 32],
        tensors in proptest::collection::btree_map("[a-z.\"]{1,12}", any::<[u8; 32]>(), 0..4),
    ) -> ManifestFile {
        let digest = |index: u64| { let mut bytes = seed; bytes[0] ^= index as u8; Digest(bytes) };
        ManifestFile {
            name, bytes,
            extents: (0..extent::count(bytes)).map(digest).collect(),
            tensors: tensors.into_iter().map(|(name, digest)| TensorDigest { name, digest: Digest(digest) }).collect(),
        }
    }
}

fn some_manifest() -> impl Strategy<Value = Manifest> {
    proptest::collection::vec(some_file(), 1..6).prop_filter_map("valid", |files| Manifest::new(files).ok())
}

proptest! {
    #[test]
    fn a_manifest_survives_its_text_and_has_one_text(manifest in some_manifest()) {
        let json = manifest.to_json();
        let parsed = Manifest::parse(&json).expect("as written");
        prop_assert_eq!(parsed.to_json(), json);
        prop_assert_eq!(parsed, manifest);
    }

    #[test]
    fn a_flipped_bit_is_refused(manifest in some_manifest(), place: prop::sample::Index, bit in 0..8_u8) {
        let mut json = manifest.to_json();
        let place = place.index(json.len());
        json[place] ^= 1 << bit;
        // White space at the end is the only byte without a meaning.
        if let Ok(parsed) = Manifest::parse(&json) {
            prop_assert_eq!(parsed, manifest);
            prop_assert_eq!(place, json.len() - 1);
        }
    }

    #[test]
    fn the_order_of_files_does_not_matter_to_the_builder(manifest in some_manifest()) {
        let mut files = manifest.files().to_vec();
        files.reverse();
        prop_assert_eq!(Manifest::new(files).expect("still valid"), manifest);
    }
}

#[test]
fn every_field_changes_the_root() {
    let root = sample().root();
    type Change = fn(&mut Vec<ManifestFile>);
    let changes: [Change; 7] = [
        |files| files[0].name.push('x'),
        |files| files[0].bytes += 1,
        |files| files[0].extents[0].0[31] ^= 1,
        |files| files[2].extents.swap(0, 1),
        |files| files[2].tensors[0].name.push('x'),
        |files| files[2].tensors[0].digest.0[0] ^= 1,
        |files| drop(files.remove(1)),
    ];
    for (index, change) in changes.iter().enumerate() {
        let mut files = sample().files().to_vec();
        change(&mut files);
        assert_ne!(Manifest::new(files).expect("valid").root(), root, "change {index}");
    }
}

#[test]
fn the_root_of_a_known_manifest_never_changes() {
    // The encoding written out by hand; a root is a name that others have stored.
    let mut bytes = Vec::new();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    text(&mut bytes, "forebay.manifest/1");
    bytes.extend(4_194_304_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    text(&mut bytes, "a");
    bytes.extend(3_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend([0; 32]);
    bytes.extend(1_u64.to_le_bytes());
    text(&mut bytes, "t");
    bytes.extend([9; 32]);
    let manifest = Manifest::new(vec![ManifestFile { tensors: vec![tensor("t", 9)], ..file("a", 3) }]).expect("valid");
    assert_eq!(manifest.root(), Digest(blake3::hash(&bytes).into()));
}

#[test]
fn errors_name_the_field() {
    assert_eq!(field_of(&edited("manifest/1", "manifest/2")), "format");
    assert_eq!(field_of(&edited("4194304", "4194305")), "extent_bytes");
    assert_eq!(field_of(&edited("\"bytes\":7", "\"bytes\":-7")), "files[0].bytes");
    assert_eq!(field_of(&edited("\"bytes\":7", "\"bytes\":4194305")), "files[0].extents");
    assert_eq!(field_of(&edited("\"extents\":[]", "\"extents\":[\"\"]")), "files[1].extents[0]");
    assert_eq!(field_of(&edited("\"digest\":\"blake3:", "\"digest\":\"sha256:")), "files[2].tensors[0].digest");
    assert_eq!(field_of(&edited("\"name\":\"b\"", "\"name\":\"a\"")), "files[2].tensors[1].name");
    assert_eq!(field_of(&edited("config.json", "zonfig.json")), "files[1].name");
    assert!(matches!(edited("config.json", "confi6.json"), ManifestError::Root { .. }));
}

#[test]
fn unknown_and_repeated_keys_are_refused_and_notes_are_not() {
    assert_eq!(field_of(&edited("{\"format\"", "{\"mode\":1,\"format\"")), "mode");
    assert_eq!(field_of(&edited("{\"name\":\"b\"", "{\"dtype\":1,\"name\":\"b\"")), "files.2.tensors.1.dtype");
    assert!(edited("\"bytes\":7", "\"bytes\":7,\"bytes\":7").to_string().contains("duplicate"));
    let json = String::from_utf8(sample().to_json()).expect("text");
    let noted = json.replace("\"bytes\":7", "\"x-note\":{\"any\":[1]},\"bytes\":7");
    assert_eq!(Manifest::parse(noted.as_bytes()).expect("a note"), sample());
}

#[test]
fn lists_in_place_of_objects_are_refused() {
    let error = Manifest::parse(br#"["forebay.manifest/1",4194304,"",[]]"#).expect_err("a list");
    assert!(error.to_string().contains("an object"), "{error}");
}

#[test]
fn names_that_leave_the_model_are_refused() {
    let long = "a".repeat(NAME_BYTES_MAX + 1);
    for name in ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "./a", "a\\b", "a\nb", "a\0", &long] {
        let error = Manifest::new(vec![file(name, 1)]).expect_err(name);
        assert_eq!(field_of(&error), "files[0].name", "{name:?}");
    }
    for name in ["a", "a.b/c-d", "..a", "a..", "α", "a b"] {
        Manifest::new(vec![file(name, 1)]).expect(name);
    }
}

#[test]
fn what_comes_after_the_manifest_is_not_in_it() {
    for name in ["forebay.manifest.json", "model.sig"] {
        assert_eq!(field_of(&Manifest::new(vec![file(name, 1)]).expect_err(name)), "files[0].name");
    }
}

#[test]
fn empty_and_oversized_manifests_are_refused() {
    assert_eq!(field_of(&Manifest::new(Vec::new()).expect_err("empty")), "files");
    let files = (0..=FILES_MAX).map(|index| file(&index.to_string(), 0)).collect();
    assert_eq!(field_of(&Manifest::new(files).expect_err("too many")), "files");
    let spaces = vec![b' '; JSON_BYTES_MAX + 1];
    assert!(matches!(Manifest::parse(&spaces), Err(ManifestError::TooLarge { .. })));
}

#[test]
fn files_tensors_and_extents_are_found_by_name_and_number() {
    let manifest = sample();
    let weights = manifest.file("model.safetensors").expect("listed");
    assert_eq!(weights.extent(2), Some(Digest([2; 32])));
    assert_eq!(weights.extent(3), None);
    assert_eq!(weights.tensor("b"), Some(Digest([2; 32])));
    assert_eq!(weights.tensor("c"), None);
    assert_eq!(manifest.file("config"), None);
    assert_eq!(manifest.total_bytes(), 2 * EXTENT_BYTES + 8);
}
