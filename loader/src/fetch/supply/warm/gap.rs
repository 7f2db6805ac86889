//! The origin's part of a start beside peers: extents that no peer has, or none has time for.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use wire::extent::EXTENT_BYTES;

use super::work::State;
use super::{Warm, is_ours, ours};
use crate::fetch::decide::{self, Ended, Position};
use crate::fetch::error::FetchError;
use crate::fetch::supply::origin::signal;
use crate::fetch::supply::{After, Facts, Order, Room};

impl Warm {
    /// An order of the origin: what failed there and is due, or the next gap.
    pub(super) fn ask_origin(&mut self, room: &Room<'_>, now: Instant) -> Option<Order> {
        let origin = &mut self.origin;
        if origin.count == 0 || origin.window.paused_until(now).is_some() || origin.in_flight >= origin.window.size() {
            return None;
        }
        let order = match origin.again.due(now) {
            Some(order) => order,
            None => {
                let places = self.gap(room, now)?;
                self.order(0, places, true, now)
            }
        };
        // A load that was moved on to a replica goes on there.
        if let Some(running) = self.running.get_mut(&order.id) {
            (running.source, running.began, running.waits) = (order.source(), now, false);
        }
        self.origin.in_flight += 1;
        Some(order)
    }

    /// The next extents that the origin is to bring, neighbours in one file.
    fn gap(&mut self, room: &Room<'_>, now: Instant) -> Option<Vec<usize>> {
        let first = loop {
            let first = self.first_gap(now)?;
            let extent = self.work.get(first);
            if !(room.is_there)(extent.file, extent.index) {
                break first;
            }
            self.work.set(first, State::Landed, now);
        };
        // Towards the end the rest is spread over all connections.
        let is_tail = self.work.missing_count() < self.origin.window.size();
        let most =
            if is_tail { 1 } else { usize::try_from(self.config.fetch_bytes / EXTENT_BYTES).unwrap_or(1).max(1) };
        let (file, index) = (self.work.get(first).file, self.work.get(first).index);
        let is_next = |(count, place): &(usize, usize)| {
            let (extent, at) = (self.work.get(*place), index + *count as u64);
            (extent.file, extent.index) == (file, at) && self.is_gap(*place, now) && !(room.is_there)(file, at)
        };
        let from_there = self.work.missing().skip_while(|place| *place < first).take(most);
        Some(from_there.enumerate().take_while(is_next).map(|(_, place)| place).collect())
    }

    fn first_gap(&self, now: Instant) -> Option<usize> {
        if self.has_peers() {
            self.work.missing_at_front().find(|&place| self.is_gap(place, now))
        } else {
            self.work.missing().find(|&place| self.is_gap(place, now))
        }
    }

    /// Returns true if no peer is going to bring an extent soon.
    fn is_gap(&self, place: usize, now: Instant) -> bool {
        let extent = self.work.get(place);
        if extent.is_lost || !extent.is_free_for(0, now) {
            return false;
        }
        if extent.is_kept_for(0, now) {
            return true;
        }
        let may_come = self.awaits_peers || self.peers.iter().any(|peer| peer.may_bring(extent.number, now));
        !may_come || (self.has_waited(place, now) && self.help.allows(self.origin.in_flight))
    }

    /// Returns true if an extent has been at the front for longer than peers are given.
    pub(super) fn has_waited(&self, place: usize, now: Instant) -> bool {
        let since = self.work.get(place).wanted_since;
        since.is_some_and(|since| now.saturating_duration_since(since) >= self.bounds.patience)
    }

    pub(super) fn ended_at_origin(
        &mut self,
        mut order: Order,
        ended: Ended,
        facts: &Facts<'_>,
        random: &mut StdRng,
    ) -> After {
        self.origin.in_flight -= 1;
        let landed = facts.landed.iter().take(self.origin.count).sum();
        signal(&mut self.origin.window, &ended, facts, landed, &self.config);
        let ended = match ended {
            Ended::Failed(problem) if is_ours(&problem) => return ours(problem, facts),
            ended => ended,
        };
        let is_recalled = matches!(ended, Ended::Recalled);
        order.history.brought = facts.brought;
        let position = Position {
            object: facts.object,
            url: facts.url,
            missing: (facts.missing.start, facts.missing.end),
            source_count: self.origin.count,
        };
        let next = decide::next(&mut order.history, ended, position, facts.now, &self.config, random);
        match next {
            decide::Next::Done => {
                self.release(&order, facts);
                After::Done
            }
            decide::Next::Again(delay) if !is_recalled && !self.is_held(&order, facts) => {
                if let Some(running) = self.running.get_mut(&order.id) {
                    running.waits = true;
                }
                self.origin.again.wait(facts.now + delay, order);
                After::Keep
            }
            // A peer has it: the origin's trouble need not be waited for.
            decide::Next::Again(_) => {
                self.give_up(&order, facts, false);
                After::Release
            }
            decide::Next::Fail(error) => {
                self.give_up(&order, facts, true);
                let is_final = !self.has_peers();
                if is_final {
                    return After::Fail(error);
                }
                self.refusal = Some(error);
                After::Release
            }
        }
    }

    /// Returns true if a peer has the first extent that an order lacks.
    fn is_held(&self, order: &Order, facts: &Facts<'_>) -> bool {
        let index = facts.missing.start / EXTENT_BYTES;
        let places = self.work.places(order.file, &(index..index + 1));
        let number = places.first().map(|&place| self.work.get(place).number);
        number.is_some_and(|number| self.peers.iter().any(|peer| peer.may_give(number, facts.now)))
    }

    /// Gives an order's extents out anew. The first one's failures go with it, so that they add up.
    fn give_up(&mut self, order: &Order, facts: &Facts<'_>, is_lost: bool) {
        for (count, place) in self.release(order, facts).into_iter().enumerate() {
            let extent = self.work.get_mut(place);
            extent.is_lost |= is_lost;
            if count == 0 {
                extent.history = order.history.clone();
            }
        }
    }

    /// The end of hope: an extent that the origin does not bring, and that no peer brings for long.
    pub(super) fn hopeless(&mut self, now: Instant) -> Option<FetchError> {
        let can_bring = self.origin.count > 0;
        let quiet_for = now.saturating_duration_since(self.landed.1);
        let is_over = quiet_for >= Duration::from_secs(self.config.retry_seconds_max);
        let only_peers = |place: &usize| self.work.get(*place).is_lost || !can_bring;
        // After so long without a byte, what a peer is at is no better than what nobody is at.
        let place = if is_over { self.work.awaited().find(only_peers) } else { self.work.missing().find(only_peers) }?;
        if !is_over && (!can_bring || self.has_peers()) {
            return None;
        }
        let extent = self.work.get(place);
        let range = extent.index * EXTENT_BYTES..(extent.index + 1) * EXTENT_BYTES;
        let (file, seconds) = (extent.file, quiet_for.as_secs_f64());
        Some(self.refusal.take().unwrap_or(FetchError::NoPeer { file, range, seconds }))
    }
}
