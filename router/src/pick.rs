//! Picks a member of a pool: a pure function of a look at each considered member and a random number.
//!
//! Small pools are looked at whole. In large ones the less loaded of two random members is taken
//! (Mitzenmacher, "The power of two choices in randomized load balancing"), so that the cost of a
//! pick does not grow with the fleet.

#![warn(clippy::disallowed_methods)]

use crate::load::LOAD_OF_ONE;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Pools up to this size are looked at whole.
const WHOLE_MAX: usize = 16;
/// How often two random members are drawn before the usable ones are searched for.
const DRAWS: u32 = 8;

/// One member, as far as one request is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It takes requests.
    Usable { load: u32 },
    /// It is ejected on a suspicion, and used where too many are.
    Suspect { load: u32 },
    /// It refuses this kind of request or our key; used only where nobody else is left.
    Refusing { load: u32 },
    /// It rests for so long.
    Resting { wait: Duration },
    /// It takes nothing, or was tried already.
    Out,
}

impl Look {
    /// A word for it, its load, and how long it rests in milliseconds.
    pub(crate) fn told(self) -> (&'static str, Option<u32>, Option<u64>) {
        match self {
            Self::Usable { load } => ("usable", Some(load), None),
            Self::Suspect { load } => ("suspect", Some(load), None),
            Self::Refusing { load } => ("refusing", Some(load), None),
            Self::Resting { wait } => ("resting", None, u64::try_from(wait.as_millis()).ok()),
            Self::Out => ("out", None, None),
        }
    }
}

/// The destination of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    /// To this member.
    Member(usize),
    /// To nobody now; the least known time until somebody has rested.
    Nobody { wait: Option<Duration> },
}

/// Members that may be usable, one bit each: a search passes over those that were found unusable.
#[derive(Debug)]
pub(crate) struct Bits {
    words: Box<[AtomicU64]>,
    size: usize,
}

impl Bits {
    /// All of `size` members may be usable.
    pub(crate) fn new(size: usize) -> Self {
        let bits = Self { words: (0..size.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), size };
        bits.reset();
        bits
    }

    /// Every member may be usable again: rests end with time.
    pub(crate) fn reset(&self) {
        for (at, word) in self.words.iter().enumerate() {
            let used = (self.size - at * 64).min(64);
            word.store(u64::MAX >> (64 - used), Ordering::Relaxed);
        }
    }

    fn clear(&self, at: usize) {
        self.words[at / 64].fetch_and(!(1 << (at % 64)), Ordering::Relaxed);
    }

    /// The set bits, once around from `start`.
    fn from(&self, start: usize) -> impl Iterator<Item = usize> {
        let count = self.words.len();
        (0..count).flat_map(move |step| {
            let at = (start / 64 + step) % count;
            let mut word = self.words[at].load(Ordering::Relaxed);
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros() as usize;
                word &= word.wrapping_sub(1);
                (bit < 64).then_some(at * 64 + bit)
            })
        })
    }
}

/// The load that a member may have whatever the others have: a batch of so few slows nobody.
const FULL_MIN: u64 = 8 * LOAD_OF_ONE as u64;
/// How many members are asked for room, the home of a prefix first. Further ones have not computed it either.
const HOMES_MAX: usize = 8;
/// How many points of a ring are passed for them: members have several.
const POINTS_MAX: usize = 64;

/// The place of a request near the home of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) at: usize,
    /// How many members before it had no room, or took nothing.
    pub(crate) passed: usize,
}

/// The load from which a member is full: `over_mean` times the mean of all, this request counted (Mirrokni, Thorup,
/// Zadimoghaddam, "Consistent hashing with bounded loads").
pub(crate) fn full_load(total: u64, load: u32, members: usize, over_mean: f64) -> u64 {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "loads")]
    let bound = (over_mean * (total + u64::from(load)) as f64 / members.max(1) as f64) as u64;
    bound.max(FULL_MIN)
}

/// Picks the first member `around` a ring that is usable and has room.
pub(crate) fn pick_home(
    around: impl Iterator<Item = usize>,
    look: impl Fn(usize) -> Look,
    has_room: impl Fn(usize) -> bool,
    ignores_suspicion: bool,
) -> Option<Home> {
    let mut passed = [usize::MAX; HOMES_MAX];
    let mut count = 0;
    for at in around.take(POINTS_MAX) {
        if passed[..count].contains(&at) {
            continue;
        }
        let is_usable = match look(at) {
            Look::Usable { .. } => true,
            Look::Suspect { .. } => ignores_suspicion,
            Look::Refusing { .. } | Look::Resting { .. } | Look::Out => false,
        };
        if is_usable && has_room(at) {
            return Some(Home { at, passed: count });
        }
        passed[count] = at;
        count += 1;
        if count == HOMES_MAX {
            break;
        }
    }
    None
}

/// Picks a member. `ignores_suspicion` holds where under half of the members would remain.
pub(crate) fn pick(bits: &Bits, look: impl Fn(usize) -> Look, ignores_suspicion: bool, random: u64) -> Pick {
    let mut draw = Draw { random, ignores_suspicion, usable: None, last_resort: None, wait: None };
    if bits.size <= WHOLE_MAX {
        for at in 0..bits.size {
            draw.consider(at, look(at));
        }
        return draw.end();
    }
    for _ in 0..DRAWS {
        let (one, two) = draw.two_of(bits.size);
        draw.consider(one, look(one));
        draw.consider(two, look(two));
        if draw.usable.is_some() {
            return draw.end();
        }
    }
    let start = draw.next() as usize % bits.size;
    for at in bits.from(start) {
        draw.consider(at, look(at));
        if draw.usable.is_some() {
            return draw.end();
        }
        bits.clear(at);
    }
    draw.end()
}

/// A pick under way.
struct Draw {
    random: u64,
    ignores_suspicion: bool,
    usable: Option<Best>,
    last_resort: Option<Best>,
    wait: Option<Duration>,
}

/// The least loaded so far.
#[derive(Clone, Copy)]
struct Best {
    at: usize,
    load: u32,
    /// How many share this load.
    equals: u64,
}

impl Draw {
    fn consider(&mut self, at: usize, look: Look) {
        match look {
            Look::Usable { load } => self.usable = Some(self.better(self.usable, at, load)),
            Look::Suspect { load } if self.ignores_suspicion => self.usable = Some(self.better(self.usable, at, load)),
            Look::Suspect { load } | Look::Refusing { load } => {
                self.last_resort = Some(self.better(self.last_resort, at, load));
            }
            Look::Resting { wait } => self.wait = Some(self.wait.map_or(wait, |least| least.min(wait))),
            Look::Out => {}
        }
    }

    /// Takes the less loaded; among equals each with the same chance, so that routers that see the
    /// same loads do not all choose the same one.
    fn better(&mut self, best: Option<Best>, at: usize, load: u32) -> Best {
        match best {
            Some(best) if best.load < load || best.at == at => best,
            Some(best) if best.load == load => {
                let equals = best.equals + 1;
                let chosen = if self.next().is_multiple_of(equals) { at } else { best.at };
                Best { at: chosen, load, equals }
            }
            _ => Best { at, load, equals: 1 },
        }
    }

    /// A resting member returns soon, so refusing members are a last resort only without one.
    fn end(self) -> Pick {
        let last_resort = self.last_resort.filter(|_| self.wait.is_none());
        match self.usable.or(last_resort) {
            Some(best) => Pick::Member(best.at),
            None => Pick::Nobody { wait: self.wait },
        }
    }

    fn two_of(&mut self, size: usize) -> (usize, usize) {
        let one = self.next() as usize % size;
        let step = 1 + self.next() as usize % (size - 1);
        (one, (one + step) % size)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    const IDLE: Look = Look::Usable { load: 0 };

    fn pick_of(looks: &[Look], ignores_suspicion: bool, random: u64) -> Pick {
        pick(&Bits::new(looks.len()), |at| looks[at], ignores_suspicion, random)
    }

    #[test]
    fn equals_share() {
        let looks = [Look::Usable { load: 1 }, IDLE, IDLE, IDLE];
        let mut counts = [0; 4];
        for random in 0..3_000 {
            match pick_of(&looks, false, random) {
                Pick::Member(at) => counts[at] += 1,
                nobody => panic!("{nobody:?}"),
            }
        }
        assert_eq!(counts[0], 0);
        assert!(counts[1..].iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }

    #[test]
    fn suspects_are_used_where_too_many_are_and_refusing_members_last() {
        let (suspect, refusing) = (Look::Suspect { load: 0 }, Look::Refusing { load: 0 });
        let busy = Look::Usable { load: 9 };
        assert_eq!(pick_of(&[suspect, busy], false, 1), Pick::Member(1));
        assert_eq!(pick_of(&[suspect, busy], true, 1), Pick::Member(0));
        assert_eq!(pick_of(&[refusing, busy], true, 1), Pick::Member(1));
        assert_eq!(pick_of(&[refusing, Look::Out], false, 1), Pick::Member(0));
        let resting = Look::Resting { wait: Duration::from_secs(2) };
        assert_eq!(pick_of(&[refusing, resting], false, 1), Pick::Nobody { wait: Some(Duration::from_secs(2)) });
        assert_eq!(pick_of(&[], false, 1), Pick::Nobody { wait: None });
    }

    #[test]
    fn a_pick_in_a_large_pool_looks_at_two_members() {
        let looked = Cell::new(0);
        let look = |at: usize| {
            looked.set(looked.get() + 1);
            Look::Usable { load: at as u32 % 7 }
        };
        let bits = Bits::new(10_000);
        assert!((0..1_000).all(|random| matches!(pick(&bits, look, false, random), Pick::Member(_))));
        assert_eq!(looked.get(), 2_000);
    }

    #[test]
    fn the_only_usable_member_of_a_large_pool_is_found_and_the_others_are_looked_at_once() {
        let looked = Cell::new(0);
        let look = |at: usize| {
            looked.set(looked.get() + 1);
            if at == 7_777 { IDLE } else { Look::Out }
        };
        let bits = Bits::new(10_000);
        for random in 0..1_000 {
            assert_eq!(pick(&bits, look, false, random), Pick::Member(7_777));
        }
        assert!(looked.get() < 10_000 + 1_000 * 17, "{} looks", looked.get());
        bits.reset();
        assert_eq!(bits.from(0).count(), 10_000);
    }

    #[test]
    fn the_first_with_room_is_taken_and_nobody_far_from_home() {
        let looks = [Look::Out, IDLE, Look::Suspect { load: 0 }, IDLE];
        let home = |full: &[usize], ignores_suspicion| {
            let around = [0, 1, 0, 1, 2, 3].into_iter();
            pick_home(around, |at| looks[at], |at| !full.contains(&at), ignores_suspicion)
        };
        assert_eq!(home(&[], false), Some(Home { at: 1, passed: 1 }));
        assert_eq!(home(&[1], false), Some(Home { at: 3, passed: 3 }));
        assert_eq!(home(&[1], true), Some(Home { at: 2, passed: 2 }));
        assert_eq!(home(&[1, 3], false), None);
        assert_eq!(pick_home(0..100, |_| IDLE, |at| at >= HOMES_MAX, false), None);
        assert_eq!(pick_home(std::iter::repeat_n(0, 1_000_000), |_| Look::Out, |_| true, false), None);
    }

    #[test]
    fn nobody_is_full_with_little_and_nobody_has_much_more_than_the_others() {
        assert_eq!(full_load(0, 64, 8, 1.25), FULL_MIN);
        assert_eq!(full_load(1_000_000, 0, 10, 1.25), 125_000);
        assert_eq!(full_load(u64::from(u32::MAX), u32::MAX, 0, f64::MAX), u64::MAX);
    }

    fn any_look() -> impl Strategy<Value = Look> {
        (0_u32..3, 0_u64..9, 0_u8..5).prop_map(|(load, wait, kind)| match kind {
            0 => Look::Usable { load },
            1 => Look::Suspect { load },
            2 => Look::Refusing { load },
            3 => Look::Resting { wait: Duration::from_secs(wait) },
            _ => Look::Out,
        })
    }

    proptest! {
        #[test]
        fn who_is_picked_may_be_picked_and_nobody_only_where_nobody_may(
            looks in prop::collection::vec(any_look(), 0..80),
            ignores_suspicion: bool,
            random: u64,
        ) {
            let is_usable = |look: &Look| {
                matches!(look, Look::Usable { .. }) || (ignores_suspicion && matches!(look, Look::Suspect { .. }))
            };
            let any_usable = looks.iter().any(is_usable);
            match pick_of(&looks, ignores_suspicion, random) {
                Pick::Member(at) if any_usable => prop_assert!(is_usable(&looks[at])),
                Pick::Member(at) => {
                    let is_last_resort = matches!(looks[at], Look::Suspect { .. } | Look::Refusing { .. });
                    prop_assert!(is_last_resort);
                }
                Pick::Nobody { .. } => prop_assert!(!any_usable),
            }
        }

        #[test]
        fn none_in_a_small_pool_is_less_loaded(loads in prop::collection::vec(0_u32..5, 1..17), random: u64) {
            let looks: Vec<Look> = loads.iter().map(|&load| Look::Usable { load }).collect();
            let Pick::Member(at) = pick_of(&looks, false, random) else { panic!("all are usable") };
            prop_assert_eq!(loads[at], *loads.iter().min().expect("one"));
        }
    }
}
