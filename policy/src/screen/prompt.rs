//! A prompt under a deny list: many texts, of which a worker makes one.
//!
//! Each text is read on its own, and each joint as workers join: with nothing, a space, a newline.
//! A phrase that lies over a joint is found however much white space or how many invisible
//! characters stand around it: the automaton goes on over the joint for as long as what it holds
//! began before. Where it holds nothing at a text's end, which is nearly always, a joint costs
//! nothing.

use super::DenyList;
use super::cursor::{Cursor, Marked, Redacted};
use super::phrases::Phrases;
use std::ops::Range;

/// How workers join texts.
const JOINERS: [&str; 3] = ["", " ", "\n"];

/// The screen of one prompt's texts, which it is told in the order a worker reads them.
#[derive(Debug)]
pub struct PromptScreen<'l> {
    list: &'l Phrases,
    /// By joiner: the text so far, where its end may begin a phrase.
    open: [Option<Cursor>; JOINERS.len()],
    /// The phrases of the text read last.
    last: Vec<Redacted>,
    over: Over,
}

/// Findings besides denied phrases.
#[derive(Debug, Default)]
struct Over {
    labels: u32,
    /// True if a phrase that is to be replaced lies over a joint.
    redacts: bool,
}

impl Over {
    /// Takes over what was found by reading on over the joint at this offset.
    fn note(&mut self, marked: Marked, joint: usize) {
        self.labels |= marked.labels;
        let is_over = |phrase: &Redacted| {
            // One that the joint's own edge completed lies before it.
            phrase.start < joint && (phrase.last > joint || (phrase.last == joint && !phrase.is_past))
        };
        self.redacts |= marked.redacted.iter().any(is_over);
    }
}

impl<'l> PromptScreen<'l> {
    pub(crate) fn new(list: &'l DenyList) -> Self {
        Self::over(&list.0)
    }

    pub(super) fn over(list: &'l Phrases) -> Self {
        Self { list, open: [const { None }; JOINERS.len()], last: Vec::new(), over: Over::default() }
    }

    /// Reads the next text; `continues` where a worker may read it right after the one before.
    /// True if it holds a denied phrase, or one lies over the joint.
    #[must_use]
    pub fn denies(&mut self, text: &str, continues: bool) -> bool {
        if !continues {
            self.open = [const { None }; JOINERS.len()];
        } else if self.denies_over(text) {
            return true;
        }
        let mut alone = Cursor::new();
        if alone.push(self.list, text).is_some() {
            return true;
        }
        let mut marked = alone.take_marked();
        for open in &mut self.open {
            if open.is_none() && alone.unsettled(self.list).is_some() {
                *open = Some(alone.clone());
            }
        }
        let end = alone.position;
        let is_denied = alone.finish(self.list, end).is_some();
        marked.add(alone.take_marked());
        self.over.labels |= marked.labels;
        self.last = marked.redacted;
        is_denied
    }

    /// Reads the next text for phrases that began before it, and for no others. True if a denied one lies over the joint.
    #[must_use]
    pub(super) fn denies_over(&mut self, text: &str) -> bool {
        for (open, joiner) in self.open.iter_mut().zip(JOINERS) {
            let Some(mut joined) = open.take() else { continue };
            let joint = joined.position;
            if read_over(self.list, &mut joined, joiner, text) {
                return true;
            }
            self.over.note(joined.take_marked(), joint);
            // Still on something that began before this text: the next joint is to be read on from here.
            *open = joined.reaches_before(self.list, joint).then_some(joined);
        }
        false
    }

    /// True if a phrase may have begun at the end of what was read.
    pub(super) fn is_open(&self) -> bool {
        self.open.iter().any(Option::is_some)
    }

    /// Screens that go on from each end that this one has come to, whatever joins what follows.
    pub(super) fn ends(&self) -> impl Iterator<Item = Self> {
        let end = |open: &Cursor| Self {
            list: self.list,
            open: JOINERS.map(|_| Some(open.clone())),
            last: Vec::new(),
            over: Over::default(),
        };
        self.open.iter().flatten().map(end)
    }

    /// A screen that stands where this one does, to read on elsewhere; it has found nothing yet.
    pub(super) fn fork(&self) -> Self {
        Self { list: self.list, open: self.open.clone(), last: Vec::new(), over: Over::default() }
    }

    /// The ranges of the text read last that are to be replaced: sorted and disjoint.
    pub(super) fn redacted(&mut self, text: &str) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::with_capacity(self.last.len());
        let mut last = std::mem::take(&mut self.last);
        // The two readings of a text each have an order of their own.
        last.sort_by_key(|phrase| (phrase.last, !phrase.is_past));
        for phrase in last {
            let mut range = phrase.range(text);
            // Phrases that overlap become one: all of them are to go.
            while let Some(before) = ranges.pop_if(|before| before.end > range.start) {
                range.start = range.start.min(before.start);
                range.end = range.end.max(before.end);
            }
            ranges.push(range);
        }
        ranges
    }

    /// The labels noted so far, a bit each.
    pub(super) fn labels(&self) -> u32 {
        self.over.labels
    }

    /// True if a phrase that is to be replaced lies over a joint.
    pub(super) fn redacts_over_joints(&self) -> bool {
        self.over.redacts
    }
}

/// Reads the joiner, and then `text` until nothing is held that began before the joint; true if a denied
/// phrase ended there.
fn read_over(list: &Phrases, cursor: &mut Cursor, joiner: &str, text: &str) -> bool {
    let joint = cursor.position;
    if cursor.push(list, joiner).is_some() {
        return true;
    }
    for character in text.chars() {
        if !cursor.reaches_before(list, joint) {
            return false;
        }
        let at = cursor.position;
        cursor.position += character.len_utf8();
        if cursor.character(list, character, at).is_some() {
            return true;
        }
    }
    if !cursor.reaches_before(list, joint) {
        return false;
    }
    // The text may be the last one.
    let mut last = cursor.clone();
    let is_denied = last.finish(list, cursor.position).is_some();
    cursor.put_marked(last.take_marked());
    is_denied
}

impl Cursor {
    /// True if what may become a phrase began before `joint`.
    fn reaches_before(&self, list: &Phrases, joint: usize) -> bool {
        self.unsettled(list).is_some_and(|start| start < joint)
    }
}

impl Redacted {
    /// Its bytes in the text that it was found in.
    fn range(self, text: &str) -> Range<usize> {
        let length = text[self.last..].chars().next().map_or(0, char::len_utf8);
        self.start..if self.is_past { self.last } else { self.last + length }
    }
}
