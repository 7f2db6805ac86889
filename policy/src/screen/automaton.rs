//! An Aho-Corasick automaton in six bytes a state: long lists of long phrases are mostly chains.
//!
//! States are the beginnings of phrases, numbered in the phrases' sorted order, so that a state's first child is the
//! next number; only further children are looked up in a table. Where the next byte leads nowhere, a state's link leads
//! to its longest end that is a state (A. V. Aho, M. J. Corasick, *Efficient String Matching*, 1975). It knows bytes
//! and patterns, and nothing of what they stand for.

use std::fmt;

/// A state: how much of some pattern the last bytes are. The default is the start, none of any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State(u32);

/// In a link: the state has a child of the next number.
const HAS_NEXT: u32 = 1 << 31;
/// In a link: the state has further children.
const HAS_MORE: u32 = 1 << 30;
/// In a link: a pattern ends here, or at an end of this state that is one itself.
const IS_MATCH: u32 = 1 << 29;
/// The most states.
const STATES_MAX: usize = IS_MATCH as usize;
/// The longest pattern, in bytes: a depth is kept in one byte.
pub(super) const PATTERN_BYTES_MAX: usize = 256;

/// The automaton of a set of patterns.
pub(super) struct Automaton {
    /// By state: the byte that leads to it.
    labels: Vec<u8>,
    /// By state: its depth less one; the start's is not used.
    depths: Vec<u8>,
    /// By state: flags, and the state that stands for it where the next byte leads nowhere.
    links: Vec<u32>,
    /// By byte: where it leads from the start.
    first: [u32; 256],
    more: Children,
    /// The patterns by the state that they end in, sorted.
    ends: Vec<(u32, u32)>,
}

impl Automaton {
    /// Builds the automaton of non-empty patterns of at most `PATTERN_BYTES_MAX` bytes; `None` if they are too many
    /// together.
    pub(super) fn new<P: AsRef<[u8]>>(patterns: &[P]) -> Option<Self> {
        let tree = Tree::new(patterns)?;
        let mut automaton = Self {
            first: [0; 256],
            more: Children::new(&tree.more, &tree.labels),
            labels: tree.labels,
            depths: tree.depths,
            links: tree.links,
            ends: tree.ends,
        };
        for state in 1..automaton.labels.len() {
            if tree.parents[state] == 0 {
                automaton.first[usize::from(automaton.labels[state])] = as_id(state);
            }
        }
        for state in by_depth(&automaton.depths) {
            automaton.link(state, tree.parents[state as usize]);
        }
        Some(automaton)
    }

    /// Sets a state's link; those of all shallower states are set.
    fn link(&mut self, state: u32, parent: u32) {
        let place = state as usize;
        let link = if parent == 0 { State(0) } else { self.next(self.linked(parent), self.labels[place]) };
        self.links[place] |= link.0 | (self.links[link.0 as usize] & IS_MATCH);
    }

    fn linked(&self, state: u32) -> State {
        State(self.links[state as usize] & !(HAS_NEXT | HAS_MORE | IS_MATCH))
    }

    /// The state after one more byte.
    #[inline]
    pub(super) fn next(&self, mut state: State, byte: u8) -> State {
        while state.0 != 0 {
            if let Some(child) = self.child(state.0, byte) {
                return State(child);
            }
            state = self.linked(state.0);
        }
        State(self.first[usize::from(byte)])
    }

    #[inline]
    fn child(&self, state: u32, byte: u8) -> Option<u32> {
        let link = self.links[state as usize];
        if link & HAS_NEXT != 0 && self.labels[state as usize + 1] == byte {
            return Some(state + 1);
        }
        if link & HAS_MORE == 0 { None } else { self.more.get(&self.labels, state, byte) }
    }

    /// The length of what the state stands for, in bytes.
    #[inline]
    pub(super) fn depth(&self, state: State) -> usize {
        if state.0 == 0 { 0 } else { usize::from(self.depths[state.0 as usize]) + 1 }
    }

    /// True if some pattern ends in the state.
    #[inline]
    pub(super) fn is_match(&self, state: State) -> bool {
        self.links[state.0 as usize] & IS_MATCH != 0
    }

    /// The patterns that end in the state, as their numbers and lengths, longest first.
    pub(super) fn ending(&self, state: State) -> impl Iterator<Item = (usize, usize)> {
        let matching = move |state: State| self.is_match(state).then_some(state);
        std::iter::successors(matching(state), move |state| matching(self.linked(state.0))).flat_map(move |state| {
            let from = self.ends.partition_point(|(end, _)| *end < state.0);
            let own = self.ends[from..].iter().take_while(move |(end, _)| *end == state.0);
            own.map(move |(_, pattern)| (*pattern as usize, self.depth(state)))
        })
    }
}

/// Shows sizes alone: patterns are secrets.
impl fmt::Debug for Automaton {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Automaton of {} patterns, {} states", self.ends.len(), self.labels.len())
    }
}

/// The patterns as a tree, before links.
struct Tree {
    labels: Vec<u8>,
    depths: Vec<u8>,
    links: Vec<u32>,
    parents: Vec<u32>,
    /// Children that are not their parent's first, as parent and child.
    more: Vec<(u32, u32)>,
    ends: Vec<(u32, u32)>,
}

impl Tree {
    fn new<P: AsRef<[u8]>>(patterns: &[P]) -> Option<Self> {
        let mut sorted: Vec<(&[u8], usize)> =
            patterns.iter().enumerate().map(|(number, pattern)| (pattern.as_ref(), number)).collect();
        sorted.sort_unstable();
        let befores = [&[][..]].into_iter().chain(sorted.iter().map(|(pattern, _)| *pattern));
        let shared: Vec<usize> =
            sorted.iter().zip(befores).map(|((pattern, _), before)| shared(pattern, before)).collect();
        let states = 1 + sorted.iter().zip(&shared).map(|((pattern, _), shared)| pattern.len() - shared).sum::<usize>();
        if states > STATES_MAX {
            return None;
        }
        let mut tree = Self::with_capacity(states);
        // The states of the last pattern's beginnings, the start first.
        let mut path = vec![0];
        for ((pattern, number), shared) in sorted.into_iter().zip(shared) {
            debug_assert!((1..=PATTERN_BYTES_MAX).contains(&pattern.len()), "a state's depth fits a byte");
            path.truncate(shared + 1);
            for &byte in &pattern[shared..] {
                path.push(tree.add(path[path.len() - 1], byte, path.len()));
            }
            let end = path[path.len() - 1];
            tree.links[end as usize] |= IS_MATCH;
            tree.ends.push((end, u32::try_from(number).ok()?));
        }
        tree.ends.sort_unstable();
        Some(tree)
    }

    /// The start alone, with room for so many states.
    fn with_capacity(states: usize) -> Self {
        let bytes = || {
            let mut bytes = Vec::with_capacity(states);
            bytes.push(0);
            bytes
        };
        let ids = || {
            let mut ids = Vec::with_capacity(states);
            ids.push(0);
            ids
        };
        Self { labels: bytes(), depths: bytes(), links: ids(), parents: ids(), more: Vec::new(), ends: Vec::new() }
    }

    fn add(&mut self, parent: u32, byte: u8, depth: usize) -> u32 {
        let child = as_id(self.labels.len());
        if parent + 1 == child {
            self.links[parent as usize] |= HAS_NEXT;
        } else {
            self.links[parent as usize] |= HAS_MORE;
            self.more.push((parent, child));
        }
        self.labels.push(byte);
        #[expect(clippy::cast_possible_truncation, reason = "at most PATTERN_BYTES_MAX")]
        self.depths.push((depth - 1) as u8);
        self.links.push(0);
        self.parents.push(parent);
        child
    }
}

/// The number of bytes that two patterns begin with alike.
fn shared(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// All states but the start, shallow ones first.
fn by_depth(depths: &[u8]) -> Vec<u32> {
    let mut from = [0_u32; PATTERN_BYTES_MAX + 1];
    depths[1..].iter().for_each(|depth| from[usize::from(*depth) + 1] += 1);
    for depth in 1..from.len() {
        from[depth] += from[depth - 1];
    }
    let mut order = vec![0; depths.len() - 1];
    for (state, depth) in depths.iter().enumerate().skip(1) {
        let place = &mut from[usize::from(*depth)];
        order[*place as usize] = as_id(state);
        *place += 1;
    }
    order
}

#[expect(clippy::cast_possible_truncation, reason = "below STATES_MAX")]
fn as_id(state: usize) -> u32 {
    state as u32
}

/// Children beside the first, in a table of open addressing that is at most half full. A child knows its byte.
struct Children {
    /// Parent and child; a child of 0 is an empty place.
    slots: Vec<(u32, u32)>,
    shift: u32,
}

impl Children {
    fn new(children: &[(u32, u32)], labels: &[u8]) -> Self {
        let bits = (2 * children.len() + 1).next_power_of_two().trailing_zeros().max(1);
        let mut table = Self { slots: vec![(0, 0); 1 << bits], shift: u64::BITS - bits };
        for &(parent, child) in children {
            let mut place = table.place(parent, labels[child as usize]);
            while table.slots[place].1 != 0 {
                place = table.after(place);
            }
            table.slots[place] = (parent, child);
        }
        table
    }

    fn get(&self, labels: &[u8], parent: u32, byte: u8) -> Option<u32> {
        let mut place = self.place(parent, byte);
        loop {
            let (of, child) = self.slots[place];
            if child == 0 {
                return None;
            }
            if of == parent && labels[child as usize] == byte {
                return Some(child);
            }
            place = self.after(place);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "as many bits as the table has")]
    fn place(&self, parent: u32, byte: u8) -> usize {
        // The golden ratio's bits spread neighbours over the whole table (Knuth, 6.4).
        let key = u64::from(parent) << 8 | u64::from(byte);
        (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aho_corasick::automaton::Automaton as _;
    use aho_corasick::nfa::noncontiguous::NFA;
    use aho_corasick::{Anchored, MatchKind};
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// The memory of an automaton.
    fn memory(automaton: &Automaton) -> usize {
        let table = size_of_val(&*automaton.more.slots) + size_of_val(&*automaton.ends);
        let vectors = [automaton.labels.capacity(), automaton.depths.capacity(), 4 * automaton.links.capacity()];
        size_of::<Automaton>() + vectors.iter().sum::<usize>() + table
    }

    fn bytes(longest: usize) -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![9 => 0_u8..3, 1 => any::<u8>()], 1..longest)
    }

    proptest! {
        #[test]
        fn the_same_patterns_end_as_in_another_automaton(patterns in vec(bytes(12), 1..40), text in bytes(400)) {
            let ours = Automaton::new(&patterns).expect("few");
            let theirs = NFA::builder().match_kind(MatchKind::Standard).prefilter(false).build(&patterns).expect("few");
            let mut state = State::default();
            let mut other = theirs.start_state(Anchored::No).expect("unanchored");
            for end in 1..=text.len() {
                let byte = text[end - 1];
                state = ours.next(state, byte);
                other = theirs.next_state(Anchored::No, other, byte);
                let mut found: Vec<_> = ours.ending(state).collect();
                prop_assert!(found.is_sorted_by_key(|(_, length)| std::cmp::Reverse(*length)));
                found.sort_unstable();
                let pattern = |place| theirs.match_pattern(other, place);
                let count = if theirs.is_match(other) { theirs.match_len(other) } else { 0 };
                let mut wanted: Vec<_> =
                    (0..count).map(pattern).map(|id| (id.as_usize(), theirs.pattern_len(id))).collect();
                wanted.sort_unstable();
                prop_assert_eq!(&found, &wanted);
                prop_assert_eq!(ours.is_match(state), !wanted.is_empty());
                // The depth is that of the longest end that begins a pattern.
                let begins = |from: &usize| patterns.iter().any(|pattern| pattern.starts_with(&text[*from..end]));
                let longest = (0..end).find(begins).map_or(0, |from| end - from);
                prop_assert_eq!(ours.depth(state), longest);
            }
        }
    }

    #[test]
    fn the_longest_pattern_has_the_greatest_depth() {
        let pattern = [7; PATTERN_BYTES_MAX];
        let automaton = Automaton::new(&[pattern]).expect("one");
        let state = (0..300).fold(State::default(), |state, _| automaton.next(state, 7));
        assert_eq!(automaton.depth(state), PATTERN_BYTES_MAX);
        assert_eq!(automaton.ending(state).collect::<Vec<_>>(), [(0, PATTERN_BYTES_MAX)]);
        assert_eq!(automaton.next(state, 8), State::default());
    }

    #[test]
    fn a_state_takes_six_bytes_where_phrases_are_chains() {
        let patterns: Vec<Vec<u8>> = (0..200_u32).map(|n| n.to_be_bytes().repeat(60)).collect();
        let automaton = Automaton::new(&patterns).expect("few");
        let (states, bytes) = (automaton.labels.len(), memory(&automaton));
        assert!(bytes < 6 * states + 16 * patterns.len() + 4096, "{bytes} bytes of {states} states");
    }
}
