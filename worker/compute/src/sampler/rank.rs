//! Walking a distribution in rank order, without putting it into that order: falling logits, then rising ids.
//!
//! Both the end of a nucleus and the token drawn from it are the first place at which the running sum is enough. A
//! histogram over the logits says in which bucket that is, and selection (Hoare 1961) where in the bucket; what is
//! found is what a sort of the whole vocabulary would find, since masses add up exactly, in any order. It knows no
//! parameters and no randomness.

use super::weigh::{CHUNK, Scale, smallest};
use std::cmp::Ordering;

/// A token and its logit.
pub(super) type Candidate = (f32, u32);

/// Buckets of the histogram: some hundred tokens of a large, flat vocabulary fall into one.
const BUCKETS: usize = 1024;
/// So few candidates are sorted rather than halved once more.
const SORTED: usize = 48;
/// Beyond so many temperatures below the largest logit a mass is 0: it would round below 2⁻³⁵.
const REACH: f32 = 24.5;

/// Falling logits, then rising ids.
pub(super) fn by_rank(left: &Candidate, right: &Candidate) -> Ordering {
    right.0.total_cmp(&left.0).then(left.1.cmp(&right.1))
}

/// Where a running sum was enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reached {
    /// The token there.
    pub(super) id: u32,
    /// The sum, with that token.
    pub(super) sum: f64,
}

/// The first of `candidates`, in rank order, at which the sum of `before` and of the masses so far is enough. Their
/// order changes.
pub(super) fn reach(
    mut candidates: &mut [Candidate],
    scale: Scale,
    before: f64,
    is_enough: &dyn Fn(f64) -> bool,
) -> Option<Reached> {
    let mut sum = before;
    while candidates.len() > SORTED {
        let middle = candidates.len() / 2;
        candidates.select_nth_unstable_by(middle, by_rank);
        let (front, back) = candidates.split_at_mut(middle);
        let with_front = sum + total(front, scale);
        if is_enough(with_front) {
            candidates = front;
        } else {
            (candidates, sum) = (back, with_front);
        }
    }
    candidates.sort_unstable_by(by_rank);
    walk(candidates, scale, sum, is_enough)
}

/// As [`reach`], of candidates that are in rank order.
fn walk(ranked: &[Candidate], scale: Scale, before: f64, is_enough: &dyn Fn(f64) -> bool) -> Option<Reached> {
    let mut sum = before;
    ranked.iter().find_map(|&(logit, id)| {
        sum += scale.mass(logit);
        is_enough(sum).then_some(Reached { id, sum })
    })
}

/// The masses of `candidates` together.
pub(super) fn total(candidates: &[Candidate], scale: Scale) -> f64 {
    candidates.iter().map(|&(logit, _)| scale.mass(logit)).sum()
}

/// The masses of a vocabulary by buckets of falling logits, and the members of one bucket at a time.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    sums: Vec<f64>,
    /// Buckets per unit of logit.
    pace: f32,
}

impl Histogram {
    /// Takes its memory beforehand.
    pub(super) fn make_room(&mut self) {
        self.sums.resize(BUCKETS, 0.0);
    }

    /// Adds up `logits`.
    pub(super) fn fill(&mut self, logits: &[f32], scale: Scale) {
        let span = (scale.largest - smallest(logits)).min(REACH * scale.temperature);
        // All alike: they are one bucket.
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let pace = if span > 0.0 { (BUCKETS as f32 / span).min(f32::MAX) } else { 0.0 };
        self.pace = pace;
        self.make_room();
        self.sums.fill(0.0);
        let (mut buckets, mut masses) = ([0_u32; CHUNK], [0.0_f64; CHUNK]);
        for chunk in logits.chunks(CHUNK) {
            for ((bucket, mass), &logit) in buckets.iter_mut().zip(&mut masses).zip(chunk) {
                (*bucket, *mass) = (self.bucket(scale, logit), scale.mass(logit));
            }
            for (&bucket, &mass) in buckets.iter().zip(&masses).take(chunk.len()) {
                self.sums[bucket as usize] += mass;
            }
        }
    }

    /// The masses of all.
    pub(super) fn total(&self) -> f64 {
        self.sums.iter().sum()
    }

    /// The first of the `logits` it was filled with, in rank order, at which the running sum of masses is enough.
    /// `members` is memory.
    pub(super) fn reach(
        &self,
        logits: &[f32],
        scale: Scale,
        is_enough: &dyn Fn(f64) -> bool,
        members: &mut Vec<Candidate>,
    ) -> Option<Reached> {
        let mut before = 0.0;
        let bucket = self.sums.iter().position(|sum| {
            let with = before + sum;
            // An empty bucket has nobody to end with.
            let is_here = *sum > 0.0 && is_enough(with);
            before = if is_here { before } else { with };
            is_here
        })?;
        self.gather(logits, scale, u32::try_from(bucket).ok()?, members);
        // They were found by rising ids.
        if members.iter().all(|member| member.0.to_bits() == members[0].0.to_bits()) {
            return walk(members, scale, before, is_enough);
        }
        reach(members, scale, before, is_enough)
    }

    /// Those of a bucket that weigh anything.
    fn gather(&self, logits: &[f32], scale: Scale, bucket: u32, members: &mut Vec<Candidate>) {
        members.clear();
        for (at, chunk) in (0..).step_by(CHUNK).zip(logits.chunks(CHUNK)) {
            if chunk.iter().fold(false, |found, &logit| found | (self.bucket(scale, logit) == bucket)) {
                let is_member = |logit: f32| self.bucket(scale, logit) == bucket && scale.mass(logit) > 0.0;
                members.extend(chunk.iter().copied().zip(at..).filter(|&(logit, _)| is_member(logit)));
            }
        }
    }

    /// The bucket of a logit: it never falls as logits fall, and equal ones share it. What weighs nothing, −∞ and NaN
    /// among it, may be in any.
    #[inline]
    fn bucket(&self, scale: Scale, logit: f32) -> u32 {
        #[expect(clippy::cast_precision_loss, reason = "small")]
        const LAST: f32 = (BUCKETS - 1) as f32;
        /// Adding it leaves a whole number in the low bits.
        const ROUND: f32 = 8_388_608.0;
        let place = (scale.largest - logit) * self.pace;
        let within = if place < LAST { place } else { LAST };
        (within + ROUND).to_bits() - ROUND.to_bits()
    }
}
