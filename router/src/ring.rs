//! A ring of members by hashes of their names: routers that share nothing send equal prompts to the same worker, and a
//! worker that comes or goes moves only its own share of them (Karger et al., "Consistent hashing and random trees").

#![warn(clippy::disallowed_methods)]

use std::hash::{DefaultHasher, Hash, Hasher};

/// The points that all members have together, where that leaves each between the two bounds below. With more the shares
/// are more even; a bound on load evens out the rest.
const POINTS: usize = 16_384;
const POINTS_OF_ONE_MIN: usize = 2;
const POINTS_OF_ONE_MAX: usize = 128;

/// Points in order, each with its member.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// The members' names as hashes, in order of members: a ring of the same is the same.
    names: Box<[u64]>,
    points: Box<[(u64, u32)]>,
    /// For each of as many equal parts of the ring as there are points, the first point in it or behind it.
    starts: Box<[u32]>,
}

/// A name's hash, the same in all routers of a release.
pub(crate) fn hash_name(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Ring {
    /// The ring of members with these names' hashes.
    #[expect(clippy::cast_possible_truncation, reason = "at most 16,384 members, of a few points each")]
    pub(crate) fn of(names: Vec<u64>) -> Self {
        let each = (POINTS / names.len().max(1)).clamp(POINTS_OF_ONE_MIN, POINTS_OF_ONE_MAX) as u64;
        let points = names.iter().enumerate();
        let points = points
            .flat_map(|(member, name)| (0..each).map(move |point| (mix(name.wrapping_add(point)), member as u32)));
        let mut points: Vec<(u64, u32)> = points.collect();
        points.sort_unstable();
        let mut starts = Vec::with_capacity(points.len());
        let mut first = 0;
        for part in 0..points.len() {
            while first < points.len() && part_of(points[first].0, points.len()) < part {
                first += 1;
            }
            starts.push(first as u32);
        }
        Self { names: names.into(), points: points.into(), starts: starts.into() }
    }

    /// True if it is the ring of these.
    pub(crate) fn is_of(&self, names: &[u64]) -> bool {
        *self.names == *names
    }

    /// The members in order of their points from a hash on, some of them several times; once around.
    pub(crate) fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let count = self.points.len();
        let mut start = self.starts.get(part_of(hash, count)).map_or(0, |start| *start as usize);
        while start < count && self.points[start].0 < hash {
            start += 1;
        }
        (0..count).map(move |step| self.points[(start + step) % count].1 as usize)
    }
}

/// The part of the ring that a hash lies in.
fn part_of(hash: u64, parts: usize) -> usize {
    ((u128::from(hash) * parts as u128) >> 64) as usize
}

/// SplitMix64's finalizer (Steele, Lea, Flood 2014), of a step of its sequence.
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(count: usize) -> Vec<u64> {
        (0..count).map(|number| hash_name(&format!("worker-{number}:8000"))).collect()
    }

    #[test]
    fn members_have_about_equal_shares() {
        for (count, least) in [(2, 0.6), (10, 0.6), (100, 0.5)] {
            let ring = Ring::of(names(count));
            let mut shares = vec![0_u32; count];
            for key in 0..10_000 * count as u64 {
                shares[ring.from(mix(key)).next().expect("one")] += 1;
            }
            let fewest = shares.iter().min().expect("one");
            assert!(f64::from(*fewest) > least * 10_000.0, "{count}: {shares:?}");
        }
    }

    proptest! {
        #[test]
        fn the_first_member_is_that_of_the_next_point(count in 1_usize..40, hash: u64) {
            let ring = Ring::of(names(count));
            let next = ring.points.iter().find(|(point, _)| *point >= hash).or(ring.points.first()).expect("a point");
            let around: Vec<usize> = ring.from(hash).collect();
            prop_assert_eq!(around[0], next.1 as usize);
            prop_assert_eq!(around.len(), ring.points.len());
            let all: std::collections::BTreeSet<usize> = around.into_iter().collect();
            prop_assert_eq!(all.len(), count);
        }

        #[test]
        fn who_leaves_moves_its_own_keys_alone(count in 2_usize..40, gone: prop::sample::Index, hash: u64) {
            let gone = gone.index(count);
            let (before, mut left) = (names(count), names(count));
            left.remove(gone);
            let owner = |names: &[u64]| names[Ring::of(names.to_vec()).from(hash).next().expect("one")];
            if owner(&before) != before[gone] {
                prop_assert_eq!(owner(&before), owner(&left));
            }
        }
    }

    #[test]
    fn an_empty_ring_has_nobody() {
        assert_eq!(Ring::of(Vec::new()).from(7).next(), None);
        assert_eq!(Ring::default().from(7).next(), None);
    }
}
