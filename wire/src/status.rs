//! A worker's status on `GET /status`: one JSON snapshot.
//!
//! The router reads it to know which models a worker has and how loaded it is; people read it
//! with `curl`. Unknown fields are tolerated, so that workers and routers may differ in version.

use serde::{Deserialize, Serialize};

/// The version of [`WorkerStatus`]. It grows when a field changes its meaning or goes; a new field does not change it.
pub const STATUS_VERSION: u32 = 1;
/// The version of [`KvEvents`], likewise.
pub const KV_EVENTS_VERSION: u32 = 1;

/// One snapshot of a worker. What makes it one is `models`; a reader of another release does
/// without the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The version of this snapshot's fields, [`STATUS_VERSION`]; 0 from releases that did not say.
    #[serde(default)]
    pub status_version: u32,
    /// The release that runs, e.g. `0.1.0`.
    #[serde(default)]
    pub version: String,
    /// `true` if new requests are accepted: every model is ready and no drain is under way.
    #[serde(default)]
    pub ready: bool,
    /// `true` while the worker finishes its streams before it exits.
    #[serde(default)]
    pub draining: bool,
    /// The models it serves.
    pub models: Vec<ModelStatus>,
    /// The weights that it gives to peers; absent where it gives none, and from releases that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeding: Option<SeedingStatus>,
    /// The peers that its loads take weights from, or took: the latest 256 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourcePeer>,
}

/// The weights that a process gives to peers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedingStatus {
    /// The URL that it listens at. Whoever is elsewhere takes its port, and the host by which it knows the process.
    pub address: String,
    /// The zone that it says it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The rate at which it may send now, in bytes per second; absent without a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Step times with sending divided by those without, 95th percentiles; absent before enough steps were seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harm: Option<f64>,
    /// Bytes sent since the start.
    pub sent_bytes: u64,
    /// Extents that are being sent or wait for it.
    pub queue_extents: u32,
    /// The models that are offered.
    pub roots: Vec<SharedRoot>,
    /// The peers that were given weights, the latest 256 of them.
    pub peers: Vec<ServedPeer>,
}

/// A model that is offered to peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedRoot {
    /// The root of its manifest.
    pub root: String,
    /// The proof of its bytes.
    pub proof: String,
    /// The number of its extents.
    pub extents: u32,
    /// Those of them that are here.
    pub extents_here: u32,
    /// True if more of them are on their way.
    pub is_loading: bool,
}

/// A peer that was given weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedPeer {
    /// The first URI of its certificate, or else its first DNS name.
    pub peer: String,
    /// Bytes that it was given.
    pub bytes: u64,
}

/// A peer that loads of this process take weights from, or took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePeer {
    /// Its id among the members of the fleet.
    pub id: String,
    /// Its zone, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// True if it is one of those that are asked first.
    pub is_near: bool,
    /// Verified bytes that it brought since the process began.
    pub bytes: u64,
    /// Its standing.
    pub standing: PeerStanding,
    /// The reason why it is banned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Milliseconds until it is asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub banned_for_ms: Option<u64>,
}

/// A peer's standing with the loads of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerStanding {
    /// A load under way is connected to it.
    Connected,
    /// No load is.
    Away,
    /// It sent or attested wrong bytes: nothing is asked of it for a while.
    Banned,
    /// Something that a newer release knows.
    #[serde(other)]
    Other,
}

/// One model of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// The name requests use.
    pub id: String,
    /// Further names that requests may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Its state.
    pub state: ModelState,
    /// The proof of its weights: `proven`, `pinned` or `trusted`.
    #[serde(default)]
    pub proof: String,
    /// Unix seconds of when it became ready.
    #[serde(default)]
    pub created_unix_s: u64,
    /// Bytes of weights that are mapped.
    #[serde(default)]
    pub weights_bytes: u64,
    /// Milliseconds that opening and validating the weights took.
    #[serde(default)]
    pub weights_open_ms: f64,
    /// Milliseconds from the start of the load, or of the last swap, until every weight was there; 0 before.
    #[serde(default)]
    pub ready_after_ms: f64,
    /// The longest sequence, prompt and completion together, in tokens.
    #[serde(default)]
    pub max_model_len: u32,
    /// The queue and KV use right now.
    #[serde(default)]
    pub load: Load,
    /// The phase of its weights.
    #[serde(default)]
    pub phase: ModelPhase,
    /// Bytes of weights that have arrived and are verified.
    #[serde(default)]
    pub bytes_loaded: u64,
    /// Bytes of weights there are; 0 before their headers are known.
    #[serde(default)]
    pub bytes_total: u64,
    /// Milliseconds until the rest has arrived, at the present rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// The part of the model that a step waits for, e.g. `layer 3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// The error of the last load or swap that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The step at which its engine stopped showing life; liveness fails while this is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wedged: Option<Wedged>,
    /// The result of quantizing its weights; absent before it is done, and where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    /// The identity of its keys and values; absent until it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<WeightsIdentity>,
    /// Digests of what it is made of; absent before its files were read, and from releases that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<ModelDigests>,
}

/// Digests of a model's parts, each as `blake3:` and 64 hexadecimal digits. They are equal exactly where the parts are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDigests {
    /// The bytes of all weight files; absent until they were hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// The tokenizer, its special tokens and the chat template.
    #[serde(default)]
    pub text: String,
    /// The layout of a KV block's bytes. Blocks of one name may be exchanged between workers that have it in common.
    #[serde(default)]
    pub kv_layout: String,
}

/// The identity of a model's keys and values, tokens aside: a digest of the weights' bytes, of the model's
/// description and of the preparation of its matrices. The names of KV blocks are rooted in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsIdentity {
    /// 64 hexadecimal digits.
    pub digest: String,
    /// True if every worker with the same weights has it. A directory that nobody hashed has one of its own, for as long
    /// as its files are the same ones and the process lives.
    pub is_public: bool,
}

/// Weights that were quantized when they were loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quantization {
    /// Their new format, e.g. `q8_0`.
    pub format: String,
    /// Matrices that were quantized; others are computed with as they are stored.
    pub matrices: u64,
    /// Bytes of the copies, beside the mapped weights.
    pub bytes: u64,
    /// The mean over the matrices of the root-mean-square error divided by the root-mean-square number.
    pub relative_error_mean: f64,
    /// The largest of them.
    pub relative_error_max: f64,
    /// Whose it is; empty where no matrix was quantized.
    pub worst: String,
}

/// A step that does not end: numbers only, nothing of what it computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wedged {
    /// Unix milliseconds of the last sign of life.
    pub since_unix_ms: u64,
    /// The engine's activity, e.g. `computing`.
    pub activity: String,
    /// The step's number, from 1.
    pub step: u64,
    /// Sequences in the step.
    pub sequences: u32,
    /// Their tokens of prompts.
    pub prefill_tokens: u32,
    /// Their tokens being generated.
    pub decode_tokens: u32,
    /// The part of the model it was at, e.g. `layer 3`, where the backend says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
}

impl ModelStatus {
    /// A model of which nothing is known but its name.
    #[must_use]
    pub fn unknown(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            aliases: Vec::new(),
            state: ModelState::Loading,
            proof: String::new(),
            created_unix_s: 0,
            weights_bytes: 0,
            weights_open_ms: 0.0,
            ready_after_ms: 0.0,
            max_model_len: 0,
            load: Load::default(),
            phase: ModelPhase::Probing,
            bytes_loaded: 0,
            bytes_total: 0,
            eta_ms: None,
            waiting_for: None,
            error: None,
            wedged: None,
            quantization: None,
            identity: None,
            digests: None,
        }
    }
}

/// The phase of a model's weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelPhase {
    /// Small files and headers are being looked at: requests are refused for now.
    Probing,
    /// Weights are arriving: requests are accepted, and wait for the layers they need.
    Loading,
    /// All weights are there.
    Ready,
    /// The load failed.
    Failed,
    /// All weights are there, and those of a new revision are arriving beside them.
    Swapping,
    /// Something that a newer worker does.
    #[default]
    #[serde(other)]
    Other,
}

/// A model's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// Weights or tokenizer are still being opened.
    Loading,
    /// Requests are answered.
    Ready,
    /// It cannot serve; the log says why.
    Failed,
    /// Something that a newer worker does; requests are not answered.
    #[serde(other)]
    Other,
}

/// The load of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Sequences admitted but not yet scheduled.
    pub waiting: u32,
    /// Sequences being generated.
    pub running: u32,
    /// KV blocks in use.
    pub kv_blocks_used: u32,
    /// KV blocks there are.
    pub kv_blocks_total: u32,
}

impl Load {
    /// The used share of the KV blocks, 0 to 1; 0 where there are none.
    #[must_use]
    pub fn kv_usage(&self) -> f64 {
        if self.kv_blocks_total == 0 {
            return 0.0;
        }
        f64::from(self.kv_blocks_used) / f64::from(self.kv_blocks_total)
    }
}

/// Changes of one model's prefix cache, on `GET /status/kv-events?model=M&from=N`: for who wants to know which worker
/// holds which prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEvents {
    /// The version of these events, [`KV_EVENTS_VERSION`]; 0 from releases that did not say.
    #[serde(default)]
    pub kv_events_version: u32,
    /// The model.
    pub model: String,
    /// Tokens per block.
    pub block_tokens: u32,
    /// The identity of the newest weights, as in the model's status; no event is here before it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<WeightsIdentity>,
    /// The number of the first event here. Where it is not the one asked for, those between were forgotten, or the
    /// worker was started anew: the reader takes the cache for empty and follows from here.
    pub first: u64,
    /// The `from` of the next request.
    pub next: u64,
    /// The events, in order.
    pub events: Vec<KvEvent>,
}

/// One change of a prefix cache. Blocks are named by 32 hexadecimal digits that say their tokens, everything before
/// them, the weights and whose they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum KvEvent {
    /// A full block can be shared from now on.
    Stored {
        /// Its name.
        block: String,
        /// The name of the block before; none for a prompt's first.
        parent: Option<String>,
    },
    /// It cannot any more.
    Removed {
        /// Its name.
        block: String,
    },
    /// Something that a newer worker tells. A reader that does not know it takes the cache for empty.
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_peers_unknown_field_is_tolerated() {
        let json = r#"{"version":"9","ready":true,"draining":false,"models":[],"novelty":1}"#;
        let status: WorkerStatus = serde_json::from_str(json).expect("tolerant");
        assert!(status.ready && status.models.is_empty());
    }

    #[test]
    fn an_older_or_newer_workers_model_is_read() {
        let old = r#"{"id":"m","state":"ready","proof":"trusted","created_unix_s":1,"weights_bytes":2,
            "weights_open_ms":0.5,"ready_after_ms":1.5,"max_model_len":3,
            "load":{"waiting":0,"running":0,"kv_blocks_used":0,"kv_blocks_total":1}}"#;
        let model: ModelStatus = serde_json::from_str(old).expect("what workers said before there were phases");
        assert_eq!((model.phase, model.bytes_total, model.error), (ModelPhase::Other, 0, None));
        assert_eq!(serde_json::from_str::<ModelPhase>(r#""dreaming""#).expect("tolerant"), ModelPhase::Other);
        let new = r#"{"id":"m","state":"hibernating","load":{"waiting":2,"asleep":1},"shards":[1]}"#;
        let model: ModelStatus = serde_json::from_str(new).expect("what later workers may leave out and add");
        assert_eq!((model.state, model.load.waiting, model.max_model_len), (ModelState::Other, 2, 0));
    }

    /// A status of the next release as this one reads it, and the other way round.
    #[test]
    fn a_release_older_or_newer_is_understood() {
        let old = r#"{"version":"0.1.0","ready":true,"draining":false,"models":[]}"#;
        let status: WorkerStatus = serde_json::from_str(old).expect("an older worker");
        assert_eq!(status.status_version, 0);
        let new = r#"{"version":"9","status_version":2,"ready":true,"draining":false,"novelty":{},"models":[
            {"id":"m","state":"sleeping","proof":"sworn","created_unix_s":1,"weights_bytes":2,"weights_open_ms":0.5,
             "ready_after_ms":1.5,"max_model_len":3,"phase":"dreaming","novelty":[1],
             "load":{"waiting":0,"running":0,"kv_blocks_used":0,"kv_blocks_total":1,"novelty":7}}]}"#;
        let status: WorkerStatus = serde_json::from_str(new).expect("a newer worker");
        assert_eq!((status.models[0].state, status.models[0].phase), (ModelState::Other, ModelPhase::Other));
        let events = r#"{"model":"m","block_tokens":16,"first":0,"next":2,"events":[
            {"type":"stored","block":"a","parent":null,"novelty":1},{"type":"moved","block":"a","to":"b"}]}"#;
        let events: KvEvents = serde_json::from_str(events).expect("a newer worker's, or an older one's");
        assert_eq!((events.kv_events_version, &events.events[1]), (0, &KvEvent::Other));
    }

    #[test]
    fn kv_usage_of_an_empty_cache_is_zero() {
        assert_eq!(Load::default().kv_usage(), 0.0);
    }
}
