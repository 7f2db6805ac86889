//! Owners of extents: of two neighbouring extents, the member that is to bring them into the swarm from outside, and its
//! heirs. Every load sorts the members it knows by the same hash (rendezvous), so that few want one extent at once; where
//! their views differ, claims decide, and an extent comes twice at worst.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::fetch::neighbours::MemberKey;

/// The extents of a stripe: one request to the origin.
const STRIPE: u32 = 2;

/// The owner and its heirs, as far as they are looked at.
pub(super) const RANKS: usize = 6;

/// The time after which a late owner is as good as the others again.
const LATE: Duration = Duration::from_secs(30);

/// The most late owners that are remembered. Beyond, the one that was late first is forgotten.
const LATE_MAX: usize = 256;

/// The most stripes whose order is kept: four windows.
const KEPT_MAX: usize = 512;

/// The place of this load among the owners of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Members before this one that are not late.
    pub(super) before: u32,
    /// True if all of them are neighbours, whose claims are heard.
    pub(super) are_heard: bool,
}

/// The members that load the same model, and the order in which they are to bring each extent.
pub(super) struct Owners {
    own: MemberKey,
    /// Members, this load's own among them; true for those whose claims are heard.
    members: BTreeMap<MemberKey, bool>,
    late: BTreeMap<MemberKey, Instant>,
    /// The first members of stripes, the best first.
    ranked: HashMap<u32, Vec<MemberKey>>,
}

impl Owners {
    pub(super) fn new(own: MemberKey) -> Self {
        let members = BTreeMap::from([(own, true)]);
        Self { own, members, late: BTreeMap::new(), ranked: HashMap::new() }
    }

    /// Replaces the members: neighbours that load, and others that are thought to.
    pub(super) fn replace(&mut self, neighbours: impl Iterator<Item = MemberKey>, strangers: &[MemberKey]) {
        let mut members: BTreeMap<MemberKey, bool> = strangers.iter().map(|member| (*member, false)).collect();
        members.extend(neighbours.map(|member| (member, true)));
        members.insert(self.own, true);
        if self.members != members {
            self.members = members;
            self.ranked.clear();
        }
    }

    /// Returns true if the claims of all members are heard.
    pub(super) fn are_heard(&self) -> bool {
        self.members.values().all(|is_heard| *is_heard)
    }

    /// The number of members, this load's own included.
    pub(super) fn count(&self) -> usize {
        self.members.len()
    }

    /// The place of this load for an extent; none if it is far behind.
    pub(super) fn turn(&mut self, number: u32, now: Instant) -> Option<Turn> {
        let stripe = number / STRIPE;
        if self.ranked.len() > KEPT_MAX {
            self.ranked.clear();
        }
        let (members, late) = (&self.members, &self.late);
        let ranked = self.ranked.entry(stripe).or_insert_with(|| ranked(stripe, members.keys().copied()));
        let mut turn = Turn { before: 0, are_heard: true };
        for member in ranked {
            if *member == self.own {
                return Some(turn);
            }
            if late.get(member).is_none_or(|until| *until <= now) {
                turn.before += 1;
                turn.are_heard &= members.get(member) == Some(&true);
            }
        }
        None
    }

    /// Notes that the members before this one have not brought an extent in time.
    pub(super) fn pass_over_before(&mut self, number: u32, now: Instant) {
        let before = self.ranked.get(&(number / STRIPE)).cloned().unwrap_or_default();
        let own = self.own;
        before.into_iter().take_while(|member| *member != own).for_each(|member| self.be_late(member, now));
    }

    /// Notes that the member whose turn it is has not brought an extent in time.
    pub(super) fn pass_over_first(&mut self, number: u32, now: Instant) {
        let _ = self.turn(number, now);
        let ranked = self.ranked.get(&(number / STRIPE));
        let first = ranked.and_then(|ranked| ranked.iter().find(|member| !self.is_late(**member, now))).copied();
        first.into_iter().for_each(|member| self.be_late(member, now));
    }

    /// A member has not brought what it was to bring.
    pub(super) fn be_late(&mut self, member: MemberKey, now: Instant) {
        if member == self.own || !self.members.contains_key(&member) {
            return;
        }
        self.late.insert(member, now + LATE);
        if self.late.len() > LATE_MAX
            && let Some(first) = self.late.iter().min_by_key(|(_, until)| **until).map(|(member, _)| *member)
        {
            self.late.remove(&first);
        }
    }

    /// Returns true if a member was late a short time ago.
    pub(super) fn is_late(&self, member: MemberKey, now: Instant) -> bool {
        self.late.get(&member).is_some_and(|until| *until > now)
    }

    /// The memory of it, in bytes.
    pub(super) fn state_bytes(&self) -> usize {
        let key = size_of::<MemberKey>();
        self.members.len() * 2 * key + self.late.len() * 3 * key + self.ranked.len() * (RANKS + 4) * key
    }
}

/// The first members of a stripe, the best first.
fn ranked(stripe: u32, members: impl Iterator<Item = MemberKey>) -> Vec<MemberKey> {
    let mut best: Vec<(u64, MemberKey)> = Vec::with_capacity(RANKS + 1);
    for member in members {
        let rank = mix(member.0 ^ mix(u64::from(stripe)));
        let at = best.partition_point(|(other, _)| *other < rank);
        if at < RANKS {
            best.insert(at, (rank, member));
            best.truncate(RANKS);
        }
    }
    best.into_iter().map(|(_, member)| member).collect()
}

/// Spreads bits (the finalizer of SplitMix64).
const fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts at some moment")]
mod tests {
    use super::*;

    fn member(at: u64) -> MemberKey {
        MemberKey(mix(at))
    }

    fn owners(own: u64, count: u64) -> Owners {
        let mut owners = Owners::new(member(own));
        owners.replace((0..count).map(member), &[]);
        owners
    }

    fn owned(owners: &mut Owners, now: Instant) -> Vec<u32> {
        let is_first = |owners: &mut Owners, number| owners.turn(number, now).is_some_and(|turn| turn.before == 0);
        (0..1_000).filter(|number| is_first(owners, *number)).collect()
    }

    #[test]
    fn every_extent_has_one_owner_and_all_agree() {
        let now = Instant::now();
        let mut all: Vec<u32> = (0..7).flat_map(|own| owned(&mut owners(own, 7), now)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..1_000).collect::<Vec<u32>>());
    }

    #[test]
    fn a_member_more_moves_only_what_it_owns() {
        let now = Instant::now();
        let (before, after) = (owned(&mut owners(0, 7), now), owned(&mut owners(0, 8), now));
        assert!(after.iter().all(|number| before.contains(number)));
        assert!(after.len() > before.len() * 3 / 4, "{} of {}", after.len(), before.len());
    }

    #[test]
    fn late_owners_are_passed_over_for_a_while() {
        let now = Instant::now();
        let mut owners = owners(0, 2);
        let number = (0..).find(|number| owners.turn(*number, now).is_some_and(|turn| turn.before == 1));
        let number = number.expect("the other one owns some");
        owners.pass_over_before(number, now);
        assert_eq!(owners.turn(number, now), Some(Turn { before: 0, are_heard: true }));
        assert_eq!(owners.turn(number, now + LATE).map(|turn| turn.before), Some(1));
    }

    #[test]
    fn those_that_are_late_are_bounded() {
        let now = Instant::now();
        let mut owners = owners(0, 2_000);
        (0..2_000).for_each(|at| owners.be_late(member(at), now + Duration::from_millis(at)));
        assert_eq!(owners.late.len(), LATE_MAX);
        let turns = (0..10_000).filter(|number| owners.turn(*number, now).is_some()).count();
        assert!(turns < 200 && owners.ranked.len() <= KEPT_MAX + 1, "{turns}");
    }
}
