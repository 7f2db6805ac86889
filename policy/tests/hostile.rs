//! Bytes of strangers that claim to be a signature (see `claims/oms.rs`).

#[path = "claims/oms.rs"]
mod claims;

use policy::trust::oms::Bundle;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

const BUNDLES: [&[u8]; 4] = [
    include_bytes!("fixtures/oms/files.sig"),
    include_bytes!("fixtures/oms/files-blake3.sig"),
    include_bytes!("fixtures/oms/shards.sig"),
    include_bytes!("fixtures/oms/certificate.sig"),
];

fn damage(bytes: &mut [u8], edits: Vec<(Index, u8)>) {
    for (place, byte) in edits {
        let place = place.index(bytes.len());
        bytes[place] = byte;
    }
}

/// The last statement's shards with other bounds and sizes, in any order, the root left as it may.
fn statement() -> impl Strategy<Value = Value> {
    let bound = || select(vec![0_u64, 1, 2, 4, 6, 8, u64::MAX]);
    let shard = (select(vec!["a", "a:b", "..", ""]), bound(), bound());
    let size = select(vec![json!(2.0), json!(0), json!(-1), json!(1e300), json!(null), json!("2"), json!(4)]);
    (vec(shard, 0..5), size).prop_map(|(shards, size)| {
        let digest = "00".repeat(32);
        let resource = |(name, start, end): &(&str, u64, u64)| {
            json!({"name": format!("{name}:{start}:{end}"), "algorithm": "sha256-sharded-2", "digest": digest})
        };
        let root = <sha2::Sha256 as sha2::Digest>::digest(vec![0; 32 * shards.len()]);
        json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": wire::digest::Sha256(root.into()).to_hex()}}],
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {
                "serialization": {"method": "shards", "hash_type": "sha256", "shard_size": size},
                "resources": shards.iter().map(resource).collect::<Vec<_>>(),
            },
        })
    })
}

proptest! {
    #[test]
    fn any_bytes_are_a_bundle_or_refused(bytes: Vec<u8>) {
        claims::bundle(&bytes);
        claims::statement(&bytes);
    }

    #[test]
    fn damaged_bundles_are_read_or_refused(bundle in select(BUNDLES.to_vec()), edits in vec((any::<Index>(), any::<u8>()), 1..4)) {
        let mut bundle = bundle.to_vec();
        damage(&mut bundle, edits);
        claims::bundle(&bundle);
    }

    #[test]
    fn damaged_statements_are_read_or_refused(bundle in select(BUNDLES.to_vec()), edits in vec((any::<Index>(), any::<u8>()), 1..4)) {
        let Ok(bundle) = Bundle::parse(bundle) else { return Ok(()) };
        let mut payload = bundle.payload;
        damage(&mut payload, edits);
        claims::statement(&payload);
    }

    #[test]
    fn any_shards_tile_their_files_or_are_refused(statement in statement()) {
        claims::statement(statement.to_string().as_bytes());
    }
}

#[test]
fn real_bundles_keep_the_claims() {
    BUNDLES.iter().for_each(|bundle| claims::bundle(bundle));
}
