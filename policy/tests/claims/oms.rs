//! Claims that hold for any bytes that claim to be a signature bundle or a signed statement.

use policy::trust::oms::{Bundle, OmsError, Statement};
use wire::evidence::Expected;
use wire::manifest::check_name;

/// A bundle that is read is bounded, and signs exactly its payload.
pub(crate) fn bundle(json: &[u8]) {
    let bundle = match Bundle::parse(json) {
        Ok(bundle) => bundle,
        Err(error) => return refusal(&error),
    };
    assert!(bundle.payload.len() <= json.len() && bundle.signature.len() <= 256);
    assert!(bundle.hint.as_ref().is_none_or(|hint| hint.chars().count() <= 100));
    let message = bundle.signed_message();
    let head = format!("DSSEv1 28 application/vnd.in-toto+json {} ", bundle.payload.len());
    assert_eq!(message.strip_prefix(head.as_bytes()), Some(bundle.payload.as_slice()));
    statement(&bundle.payload);
}

/// A statement that is read names files inside the model; its shards tile them.
pub(crate) fn statement(json: &[u8]) {
    let statement = match Statement::parse(json) {
        Ok(statement) => statement,
        Err(error) => return refusal(&error),
    };
    for (name, expected) in &statement.files {
        assert_eq!(check_name(name), Ok(()));
        match expected {
            Expected::Whole(_) => assert!(!statement.is_sharded),
            Expected::Shards(shards) => {
                assert!(statement.is_sharded && !shards.is_empty());
                let mut at = 0;
                for shard in shards {
                    assert!(shard.range.start == at && shard.range.end > at);
                    at = shard.range.end;
                }
            }
            other => panic!("{name:?} is expected to be {other:?}"),
        }
    }
}

/// A refusal says something.
fn refusal(error: &OmsError) {
    assert!(!error.to_string().is_empty());
}
