//! A prompt under a deny list: many texts, of which a worker makes one.
//!
//! Each text is read on its own, and each joint as workers join: with nothing, a space, a newline.
//! A phrase that lies over a joint is found however much white space or how many invisible
//! characters stand around it: the automaton goes on over the joint for as long as what it holds
//! began before. Where it holds nothing at a text's end, which is nearly always, a joint costs
//! nothing.

use super::{Cursor, DenyList};

/// How workers join texts.
const JOINERS: [&str; 3] = ["", " ", "\n"];

/// The screen of one prompt's texts, which it is told in the order a worker reads them.
#[derive(Debug)]
pub struct PromptScreen<'l> {
    list: &'l DenyList,
    /// By joiner: the text so far, where its end may begin a phrase.
    open: [Option<Cursor>; JOINERS.len()],
}

impl<'l> PromptScreen<'l> {
    pub(crate) fn new(list: &'l DenyList) -> Self {
        Self { list, open: [const { None }; JOINERS.len()] }
    }

    /// Reads the next text; `continues` where a worker may read it right after the one before.
    /// True if it holds a phrase, or one lies over the joint.
    #[must_use]
    pub fn denies(&mut self, text: &str, continues: bool) -> bool {
        let mut alone = Cursor::new(self.list);
        if alone.push(self.list, text).is_some() {
            return true;
        }
        for (open, joiner) in self.open.iter_mut().zip(JOINERS) {
            let Some(mut joined) = open.take().filter(|_| continues) else { continue };
            let joint = joined.position;
            if joined.push(self.list, joiner).is_some() || read_over(self.list, &mut joined, text, joint) {
                return true;
            }
            // Still on something that began before this text: the next joint is to be read on from here.
            *open = joined.reaches_before(joint).then_some(joined);
        }
        for open in &mut self.open {
            if open.is_none() && alone.unsettled().is_some() {
                *open = Some(alone.clone());
            }
        }
        let end = alone.position;
        alone.finish(self.list, end).is_some()
    }

    /// True if a phrase lies over the joint to `text`, which is not read as the next one.
    #[must_use]
    pub fn denies_next(&self, text: &str) -> bool {
        self.open.iter().zip(JOINERS).any(|(open, joiner)| {
            let Some(mut joined) = open.clone() else { return false };
            let joint = joined.position;
            joined.push(self.list, joiner).is_some() || read_over(self.list, &mut joined, text, joint)
        })
    }
}

/// Reads `text` until nothing is held that began before `joint`; whether a phrase ended there.
fn read_over(list: &DenyList, cursor: &mut Cursor, text: &str, joint: usize) -> bool {
    for character in text.chars() {
        if !cursor.reaches_before(joint) {
            return false;
        }
        let at = cursor.position;
        cursor.position += character.len_utf8();
        if cursor.character(list, character, at).is_some() {
            return true;
        }
    }
    // The text may be the last one.
    cursor.reaches_before(joint) && cursor.clone().finish(list, cursor.position).is_some()
}

impl Cursor {
    /// True if what may become a phrase began before `joint`.
    fn reaches_before(&self, joint: usize) -> bool {
        self.unsettled().is_some_and(|start| start < joint)
    }
}
