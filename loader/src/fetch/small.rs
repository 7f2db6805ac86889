//! Small reads: what an object is, a header, a file of settings. They get the care that ranges of
//! weights get: patience learned from the source, stalls seen by progress, retries on fresh
//! connections, the same budgets and the same counters.
//!
//! Nothing here lands in a region, and nothing is judged: the caller knows what the bytes must be.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{sleep, sleep_until, timeout};

use super::attempt::{SLOW_LOOK, Watch};
use super::budget::Budgets;
use super::clock::now;
use super::config::FetchConfig;
use super::decide::{self, Ended, History, Next, Position};
use super::error::FetchError;
use super::metrics::{Metrics, Tally};
use super::shared::Shared;
use super::stall::{Health, Stall};
use crate::LoadError;
use crate::landing::Landing;
use crate::source::{Object, ReadOptions, Source, SourceError};

/// Reads small things from one source.
pub(crate) struct SmallReads {
    source: Arc<dyn Source>,
    shared: Shared,
}

impl SmallReads {
    /// Reads from `source`; `config` bounds the retries.
    pub(crate) fn new(source: Arc<dyn Source>, budgets: &Budgets, config: &FetchConfig, metrics: &Metrics) -> Self {
        let tally = Tally::new(metrics, std::slice::from_ref(&source));
        let shared = Shared::new(Vec::new(), vec![Arc::clone(&source)], budgets.clone(), config, tally);
        Self { source, shared }
    }

    pub(crate) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Looks an object up.
    ///
    /// # Errors
    /// The source's last answer, once it is final or retries have run out.
    pub(crate) async fn stat(&self, name: &str) -> Result<Object, LoadError> {
        let mut history = History::default();
        loop {
            let ended = match self.stat_once(name, history.stalls).await {
                Ok(Ok(object)) => return Ok(object),
                Ok(Err(problem)) => Ended::Failed(problem),
                Err(stall) => Ended::Stalled(stall),
            };
            self.pause(&mut history, ended, name, 0..0).await?;
        }
    }

    async fn stat_once(&self, name: &str, stalls: u32) -> Result<Result<Object, SourceError>, Stall> {
        self.wait_for_budget(name).await;
        if let Err(problem) = self.source().authenticate().await {
            return Ok(Err(problem));
        }
        let patience = self.shared.observed(0, |observed| observed.patience(&self.shared.config, stalls).first_byte());
        let asked = now();
        let answer = timeout(patience, self.source().stat(name)).await;
        let took = now().saturating_duration_since(asked);
        match &answer {
            Ok(_) => self.shared.observed(0, |observed| observed.first_byte(took)),
            Err(_) => {
                self.shared.observed(0, |observed| observed.given_up(Stall::FirstByte, took));
                self.shared.tally.request("stalled");
            }
        }
        answer.map_err(|_| Stall::FirstByte)
    }

    /// The bytes of a part of an object.
    ///
    /// # Errors
    /// As [`SmallReads::stat`]; the object changed.
    pub(crate) async fn read(&self, object: &Object, range: Range<u64>) -> Result<Vec<u8>, LoadError> {
        let mut landing = Landing::small(range);
        let mut history = History::default();
        while landing.remaining() > 0 {
            self.wait_for_budget(&object.name).await;
            let from = landing.position();
            let ended = self.read_once(object, &mut landing, &history).await;
            history.brought = landing.position() - from;
            if !matches!(ended, Ended::Complete) {
                let missing = landing.position()..landing.range().end;
                self.pause(&mut history, ended, &object.name, missing).await?;
            }
        }
        Ok(landing.into_bytes().unwrap_or_default())
    }

    async fn read_once(&self, object: &Object, landing: &mut Landing, history: &History) -> Ended {
        let mut watch = Watch::new(&self.shared, 0, landing);
        let options = ReadOptions { fresh_connection: history.fresh };
        let mut read = self.source().read(object, landing, options);
        loop {
            let look_again = match watch.health(history.stalls) {
                Health::Fine(at) => at,
                Health::Slow => now() + SLOW_LOOK,
                Health::Stalled(stall) => {
                    watch.given_up(stall);
                    return Ended::Stalled(stall);
                }
            };
            tokio::select! {
                biased;
                result = watch.read(read.as_mut()) => return watch.finished(result),
                () = sleep_until(look_again.into()) => {}
            }
        }
    }

    async fn wait_for_budget(&self, name: &str) {
        let object = format!("{}/{name}", self.source().url());
        let wait = self.shared.budgets.request(self.source().account(), &object, now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// There is to be none.
    async fn pause(
        &self,
        history: &mut History,
        ended: Ended,
        name: &str,
        missing: Range<u64>,
    ) -> Result<(), LoadError> {
        let position =
            Position { object: name, url: self.source().url(), missing: (missing.start, missing.end), source_count: 1 };
        let mut random = StdRng::seed_from_u64(rand::random());
        match decide::next(history, ended, position, now(), &self.shared.config, &mut random) {
            Next::Done => Ok(()),
            Next::Again(delay) => {
                self.shared.tally.retry();
                sleep(delay.max(Duration::from_millis(1))).await;
                Ok(())
            }
            Next::Fail(FetchError::Permanent { source, .. } | FetchError::Exhausted { source, .. }) => {
                Err(LoadError::Source(*source))
            }
            Next::Fail(error) => Err(error.into()),
        }
    }
}
