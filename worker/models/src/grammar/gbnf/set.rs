//! Sets of characters, as ranges.

use std::fmt::Write;

const LAST: u32 = char::MAX as u32;

/// A set of characters: sorted ranges, both ends included, none of which touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set(Vec<(u32, u32)>);

impl Set {
    pub(super) fn all() -> Self {
        Self(vec![(0, LAST)])
    }

    pub(super) fn of(first: char, last: char) -> Self {
        Self(vec![(first.into(), last.into())])
    }

    /// Adds what another has; true if that was anything new.
    pub(super) fn add(&mut self, other: &Self) -> bool {
        let mut ranges = [self.0.as_slice(), other.0.as_slice()].concat();
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        let is_new = joined != self.0;
        self.0 = joined;
        is_new
    }

    /// The characters that are not in it.
    pub(super) fn complement(&self) -> Self {
        let (mut out, mut next) = (Vec::new(), 0);
        for &(first, last) in &self.0 {
            if first > next {
                out.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= LAST {
            out.push((next, LAST));
        }
        Self(out)
    }

    pub(super) fn has(&self, character: char) -> bool {
        self.meets(&Self::of(character, character))
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        self.0.iter().any(|(first, last)| other.0.iter().any(|(from, to)| first <= to && from <= last))
    }

    /// An expression of Lark's for one of them. By their numbers, no character means anything to it.
    pub(super) fn expression(&self) -> String {
        if *self == Self::all() {
            return "/(?s:.)/".into();
        }
        let mut out = String::from("/[");
        for &(first, last) in &self.0 {
            // Writing to a string does not fail. Surrogates are no characters.
            let (first, last) = (if (0xd800..0xe000).contains(&first) { 0xe000 } else { first }, last);
            let last = if (0xd800..0xe000).contains(&last) { 0xd7ff } else { last };
            if first <= last {
                _ = write!(out, "\\x{{{first:x}}}-\\x{{{last:x}}}");
            }
        }
        out.push_str("]/");
        out
    }
}
