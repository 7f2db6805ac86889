//! Kubernetes: the EndpointSlices of one Service, listed and watched.
//!
//! This is the only place that knows its API, and of that two questions (docs/decisions/0028-kubernetes.md).

mod account;
mod api;
mod json;
mod reflector;
mod slices;

use crate::config::{DiscoveryConfig, Service};
use crate::kubernetes::api::{Api, ApiError, Changes};
use crate::kubernetes::reflector::{Heard, Reflector, Step};
use crate::roster::News;
use crate::source::Line;
use rand::Rng;
use std::time::Duration;
use tokio::time::Instant;
use wire::Chain;

pub use json::read_slices;

/// How long changes are collected before the members are looked at again.
const COLLECT: Duration = Duration::from_millis(100);
/// A watch that ends sooner, and brought nothing, counts as a failure.
const WATCH_MIN: Duration = Duration::from_secs(1);
/// How many endpoints are held for one member that is listed: of a pod in the slices of both address families, and of
/// those that are ending.
const ENDPOINTS_A_MEMBER: usize = 4;

/// Follows the EndpointSlices of a Service until nobody listens.
pub(crate) async fn follow(service: Service, config: DiscoveryConfig, line: Line) {
    let reflector = Reflector::new(config.members_max.saturating_mul(ENDPOINTS_A_MEMBER));
    let mut follower = Follower { service, config, line, reflector, api: None, is_silent: false };
    while follower.step().await {}
}

struct Follower {
    service: Service,
    config: DiscoveryConfig,
    line: Line,
    reflector: Reflector,
    api: Option<Api>,
    is_silent: bool,
}

impl Follower {
    /// Asks the next question; returns false if nobody listens any more.
    async fn step(&mut self) -> bool {
        let wait = self.reflector.wait(rand::rng().random_range(0.0..1.0));
        tokio::time::sleep(wait).await;
        match self.ask().await {
            Ok(is_heard) => is_heard,
            Err(cause) => self.fail(&cause).await,
        }
    }

    async fn ask(&mut self) -> Result<bool, ApiError> {
        let mut api = match self.api.take() {
            Some(api) => api,
            None => Api::open(&self.service, &self.config)?,
        };
        let is_heard = match self.reflector.next() {
            Step::List { token } => {
                let page = api.list(token.as_deref()).await?;
                match self.reflector.hear(Heard::Page(page)) {
                    true => self.tell().await,
                    false => !self.line.words.is_closed(),
                }
            }
            Step::Watch { version } => {
                let changes = api.watch(&version).await?;
                self.watch(changes).await?
            }
        };
        // Only while all is well: after a failure the account and the server's address are read anew.
        self.api = Some(api);
        Ok(is_heard)
    }

    /// Follows one watch to its end.
    async fn watch(&mut self, mut changes: Changes) -> Result<bool, ApiError> {
        let begun = Instant::now();
        let mut is_idle = true;
        let mut due: Option<Instant> = None;
        loop {
            let collected = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                heard = changes.next() => match heard {
                    Ok(Some(heard)) => {
                        is_idle = false;
                        if self.reflector.hear(heard) {
                            due.get_or_insert_with(|| Instant::now() + COLLECT);
                        }
                    }
                    end => {
                        if due.is_some() && !self.tell().await {
                            return Ok(false);
                        }
                        let is_brief = is_idle && begun.elapsed() < WATCH_MIN;
                        if !is_brief {
                            // It went well until now, whatever comes next.
                            self.reflector.hear(Heard::Ended);
                        }
                        end?;
                        if is_brief {
                            return Err(ApiError::Brief);
                        }
                        // Nothing changed since, and that is an answer too.
                        return Ok(self.tell().await);
                    }
                },
                () = collected => {
                    due = None;
                    if !self.tell().await {
                        return Ok(false);
                    }
                }
                () = self.line.words.closed() => return Ok(false),
            }
        }
    }

    async fn tell(&mut self) -> bool {
        if std::mem::take(&mut self.is_silent) {
            tracing::info!(source = self.line.name, "members are found again");
        }
        self.line.send(News::Whole(self.reflector.members()), self.reflector.refused()).await
    }

    async fn fail(&mut self, cause: &ApiError) -> bool {
        self.reflector.hear(if cause.wants_list() { Heard::Expired } else { Heard::Failed });
        if !cause.is_expired() && !std::mem::replace(&mut self.is_silent, true) {
            let cause = Chain(cause);
            tracing::warn!(source = self.line.name, %cause, "members cannot be looked for; the last ones stand");
        }
        self.line.send(News::Silence, 0).await
    }
}
