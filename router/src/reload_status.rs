//! The record of configurations that were read while the router ran.

use parking_lot::Mutex;
use prometheus::{Gauge, IntCounterVec};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};
use telemetry::metrics::Registry;
use telemetry::names;

/// The record of reloads.
#[derive(Debug)]
pub(crate) struct Reloads {
    state: Mutex<ReloadStatus>,
    count: IntCounterVec,
    is_current: Gauge,
}

/// The configuration that runs, as `/status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ReloadStatus {
    /// How many configurations were in force before it.
    generation: u64,
    /// When it was taken, in seconds since 1970.
    since_unix_s: u64,
    /// Why a newer one is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Reloads {
    /// The first configuration is in force.
    pub(crate) fn new(registry: &Registry) -> Self {
        let is_current = registry.gauge(&names::ROUTER_CONFIG_CURRENT).with_label_values::<&str>(&[]);
        is_current.set(1.0);
        let state = Mutex::new(ReloadStatus { generation: 0, since_unix_s: now_unix_s(), problem: None });
        Self { state, count: registry.counter(&names::ROUTER_CONFIG_RELOADS), is_current }
    }

    /// A configuration was taken.
    pub(crate) fn taken(&self, by: &str) {
        let mut state = self.state.lock();
        *state = ReloadStatus { generation: state.generation + 1, since_unix_s: now_unix_s(), problem: None };
        self.count.with_label_values(&["ok"]).inc();
        self.is_current.set(1.0);
        tracing::info!(target: "admin", by, generation = state.generation, "the configuration was replaced");
    }

    /// The configuration that was read is the one that runs.
    pub(crate) fn same(&self, by: &str) {
        self.state.lock().problem = None;
        self.is_current.set(1.0);
        tracing::info!(target: "admin", by, "the configuration is as it was");
    }

    /// A configuration could not be taken.
    pub(crate) fn failed(&self, problem: &str, by: &str) {
        self.state.lock().problem = Some(problem.to_owned());
        self.count.with_label_values(&["error"]).inc();
        self.is_current.set(0.0);
        tracing::error!(target: "admin", by, problem, "the changed configuration cannot be used, the old one stays");
    }

    pub(crate) fn status(&self) -> ReloadStatus {
        self.state.lock().clone()
    }
}

fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
