//! State that all requests share. It knows no route.

use crate::budget::RetryBudget;
use crate::config::RouterConfig;
use crate::fleet::Fleet;
use crate::ledger::Ledger;
use crate::meter::{Metrics, Slots};
use crate::offload::Offload;
use crate::reload_status::Reloads;
use crate::strikes::{Digester, Strikes};
use crate::view::Views;
use crate::worker::Address;
use arc_swap::ArcSwap;
use listen::{Bodies, ClientTls, Drain, Memory};
use parking_lot::Mutex;
use policy::{Moment, Policy};
use std::sync::Arc;
use telemetry::metrics::Registry;
use tokio::sync::watch;
use tokio::time::Instant;

/// State that all requests share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: ArcSwap<Settings>,
    pub(crate) reloads: Reloads,
    pub(crate) ledger: Option<Ledger>,
    pub(crate) fleet: Fleet,
    /// The workers of the configuration.
    pub(crate) configured: watch::Sender<Vec<Address>>,
    pub(crate) views: Views,
    pub(crate) budget: RetryBudget,
    pub(crate) strikes: Mutex<Strikes>,
    pub(crate) digester: Digester,
    pub(crate) slots: Arc<Slots>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) bodies: Bodies,
    pub(crate) offload: Arc<Offload>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: Drain,
    pub(crate) registry: Registry,
    pub(crate) begun: Instant,
    /// For workers at `https://` URLs; absent where there is none.
    pub(crate) tls: Option<ClientTls>,
}

/// The configuration that runs. A request holds on to the one that it began under: tenants have places in it.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: RouterConfig,
    pub(crate) policy: Policy,
}

impl Settings {
    /// The key that lets administrators in from elsewhere.
    pub(crate) fn admin_api_key(&self) -> Option<&str> {
        self.config.admin_api_key.as_ref().map(policy::Secret::reveal)
    }
}

impl Core {
    /// The configuration that runs now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// The time policy is told: since the router was made.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.begun.elapsed())
    }
}
