//! State that all requests share. It knows no route.

use crate::budget::RetryBudget;
use crate::config::RouterConfig;
use crate::fleet::Fleet;
use crate::meter::{Metrics, Slots};
use crate::offload::Offload;
use crate::strikes::{Digester, Strikes};
use crate::view::Views;
use listen::{Bodies, ClientTls, Drain, Memory};
use parking_lot::Mutex;
use policy::{Moment, Policy};
use std::sync::Arc;
use telemetry::metrics::Registry;
use tokio::time::Instant;

/// State that all requests share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: RouterConfig,
    pub(crate) policy: Policy,
    pub(crate) fleet: Fleet,
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

impl Core {
    /// The key that lets administrators in from elsewhere.
    pub(crate) fn admin_api_key(&self) -> Option<&str> {
        self.config.admin_api_key.as_ref().map(policy::Secret::reveal)
    }

    /// The time policy is told: since the router was made.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.begun.elapsed())
    }
}
