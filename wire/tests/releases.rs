//! Snapshots of workers of every release are understood; see `releases/README.md`.

use std::path::Path;
use wire::status::{KvEvent, KvEvents, ModelPhase, ModelState, WorkerStatus};

fn kept(version: u32, file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/releases/{version}/{file}"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_status_of_every_release_is_read() {
    for version in 0..=wire::status::STATUS_VERSION {
        let status: WorkerStatus = serde_json::from_str(&kept(version, "status.json")).expect("a status");
        assert_eq!(status.status_version, version);
        let [model] = &status.models[..] else { panic!("{status:?}") };
        assert!(status.ready && model.state == ModelState::Ready && model.max_model_len == 2048, "{model:?}");
        let phase = if version == 0 { ModelPhase::Other } else { ModelPhase::Ready };
        assert_eq!((model.phase, &model.digests), (phase, &None));
    }
}

#[test]
fn events_of_every_release_are_read() {
    for version in 0..=wire::status::KV_EVENTS_VERSION {
        let events: KvEvents = serde_json::from_str(&kept(version, "kv-events.json")).expect("events");
        assert_eq!((events.kv_events_version, events.first), (version, 0));
        assert_eq!(events.next, events.events.len() as u64);
        assert!(!events.events.contains(&KvEvent::Other), "{events:?}");
    }
}
