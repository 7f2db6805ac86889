//! Searches the claims of the fuzz target without coverage.

#[path = "claims/answers.rs"]
mod answers;

use proptest::prelude::*;
use serde_json::{Value, json};

/// Text that is nearly right where it is not.
fn word() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => "(10\\.0\\.0\\.[0-9]{1,3}|\\[?fd00::[0-9a-f]{0,4}\\]?|[a-z.-]{0,9})(:[0-9]{0,5})?".prop_map(Value::from),
        1 => ".{0,9}".prop_map(Value::from),
        1 => Just(Value::Null),
        1 => Just(json!(["x"])),
        1 => any::<i64>().prop_map(Value::from),
    ]
}

fn endpoint() -> impl Strategy<Value = Value> {
    (word(), word(), word(), word(), any::<bool>()).prop_map(|(address, host, zone, pod, flag)| {
        json!({"addresses": [address], "hostname": host, "zone": zone, "conditions": {"ready": flag},
            "hints": {"forZones": [{"name": zone}]}, "targetRef": {"kind": "Pod", "name": pod}})
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..200)) {
        answers::check(&data);
    }

    #[test]
    fn any_view_is_read_or_refused(words in prop::collection::vec((word(), word(), word(), word()), 0..4)) {
        let members = words.into_iter().map(|(address, id, zone, name)| json!({"address": address, "id": id, "zone": zone, "name": name}));
        answers::check(json!({"members": members.collect::<Vec<_>>()}).to_string().as_bytes());
    }

    #[test]
    fn any_slice_is_read_or_refused(endpoints in prop::collection::vec(endpoint(), 0..4), name in word(), number in word(), kind in "(ADDED|DELETED|BOOKMARK|ERROR|X)") {
        let slice = json!({"metadata": {"name": name, "resourceVersion": name}, "endpoints": endpoints,
            "ports": [{"name": "peers", "port": number}, {"name": "peers", "port": 1}]});
        answers::check(json!({"metadata": {}, "items": [slice]}).to_string().as_bytes());
        answers::check(json!({"type": kind, "object": slice}).to_string().as_bytes());
    }
}
