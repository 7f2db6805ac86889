//! A sender's end of a link: extents one after the other, or all at once.

use super::*;

/// Extents of one request, on their way.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) to: usize,
    pub(super) order: u64,
    pub(super) attempt: u64,
    /// Those that are left; the first one is being sent.
    pub(super) extents: Range<u64>,
    /// Bytes of the first one that are left.
    pub(super) left: f64,
}

impl Flow {
    pub(super) fn new(to: usize, order: u64, attempt: u64, extents: Range<u64>) -> Self {
        Self { to, order, attempt, extents, left: EXTENT_BYTES as f64 }
    }
}

/// A link, as its sender has it.
#[derive(Debug)]
pub(super) struct Link {
    /// Bytes a second.
    rate: f64,
    /// The most of one flow.
    stream: f64,
    /// True if all flows advance at once; otherwise the first one does.
    shares: bool,
    flows: Vec<Flow>,
    at: u64,
    /// Grows with every change: an event of an older version means nothing.
    pub(super) version: u64,
}

impl Link {
    pub(super) fn new(rate: f64, stream: f64, shares: bool) -> Self {
        Self { rate, stream, shares, flows: Vec::new(), at: 0, version: 0 }
    }

    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// Flows under way, of all and to one.
    pub(super) fn count(&self, to: usize) -> (usize, usize) {
        (self.flows.len(), self.flows.iter().filter(|flow| flow.to == to).count())
    }

    fn moving(&self) -> usize {
        if self.shares { self.flows.len() } else { self.flows.len().min(1) }
    }

    fn rate_each(&self) -> f64 {
        (self.rate / self.moving().max(1) as f64).min(self.stream)
    }

    fn advance(&mut self, now: u64) {
        let bytes = self.rate_each() * (now.saturating_sub(self.at)) as f64 / 1e9;
        let moving = self.moving();
        self.flows.iter_mut().take(moving).for_each(|flow| flow.left -= bytes);
        self.at = now;
    }

    pub(super) fn add(&mut self, flow: Flow, now: u64) {
        self.advance(now);
        self.flows.push(flow);
        self.version += 1;
    }

    /// Ends an attempt. Returns true if it was under way.
    pub(super) fn cancel(&mut self, attempt: u64, now: u64) -> bool {
        self.advance(now);
        let before = self.flows.len();
        self.flows.retain(|flow| flow.attempt != attempt);
        let was_under_way = self.flows.len() < before;
        self.version += u64::from(was_under_way);
        was_under_way
    }

    /// Ends everything.
    pub(super) fn cut(&mut self) {
        self.flows.clear();
        self.version += 1;
    }

    /// The time at which the next extent has been sent.
    #[expect(clippy::cast_sign_loss, reason = "at least 0")]
    pub(super) fn next(&self) -> Option<u64> {
        let least = self.flows.iter().take(self.moving()).map(|flow| flow.left).min_by(f64::total_cmp)?;
        Some(self.at + (least.max(0.0) / self.rate_each() * 1e9).ceil() as u64)
    }

    /// Extents that have been sent by now: to whom, of which order and attempt, and which.
    pub(super) fn sent(&mut self, now: u64) -> Vec<(usize, u64, u64, u64)> {
        self.advance(now);
        self.version += 1;
        let mut sent = Vec::new();
        for flow in &mut self.flows {
            if flow.left <= 1.0 {
                sent.push((flow.to, flow.order, flow.attempt, flow.extents.start));
                flow.extents.start += 1;
                flow.left = EXTENT_BYTES as f64;
            }
        }
        self.flows.retain(|flow| !flow.extents.is_empty());
        sent
    }
}
