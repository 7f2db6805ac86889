//! The router's settings, each default with its reason.

use discovery::DiscoveryConfig;
use listen::{ClientTlsConfig, ListenConfig};
use policy::{PolicyConfig, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// The router's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouterConfig {
    /// Where clients come in.
    pub listen: ListenConfig,
    /// The workers' base URLs, `http://HOST:PORT` or `https://HOST:PORT`. Any OpenAI server will do. Empty by default:
    /// `forebay serve` adds its own, `forebay router` wants `--worker` or a source in `discovery`.
    pub workers: Vec<String>,
    /// Further workers that are found, and followed as they come and go. Off by default: no source is named.
    pub discovery: DiscoveryConfig,
    /// Speaks TLS with workers that are found, as with those at `https://` URLs. Off by default, as `http://` is.
    pub discovery_tls: bool,
    /// The key sent to the workers in place of the client's. Absent by default: workers on
    /// loopback or behind a network policy need none.
    pub worker_api_key: Option<Secret>,
    /// How workers at `https://` URLs are verified, and the certificate that is shown to them.
    pub worker_tls: ClientTlsConfig,
    /// The key that lets administrators in from other machines, for `/admin/…` and `/status`. Absent by default:
    /// then administration is for callers on the router's own machine.
    pub admin_api_key: Option<Secret>,
    /// How workers are watched.
    pub health: HealthConfig,
    /// How often a request may be tried again.
    pub retry: RetryConfig,
    /// How a worker is picked.
    pub pick: PickConfig,
    /// Records of what tenants used.
    pub usage: UsageConfig,
    /// How long a connection to a worker may take, in milliseconds. 1 s is a dozen round trips
    /// around a datacentre; a worker that needs more is not there.
    pub connect_timeout_ms: u64,
    /// How long a worker may take until its answer begins, in milliseconds. A whole answer begins
    /// when it is finished, so this is 10 minutes: what OpenAI's clients wait by default.
    pub head_timeout_ms: u64,
    /// How long a stream may be silent before its first event, in milliseconds. Queues of minutes
    /// are normal; comments, by which a worker shows that it lives, start the time anew.
    pub first_event_timeout_ms: u64,
    /// How long an answer may pause once it has begun, in milliseconds. Comments count as life; a
    /// worker that sends neither tokens nor comments for two minutes is stuck.
    pub idle_timeout_ms: u64,
    /// How long a worker may be silent, in milliseconds, before a request there is given up, if
    /// health checks stay unanswered as well: a stopped process is noticed within seconds. Above
    /// what `health` needs to notice, so that one lost check decides nothing.
    pub stuck_after_ms: u64,
    /// How long the head of a stream is held for the first event, and how often a silent stream
    /// gets a comment, in milliseconds. Until the head is out a refusal keeps its status and
    /// another worker can be tried; balancers cut connections that are silent for 60 s.
    pub comment_interval_ms: u64,
    /// How long an unused connection to a worker is kept, in milliseconds, where the worker does
    /// not say. Common servers close theirs after 5 s, and a request that meets the close is lost.
    pub pool_idle_ms: u64,
    /// The most requests being answered; further ones get 503. Under the 10,000 connections that
    /// `listen` allows, so that health checks and metrics still get through.
    pub in_flight_max: usize,
    /// How many large requests and answers are read and screened at a time, on threads of their own; others wait for
    /// their turn, which counts among `in_flight_max`. Those over 1 MiB take half of it at most. 4: this is work of the
    /// processor, and the threads that carry streams want their share.
    pub large_at_once_max: usize,
    /// The largest event of a stream, in bytes. An event holds one token, with `logprobs` a few
    /// KiB, and where the prompt is echoed with them a few KiB for each of its tokens.
    pub event_bytes_max: usize,
    /// The largest answer that is not streamed, in bytes: it is read as a whole before any of it is
    /// sent, so that one that breaks off is an error and not half a document. 256 MiB hold 128,000
    /// tokens with the log-probabilities of 20 alternatives each.
    pub answer_bytes_max: usize,
    /// The most bytes of such answers held at a time, all together; beyond it a request gets 503.
    pub answers_bytes_max: usize,
    /// Keys, limits, and lists of phrases.
    pub policy: PolicyConfig,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            listen: ListenConfig::default(),
            workers: Vec::new(),
            discovery: DiscoveryConfig::default(),
            discovery_tls: false,
            worker_api_key: None,
            worker_tls: ClientTlsConfig::default(),
            admin_api_key: None,
            health: HealthConfig::default(),
            retry: RetryConfig::default(),
            pick: PickConfig::default(),
            usage: UsageConfig::default(),
            connect_timeout_ms: 1_000,
            head_timeout_ms: 600_000,
            first_event_timeout_ms: 600_000,
            idle_timeout_ms: 120_000,
            stuck_after_ms: 10_000,
            comment_interval_ms: 15_000,
            pool_idle_ms: 4_000,
            in_flight_max: 8_192,
            large_at_once_max: 4,
            event_bytes_max: 16 << 20,
            answer_bytes_max: 256 << 20,
            answers_bytes_max: 1 << 30,
            policy: PolicyConfig::default(),
        }
    }
}

impl RouterConfig {
    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn head_timeout(&self) -> Duration {
        Duration::from_millis(self.head_timeout_ms)
    }

    pub(crate) fn first_event_timeout(&self) -> Duration {
        Duration::from_millis(self.first_event_timeout_ms)
    }

    pub(crate) fn stuck_after(&self) -> Duration {
        Duration::from_millis(self.stuck_after_ms)
    }

    pub(crate) fn comment_interval(&self) -> Duration {
        Duration::from_millis(self.comment_interval_ms)
    }

    pub(crate) fn pool_idle(&self) -> Duration {
        Duration::from_millis(self.pool_idle_ms)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }
}

/// How workers are watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// How often each worker is asked, in milliseconds, give or take a fifth so that routers do
    /// not ask in step. One small request a second costs nothing and finds a restart quickly.
    pub interval_ms: u64,
    /// How long it may take to answer, in milliseconds. A busy machine may need a second.
    pub timeout_ms: u64,
    /// How many unanswered checks in a row mark it down. Two, so that one lost packet does not. A
    /// refused connection marks it down at once.
    pub failures_max: u32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { interval_ms: 1_000, timeout_ms: 2_000, failures_max: 2 }
    }
}

/// Records of what tenants used: one line of JSON for each request that was admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UsageConfig {
    /// The file that they are appended to, made where it is not there; its directory has to be. One that is moved away is
    /// followed by a new one. Absent by default: nothing is recorded.
    pub file: Option<PathBuf>,
    /// The most records that wait to be written, of some 300 bytes each; further ones are counted as lost, and are lines of
    /// the log. 65,536 are some seconds of a router at its limit.
    pub queue_max: usize,
}

impl Default for UsageConfig {
    fn default() -> Self {
        Self { file: None, queue_max: 65_536 }
    }
}

/// How a worker is picked for a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PickConfig {
    /// The rule.
    pub by: PickBy,
    /// How much more load a worker may have than the mean of all before a prompt goes elsewhere than to the worker that
    /// knows its beginning. 1.25: what is lost to waiting stays below what the cache saves.
    pub load_max_over_mean: f64,
}

/// Rules by which workers are picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PickBy {
    /// By what the prompt begins with, so that workers find it in their prefix caches; where its worker has too much, by
    /// load. Routers need no word of each other for it.
    Prefix,
    /// By load alone: the tokens that requests may come to, and what waits at the worker.
    LeastLoad,
}

impl Default for PickConfig {
    fn default() -> Self {
        Self { by: PickBy::Prefix, load_max_over_mean: 1.25 }
    }
}

/// How often a request may be tried again at another worker, before the client has an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Retries per request, over all requests: when everything fails, load grows by this share
    /// and no more. A tenth bridges the loss of one worker of ten.
    pub ratio: f64,
    /// Retries per second that are allowed besides, so that a quiet router can retry at all.
    pub floor_per_second: f64,
    /// The most retries saved up from quiet times.
    pub saved_max: f64,
    /// The most tries of one request.
    pub attempts_max: usize,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { ratio: 0.1, floor_per_second: 1.0, saved_max: 10.0, attempts_max: 3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_at_every_level() {
        for json in [r#"{"worker":[]}"#, r#"{"retry":{"budget":1}}"#, r#"{"policy":{"keys":[]}}"#] {
            serde_json::from_str::<RouterConfig>(json).expect_err(json);
        }
    }

    #[test]
    fn the_schema_describes_every_field() {
        let schema = serde_json::to_value(schemars::schema_for!(RouterConfig)).expect("json");
        let fields = schema["properties"].as_object().expect("properties");
        let written = serde_json::to_value(RouterConfig::default()).expect("json");
        for name in written.as_object().expect("fields").keys() {
            assert!(fields.get(name).is_some_and(|field| field["description"].is_string()), "{name}");
        }
    }
}
