//! The origin's part of a start beside peers: extents that no peer has, or none has time for.

use std::ops::Range;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use wire::extent::EXTENT_BYTES;

use super::owners::Turn;
use super::peer::Peer;
use super::work::State;
use super::{Swarm, is_ours, ours};
use crate::fetch::decide::{self, Ended, Position};
use crate::fetch::error::FetchError;
use crate::fetch::supply::origin::signal;
use crate::fetch::supply::{After, Facts, Order, Room};

/// The deadlines after which the origin brings an extent, whoever owns it or says that he has it.
const NOBODY: u32 = 3;

/// The deadlines after which an extent may be asked for outside, whatever else is under way there.
const OVERRIPE: u32 = 2;

/// The time of a request to the origin beyond which it is for one extent alone.
const SLOW: Duration = Duration::from_millis(500);

impl Swarm {
    /// An order of the origin: what failed there and is due, or the next gap.
    pub(super) fn ask_origin(&mut self, room: &Room<'_>, now: Instant) -> Option<Order> {
        let most = self.origin_max();
        let origin = &mut self.origin;
        if origin.count == 0 || origin.window.paused_until(now).is_some() || origin.in_flight >= most {
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

    /// The most requests in flight at the origin. All that load together fill it together: those that are not heard by a part
    /// of it each, the others by what `outside` leaves room for.
    pub(super) fn origin_max(&self) -> usize {
        match self.owners.are_heard() {
            true => self.origin.window.size(),
            false => self.origin.window.size().div_ceil(self.owners.count()),
        }
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
        let is_tail = self.work.missing_count() < self.origin.window.size() && self.owners.count() == 1;
        // Where requests take long, smaller ones bring something to swap sooner.
        let is_slow = self.owners.count() > 1 && self.patience.outside > SLOW || self.help.is_trying();
        let most = if is_tail || is_slow || self.outside_room(now) < 2 {
            1
        } else {
            usize::try_from(self.config.fetch_bytes / EXTENT_BYTES).unwrap_or(1).max(1)
        };
        let (file, index) = (self.work.get(first).file, self.work.get(first).index);
        let mut places = vec![first];
        for place in self.work.missing().skip_while(|place| *place <= first).take(most - 1).collect::<Vec<_>>() {
            let (extent, at) = (self.work.get(place), index + places.len() as u64);
            let is_next = (extent.file, extent.index) == (file, at) && !(room.is_there)(file, at);
            if !is_next || !self.is_gap(place, false, now) {
                break;
            }
            places.push(place);
        }
        Some(places)
    }

    /// The first gap that is this load's; else the last of those that it may inherit, as their owners take the first.
    fn first_gap(&mut self, now: Instant) -> Option<usize> {
        let (start, end) =
            (self.work.front().start, if self.has_peers() { self.work.front().end } else { self.work.end() });
        let open = self.open(start..end, now);
        let own = open.iter().copied().find(|&place| self.is_gap(place, false, now));
        own.or_else(|| open.into_iter().rev().find(|&place| self.is_gap(place, true, now)))
    }

    /// The missing extents that may be asked for outside now: the first of those that nobody brings, as far as all loads
    /// together have room for more; and those that have waited for long.
    fn open(&mut self, places: Range<usize>, now: Instant) -> Vec<usize> {
        let mut room = self.outside_room(now);
        let mut open = Vec::new();
        for place in places {
            if self.work.get(place).state != State::Missing {
                continue;
            }
            if self.is_overripe(place, now) {
                open.push(place);
            } else if room > 0 && !self.is_copied(place, now) {
                room -= 1;
                self.work.get_mut(place).open_since.get_or_insert(now);
                open.push(place);
            }
        }
        open
    }

    /// The extents that may be asked for outside, beside those that are under way. Where members are not heard, neither is
    /// what they have under way.
    fn outside_room(&self, now: Instant) -> usize {
        if !self.owners.are_heard() {
            return usize::MAX;
        }
        let counts = |peer: &&Peer| peer.swaps() && !peer.is_late(now) && !self.owners.is_late(peer.member, now);
        let most = self.outside.most();
        // Whoever claims everything leaves room for others.
        let claims = self.peers.iter().filter(counts).map(|peer| peer.claims().min(most.div_ceil(2)));
        most.saturating_sub(self.under_way_outside() + claims.sum::<usize>())
    }

    /// Returns true if the origin may bring an extent although peers have it. Beside others that load, it brings one at a
    /// time: it is theirs as well.
    fn helps(&self, place: usize, now: Instant) -> bool {
        let has_room = !self.swaps() || self.origin.in_flight == 0;
        has_room && self.help.allows(self.origin.in_flight) && self.has_waited(place, now)
    }

    /// Returns true if an extent has waited for so long that whoever brings it is welcome.
    fn is_overripe(&self, place: usize, now: Instant) -> bool {
        let extent = self.work.get(place);
        extent.is_kept_for(0, now) || self.helps(place, now) || extent.waited(now) >= self.patience.wanted * OVERRIPE
    }

    /// Returns true if no peer is going to bring an extent soon, and it is this load's turn to take it from the origin.
    fn is_gap(&mut self, place: usize, inherits: bool, now: Instant) -> bool {
        let extent = self.work.get(place);
        let (number, waited) = (extent.number, extent.waited(now));
        if extent.is_lost || !extent.is_free_for(0, now) || self.awaits_peers {
            return false;
        }
        if extent.is_kept_for(0, now) {
            return true;
        }
        let helps = self.helps(place, now);
        if helps && self.help.is_for_dry() {
            return true;
        }
        let patience = self.patience.wanted;
        if waited >= patience * NOBODY && self.work.distance(place) < self.work.window() / 4 {
            // Nobody brings it, whatever they say.
            return true;
        }
        let turn = self.owners.turn(number, now);
        let is_overdue = turn.is_some_and(|turn| turn.before > 0 && waited >= patience * turn.before * 2);
        let is_ours = turn.is_some_and(|turn| turn.before == 0 || (inherits && self.may_inherit(turn, place, now)));
        if !is_overdue && !is_ours {
            return false;
        }
        if self.peers.iter().any(|peer| peer.is_about_to_say(now)) {
            return false;
        }
        let is_held = |swaps: bool| {
            let mut peers = self.peers.iter().filter(|peer| peer.swaps() == swaps);
            peers.any(|peer| peer.holds(number) && !peer.is_late(now))
        };
        if is_held(true) || (is_held(false) && !helps) || (self.is_copied(place, now) && !is_overdue) {
            return false;
        }
        if is_overdue {
            self.owners.pass_over_before(number, now);
        }
        true
    }

    /// Returns true if an extent's owner has had the time to claim it and has not, although it becomes urgent.
    fn may_inherit(&self, turn: Turn, place: usize, now: Instant) -> bool {
        let waited = self.work.get(place).was_open(now);
        let is_near = self.work.distance(place) < self.work.window().checked_shr(turn.before).unwrap_or(0);
        turn.are_heard && is_near && waited >= self.patience.outside * turn.before
    }

    /// Owners that have not kept up are passed over: those whose claims are old, and that of the first gap if much of
    /// what is behind it has come.
    pub(super) fn pass_over(&mut self, now: Instant) {
        self.patience = self.pace.patience(self.oldest(now), self.owners.count());
        for peer in &mut self.peers {
            if peer.forget_old_claims(self.patience.claimed, now) {
                self.owners.be_late(peer.member, now);
            }
        }
        let Some((first, since)) = self.work.first_gap() else { return };
        let number = self.work.get(first).number;
        let is_overtaken = self.work.landed_ahead() >= (self.work.window() / 4).min(self.work.left() / 2).max(1)
            && now.saturating_duration_since(since) > self.patience.overtaken
            && self.work.get(first).state == State::Missing
            && !self.peers.iter().any(|peer| peer.holds(number));
        if is_overtaken {
            self.owners.pass_over_first(number, now);
            self.work.forgive_first_gap(now);
        }
    }

    /// The age of the oldest request outside.
    fn oldest(&self, now: Instant) -> Duration {
        let claimed = self.running.values().filter(|running| running.is_claimed && !running.waits);
        claimed.map(|running| now.saturating_duration_since(running.began)).max().unwrap_or_default()
    }

    /// Returns true if an extent has been at the front for longer than peers are given.
    pub(super) fn has_waited(&self, place: usize, now: Instant) -> bool {
        self.work.get(place).waited(now) >= self.bounds.patience
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
                let began = self.running.get(&order.id).map_or(facts.now, |running| running.began);
                let took = facts.now.saturating_duration_since(began);
                self.pace.outside_took(took);
                let count = u32::try_from(order.extents.end - order.extents.start).unwrap_or(1);
                (0..count).for_each(|_| self.outside.took(took / count, facts.now));
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
        self.has_lost |= is_lost;
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
        if can_bring && !self.has_lost {
            return None;
        }
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
