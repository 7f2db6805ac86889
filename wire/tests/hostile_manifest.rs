//! Bytes of strangers that claim to be a manifest (see `claims/manifest.rs`).

#[path = "claims/manifest.rs"]
mod claims;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};
use wire::digest::Digest;
use wire::manifest::{Manifest, ManifestFile, TensorDigest};

/// A small manifest with everything in it.
fn sample() -> Vec<u8> {
    let file = |name: &str, bytes: u64, extents: usize| ManifestFile {
        name: name.into(),
        bytes,
        extents: vec![Digest([7; 32]); extents],
        tensors: vec![TensorDigest { name: "a".into(), digest: Digest([8; 32]) }],
    };
    let files = vec![file("a.safetensors", 5 << 20, 2), file("config.json", 9, 1), file("empty", 0, 0)];
    Manifest::new(files).expect("valid").to_json()
}

/// Values that stand where others should.
fn wrong() -> impl Strategy<Value = Value> {
    let texts = select(vec!["", "..", "/", "a\\b", "é", "blake3:", "forebay.manifest/1", "x-"]).prop_map(Value::from);
    let numbers = select(vec![0, 1, -1, 4_194_304, i64::MAX]).prop_map(Value::from);
    prop_oneof![texts, numbers, Just(Value::Null), Just(json!([])), Just(json!({})), Just(json!(1e300))]
}

/// Every place in a document, by JSON pointer.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| places(item, &format!("{at}/{index}"), found));
        }
        Value::Object(entries) => {
            entries.iter().for_each(|(key, entry)| places(entry, &format!("{at}/{key}"), found));
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_manifest_or_refused(bytes: Vec<u8>) {
        claims::manifest(&bytes);
    }

    #[test]
    fn damaged_manifests_are_read_or_refused(edits in vec((any::<Index>(), any::<u8>()), 1..4)) {
        let mut json = sample();
        for (place, byte) in edits {
            let place = place.index(json.len());
            json[place] = byte;
        }
        claims::manifest(&json);
    }

    #[test]
    fn manifests_with_any_value_out_of_place_are_refused(place: Index, value in wrong()) {
        let mut json: Value = serde_json::from_slice(&sample()).expect("JSON");
        let mut found = Vec::new();
        places(&json, "", &mut found);
        let target = json.pointer_mut(&found[place.index(found.len())]).expect("found there");
        let is_other = *target != value;
        *target = value;
        let text = json.to_string();
        claims::manifest(text.as_bytes());
        prop_assert!(!is_other || Manifest::parse(text.as_bytes()).is_err(), "{}", text);
    }
}

#[test]
fn deep_nesting_is_refused_without_recursion() {
    for open in ["[", "{\"x-a\":"] {
        claims::manifest(open.repeat(1 << 20).as_bytes());
    }
}
