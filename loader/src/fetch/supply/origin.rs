//! A supply of equals: replicas of the origin, each of which has everything.
//!
//! Fetches go out in order, to the first source; failures move a fetch on to the next. One window
//! bounds the requests in flight at all of them together, as replicas share one account's limits.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;

use super::{After, Facts, News, Next, Order, Room, Supply};
use crate::fetch::config::FetchConfig;
use crate::fetch::decide::{self, Ended, History, Position};
use crate::fetch::queue::Queue;
use crate::fetch::stall::Stall;
use crate::fetch::window::Window;
use crate::plan::Fetch;
use crate::source::SourceError;

/// The origin's replicas, and nobody else.
pub(in crate::fetch) struct OriginOnly {
    queue: Queue<Order>,
    window: Window,
    config: FetchConfig,
    source_count: usize,
    in_flight: usize,
    next_id: u64,
}

impl OriginOnly {
    pub(in crate::fetch) fn new(fetches: Vec<Fetch>, source_count: usize, config: &FetchConfig, now: Instant) -> Self {
        let (queue, window) = (Queue::new(fetches), Window::new(config, now));
        Self { queue, window, config: config.clone(), source_count, in_flight: 0, next_id: 0 }
    }

    fn begin(&mut self, room: &Room<'_>) -> Option<Order> {
        let (file, extents) = self.queue.next(self.window.size(), room.is_there)?;
        let id = self.next_id;
        self.next_id += 1;
        Some(Order { id, file, extents, resumes: true, history: History::default() })
    }
}

impl Supply for OriginOnly {
    fn next(&mut self, room: &Room<'_>, now: Instant, _: &mut StdRng) -> Next {
        let has_room = self.window.paused_until(now).is_none() && self.in_flight < self.window.size();
        // What was begun comes before what is new.
        match has_room.then(|| self.queue.due(now).or_else(|| self.begin(room))).flatten() {
            Some(order) => {
                self.in_flight += 1;
                Next::Order(order)
            }
            None => Next::Wait,
        }
    }

    fn due(&self, _: Instant) -> Option<Instant> {
        self.queue.next_due()
    }

    fn put_back(&mut self, order: Order) {
        self.in_flight -= 1;
        self.queue.put_back(order.file, order.extents);
    }

    fn ended(&mut self, mut order: Order, ended: Ended, facts: &Facts<'_>, random: &mut StdRng) -> After {
        self.in_flight -= 1;
        signal(&mut self.window, &ended, facts, facts.landed.iter().sum(), &self.config);
        order.history.brought = facts.brought;
        let position = Position {
            object: facts.object,
            url: facts.url,
            missing: (facts.missing.start, facts.missing.end),
            source_count: self.source_count,
        };
        match decide::next(&mut order.history, ended, position, facts.now, &self.config, random) {
            decide::Next::Done => After::Done,
            decide::Next::Again(delay) => {
                self.queue.wait(facts.now + delay, order);
                After::Keep
            }
            decide::Next::Fail(error) => After::Fail(error),
        }
    }

    fn hedge(&self, order: &Order, _: u64, _: Instant) -> Option<usize> {
        Some((order.source() + 1) % self.source_count)
    }

    fn heard(&mut self, _: News<'_>, _: Instant) {}

    fn observe(&mut self, landed: &[u64], now: Instant) {
        let is_full = self.queue.has_fresh() && self.in_flight >= self.window.size();
        self.window.observe(now, landed.iter().sum(), is_full);
    }

    fn is_done(&self) -> bool {
        self.queue.is_empty()
    }

    fn concurrency(&self) -> usize {
        self.window.size()
    }
}

/// Tells a window how an attempt ended at the source that it is for.
pub(super) fn signal(window: &mut Window, ended: &Ended, facts: &Facts<'_>, landed: u64, config: &FetchConfig) {
    let (now, round_trip) = (facts.now, facts.round_trip);
    match ended {
        Ended::Complete => window.succeeded(),
        Ended::Failed(SourceError::Throttled { retry_after, .. }) => {
            let longest = Duration::from_secs(config.retry_after_max_seconds);
            let wait = retry_after.unwrap_or(round_trip).min(longest);
            window.throttled(now, round_trip, landed, wait);
        }
        // A body that stops is one connection's trouble; an answer that does not come may be
        // the store's.
        Ended::Stalled(Stall::FirstByte) => window.slow_down(now, round_trip, landed),
        Ended::Stalled(Stall::Body) | Ended::Overtaken | Ended::Recalled | Ended::Failed(_) => {}
    }
}
