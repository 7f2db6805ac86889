//! Links whose flows advance at once, as connections do: every flow has its fair share of its sender's link and of its
//! receiver's (max-min), and none is faster than a stream of the origin.

use super::link::Flow;
use super::*;

/// All flows of a fleet.
#[derive(Debug)]
pub(super) struct Fluid {
    /// Bytes a second of each process's link, and of the origin's, which is the last one.
    rates: Vec<f64>,
    stream: f64,
    flows: Vec<Flowing>,
    at: u64,
    /// Grows with every change: an event of an older version means nothing.
    pub(super) version: u64,
}

#[derive(Debug)]
struct Flowing {
    from: usize,
    flow: Flow,
    rate: f64,
}

/// An extent that has come: from whom, to whom, of which order and attempt.
pub(super) type Came = (Option<usize>, usize, u64, u64, u64);

impl Fluid {
    pub(super) fn new(mut rates: Vec<f64>, origin: f64, stream: f64) -> Self {
        rates.push(origin);
        Self { rates, stream, flows: Vec::new(), at: 0, version: 0 }
    }

    fn origin(&self) -> usize {
        self.rates.len() - 1
    }

    /// Flows from one process, to all and to one.
    pub(super) fn count(&self, from: usize, to: usize) -> (usize, usize) {
        let all = self.flows.iter().filter(|flowing| flowing.from == from);
        (all.clone().count(), all.filter(|flowing| flowing.flow.to == to).count())
    }

    pub(super) fn add(&mut self, from: Option<usize>, flow: Flow, now: u64) {
        self.advance(now);
        let from = from.unwrap_or(self.origin());
        self.flows.push(Flowing { from, flow, rate: 0.0 });
        self.share();
    }

    /// Ends an attempt.
    pub(super) fn cancel(&mut self, attempt: u64, now: u64) {
        self.advance(now);
        self.flows.retain(|flowing| flowing.flow.attempt != attempt);
        self.share();
    }

    /// Ends everything of a process.
    pub(super) fn cut(&mut self, at: usize, now: u64) {
        self.advance(now);
        self.flows.retain(|flowing| flowing.from != at && flowing.flow.to != at);
        self.share();
    }

    fn advance(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.at) as f64 / 1e9;
        self.flows.iter_mut().for_each(|flowing| flowing.flow.left -= flowing.rate * elapsed);
        self.at = now;
    }

    /// The time at which the next extent will have come.
    #[expect(clippy::cast_sign_loss, reason = "at least 0")]
    pub(super) fn next(&self) -> Option<u64> {
        let seconds = self.flows.iter().map(|flowing| flowing.flow.left.max(0.0) / flowing.rate);
        Some(self.at + (seconds.min_by(f64::total_cmp)? * 1e9).ceil() as u64)
    }

    /// The extents that have come by now.
    pub(super) fn came(&mut self, now: u64) -> Vec<Came> {
        self.advance(now);
        let origin = self.origin();
        let mut came = Vec::new();
        for Flowing { from, flow, .. } in &mut self.flows {
            if flow.left <= 1.0 {
                came.push(((*from != origin).then_some(*from), flow.to, flow.order, flow.attempt, flow.extents.start));
                flow.extents.start += 1;
                flow.left = EXTENT_BYTES as f64;
            }
        }
        self.flows.retain(|flowing| !flowing.flow.extents.is_empty());
        self.share();
        came
    }

    /// Gives every flow its rate: the link with the least for each of its flows is shared out first.
    fn share(&mut self) {
        self.version += 1;
        let count = self.rates.len();
        // The senders' ends, then the receivers'.
        let mut left: Vec<f64> = self.rates.iter().chain(&self.rates).copied().collect();
        let mut open = vec![0_usize; 2 * count];
        let ends = |flowing: &Flowing| [flowing.from, count + flowing.flow.to];
        self.flows.iter().flat_map(ends).for_each(|end| open[end] += 1);
        let origin = self.origin();
        let mut waiting = self.flows.len();
        self.flows.iter_mut().for_each(|flowing| flowing.rate = 0.0);
        while waiting > 0 {
            let each = |end: usize| left[end] / open[end] as f64;
            let narrow = (0..2 * count).filter(|end| open[*end] > 0).min_by(|a, b| each(*a).total_cmp(&each(*b)));
            let Some(narrow) = narrow else { break };
            let rate = each(narrow);
            // Streams that are slower than that are as fast as they can be.
            let are_slower = self.stream <= rate && open[origin] > 0;
            let (end, rate) = if are_slower { (origin, self.stream) } else { (narrow, rate) };
            for flowing in self.flows.iter_mut().filter(|flowing| flowing.rate == 0.0) {
                if !ends(flowing).contains(&end) {
                    continue;
                }
                flowing.rate = rate.max(1.0);
                waiting -= 1;
                for end in ends(flowing) {
                    left[end] = (left[end] - rate).max(1.0);
                    open[end] -= 1;
                }
            }
        }
    }
}
