//! Fleets of loads over the pure value, in simulated time: a supply for each worker, links that queue, an origin, news that
//! take a while, and everything that goes wrong in a fleet. No sockets: the bounds of the schedule.
//!
//! A link sends one extent after the other, or all at once, and receives them as they come (cut-through). A seed fixes a run: what fails
//! can be played again.

mod figures;
mod fluid;
mod link;
mod node;
mod properties;
mod world;

use std::ops::Range;
use std::time::Duration;

use wire::peers::{Bitmap, Role};

use super::*;
use crate::fetch::stall::Stall;

pub(super) use world::World;

/// A fleet to play.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// Cold workers.
    pub(super) workers: usize,
    pub(super) extents: u32,
    /// Bytes a second of every link, either way.
    pub(super) rate: f64,
    /// Bytes a second of the origin; none without one.
    pub(super) origin: Option<f64>,
    /// Warm peers, by the rates of their links.
    pub(super) warm: Vec<f64>,
    /// True if a sender's extents share its link, as connections do; otherwise they queue.
    pub(super) shares: bool,
    /// Extents that a sender queues.
    pub(super) queue: usize,
    pub(super) neighbours_max: usize,
    /// The starts are spread over so many seconds.
    pub(super) spread_s: f64,
    pub(super) zones: usize,
    pub(super) faults: Faults,
    pub(super) seed: u64,
}

/// The faults of one run.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    /// Workers with a link of a tenth.
    pub(super) slow: usize,
    /// Workers that send wrong bytes.
    pub(super) lying: usize,
    /// Workers that claim everything and have nothing.
    pub(super) claiming: usize,
    /// Workers that always refuse.
    pub(super) refusing: usize,
    /// Workers that die in the middle.
    pub(super) killed: usize,
    /// Workers that join in the middle.
    pub(super) joining: usize,
    /// The share of answers of the origin that are 503.
    pub(super) origin_refuses: f64,
    /// The share of members that a worker does not know of.
    pub(super) unknown: f64,
    /// Two halves do not reach each other from and to these seconds.
    pub(super) partition: Option<(f64, f64)>,
    /// The origin is gone after so many seconds.
    pub(super) origin_dies: Option<f64>,
}

/// The outcome of a run.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Seconds until the last good worker had everything, over the ideal.
    pub(super) last: f64,
    /// Seconds until the first quarter of the extents was there, over the ideal: the median.
    pub(super) quarter: f64,
    /// The used part of the links of good workers, from their start to their end: the median, and the worst of 99 in 100.
    pub(super) used: (f64, f64),
    /// Bytes that the origin sent, over the size.
    pub(super) origin: f64,
    /// Refusals an extent and worker.
    pub(super) refused: f64,
    /// Extents that came twice or in vain, an extent and worker.
    pub(super) wasted: f64,
    /// The most memory of one supply.
    pub(super) state_bytes: usize,
    /// Good workers whose load failed, and why.
    pub(super) failed: Vec<String>,
    /// Good workers whose load did not end.
    pub(super) hanging: Vec<usize>,
}

impl Setup {
    /// Cold workers beside an origin, all with links of one rate.
    pub(super) fn cold(workers: usize, extents: u32, rate: f64, seed: u64) -> Self {
        Self {
            workers,
            extents,
            rate,
            origin: Some(rate),
            warm: Vec::new(),
            shares: false,
            queue: 8,
            neighbours_max: 24,
            spread_s: 0.0,
            zones: 1,
            faults: Faults::default(),
            seed,
        }
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The least seconds in which all can have everything.
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    pub(super) fn ideal_s(&self) -> f64 {
        let size = f64::from(self.extents) * EXTENT_BYTES as f64;
        let sources =
            self.warm.iter().sum::<f64>() + if self.warm.is_empty() { self.origin.unwrap_or(0.0) } else { 0.0 };
        let workers = self.workers as f64;
        (size / sources).max(size / self.rate).max(workers * size / (sources + workers * self.rate))
    }
}
