//! Requests for files, whatever their bytes.

use proptest::prelude::*;

#[path = "claims/hub.rs"]
mod claims;

/// Text that looks like a path of the hub more often than chance would have it.
fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-zA-Z0-9._-]{0,6}",
        Just("resolve".to_owned()),
        Just("api".to_owned()),
        Just("models".to_owned()),
        Just("tree".to_owned()),
        Just("revision".to_owned()),
        "(%2[eEfF]|%5C|%00|\\.|/|%){0,3}",
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| format!("/{}", parts.join("/")))
}

proptest! {
    #[test]
    fn every_request_keeps_the_claims(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        claims::check(&bytes);
    }

    #[test]
    fn likely_requests_keep_the_claims(path in path(), range in "(bytes=)?[0-9+-]{0,24}(,1-2)?", tags in ".{0,9}") {
        claims::check(format!("{path}\n{range}\n{tags}\n").as_bytes());
    }
}
