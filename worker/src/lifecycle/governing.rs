//! Slows the sending of weights to peers where it slows the engines: reads their steps, asks the governor, sets the rate.

use crate::engine::{EngineHandle, StepRecord};
use crate::server::Server;
use seeding::Seeder;
use seeding::governor::{Governor, Seen, StepSeen, TICK, govern};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

/// The most steps of one engine that are read at a time; an engine of a millisecond a step has a hundred.
const STEPS_MAX: usize = 512;

/// Governs until the server is gone.
pub(super) async fn run(server: Weak<Server>, seeder: Arc<Seeder>) {
    let (begun, mut governor, mut reader) = (Instant::now(), Governor::default(), Reader::default());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(server) = server.upgrade() else { return };
        let now = begun.elapsed();
        let engines: Vec<(String, EngineHandle)> = server.engines();
        let read = reader.read(&engines, now);
        let seen = Seen {
            steps: &read.steps,
            waiting: read.waiting,
            is_idle: read.is_idle,
            sent_bytes: reader.sent_since(seeder.sent_bytes()),
        };
        let rate = govern(&mut governor, &seen, now);
        let steady = rate.max(governor.rate());
        seeder.govern(rate, steady, governor.harm());
    }
}

/// The places up to which the engines' steps were read.
#[derive(Default)]
struct Reader {
    /// By model: a number of the engine, and its last step.
    engines: BTreeMap<String, (u32, u64)>,
    sent_bytes: u64,
}

struct Read {
    steps: Vec<StepSeen>,
    waiting: u32,
    is_idle: bool,
}

impl Reader {
    /// The steps that ended since the last call.
    fn read(&mut self, engines: &[(String, EngineHandle)], now: Duration) -> Read {
        let mut read = Read { steps: Vec::new(), waiting: 0, is_idle: true };
        for (model, engine) in engines {
            let load = engine.load();
            read.waiting = read.waiting.saturating_add(load.waiting);
            let number = u32::try_from(self.engines.len()).unwrap_or(u32::MAX);
            let (number, last) = self.engines.entry(model.clone()).or_insert((number, 0));
            let flight = engine.flight(STEPS_MAX);
            let age_ms = flight.at_unix_ms.saturating_sub(flight.began_unix_ms);
            let new = flight.steps.iter().filter(|step| step.step > *last);
            read.steps.extend(new.map(|step| seen(*number, step, age_ms, now)));
            read.is_idle &=
                load.running == 0 && load.waiting == 0 && !flight.steps.iter().any(|step| step.step > *last);
            *last = flight.steps.last().map_or(*last, |step| step.step.max(*last));
        }
        read
    }

    fn sent_since(&mut self, sent_bytes: u64) -> u64 {
        sent_bytes.saturating_sub(std::mem::replace(&mut self.sent_bytes, sent_bytes))
    }
}

/// A step on the governor's clock, of an engine that is `age_ms` old.
fn seen(engine: u32, step: &StepRecord, age_ms: u64, now: Duration) -> StepSeen {
    let took = Duration::from_micros(u64::from(step.took_us));
    let ended_ago = Duration::from_millis(age_ms).saturating_sub(Duration::from_millis(step.began_ms) + took);
    StepSeen {
        engine,
        ended: now.saturating_sub(ended_ago),
        took,
        decode_tokens: step.decode_tokens,
        prompt_tokens: step.prefill_tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_seen_on_the_governors_clock() {
        let step = StepRecord { began_ms: 900, took_us: 50_000, decode_tokens: 3, ..StepRecord::default() };
        let seen = seen(7, &step, 1_000, Duration::from_secs(60));
        assert_eq!(seen.ended, Duration::from_millis(59_950));
        assert_eq!((seen.engine, seen.took, seen.decode_tokens), (7, Duration::from_millis(50), 3));
    }
}
