//! The deny list: which phrases may not pass, and how a stream is held back exactly as long as it
//! could still become one of them.
//!
//! Text is matched on its *shadow* (`fold`). The phrases, folded the same way, form an Aho-Corasick
//! automaton; its current state's depth is the length of the longest end of the shadow that is
//! still the beginning of a phrase, which is all that has to be held back. The verdict is therefore
//! a function of the whole text: the first phrase to *end* decides; of those that end there the
//! longest; what stands before it is released, nothing at or after its first character ever is.

mod fold;
mod inner;
mod output;
mod prompt;

pub use output::{OutputScreen, Release};
pub use prompt::PromptScreen;

use crate::config::{ConfigError, DenyListConfig, PHRASE_BYTES_MAX, PHRASES_MAX};
use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};
use fold::Folder;
use std::collections::VecDeque;

/// Where a phrase stands in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenyMatch {
    /// The byte offset of its first character.
    pub start: usize,
}

/// A compiled deny list, shared by all the texts it screens.
#[derive(Debug)]
pub struct DenyList {
    automaton: NFA,
    start: StateID,
    /// By state: how many bytes of shadow lead from the start to it. 0 for ids that are no state.
    depths: Vec<u16>,
}

impl DenyList {
    /// Compiles a list; `None` where it has no phrases.
    ///
    /// # Errors
    /// A phrase that is empty once folded or too long, too many of them; the error names it.
    pub fn new(config: &DenyListConfig) -> Result<Option<Self>, ConfigError> {
        if config.phrases.is_empty() {
            return Ok(None);
        }
        if config.phrases.len() > PHRASES_MAX {
            return Err(ConfigError::new("deny_list.phrases", format!("has more than {PHRASES_MAX} entries")));
        }
        let folded = config.phrases.iter().enumerate().map(folded_phrase).collect::<Result<Vec<_>, _>>()?;
        Self::compile(&folded).map(Some)
    }

    fn compile(folded: &[Vec<u8>]) -> Result<Self, ConfigError> {
        let too_large = |cause: &dyn std::fmt::Display| {
            ConfigError::new("deny_list.phrases", format!("does not fit an automaton: {cause}"))
        };
        let mut builder = NFA::builder();
        builder.match_kind(MatchKind::Standard).prefilter(false);
        let automaton = builder.build(folded).map_err(|cause| too_large(&cause))?;
        let start = automaton.start_state(Anchored::No).map_err(|cause| too_large(&cause))?;
        let mut depths = Vec::new();
        for phrase in folded {
            // A phrase's own beginnings are states, and walking it from the start visits them.
            let mut state = start;
            for (place, &byte) in phrase.iter().enumerate() {
                state = automaton.next_state(Anchored::No, state, byte);
                if depths.len() <= state.as_usize() {
                    depths.resize(state.as_usize() + 1, 0);
                }
                #[expect(clippy::cast_possible_truncation, reason = "at most PHRASE_BYTES_MAX")]
                let depth = place as u16 + 1;
                depths[state.as_usize()] = depth;
            }
        }
        Ok(Self { automaton, start, depths })
    }

    /// The phrase that decides over a whole text, if there is one.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<DenyMatch> {
        let mut cursor = Cursor::new(self);
        cursor.push(self, text).or_else(|| cursor.finish(self, text.len())).map(|start| DenyMatch { start })
    }

    fn depth(&self, state: StateID) -> usize {
        self.depths.get(state.as_usize()).copied().unwrap_or(0).into()
    }

    /// The longest phrase that ends in `state`, in bytes of shadow.
    fn longest_match(&self, state: StateID) -> Option<usize> {
        if !self.automaton.is_match(state) {
            return None;
        }
        let matches = 0..self.automaton.match_len(state);
        matches.map(|place| self.automaton.pattern_len(self.automaton.match_pattern(state, place))).max()
    }
}

fn folded_phrase((index, phrase): (usize, &String)) -> Result<Vec<u8>, ConfigError> {
    let at = || format!("deny_list.phrases[{index}]");
    let mut folded = Vec::new();
    let mut folder = Folder::default();
    // White space around a phrase is a slip of the pen; inside one it counts.
    let phrase = phrase.trim_matches(|character: char| character.is_whitespace() || fold::is_invisible(character));
    if phrase.starts_with(fold::is_mark) {
        return Err(ConfigError::new(at(), "begins with a combining mark, which belongs to what stands before it"));
    }
    for character in phrase.chars() {
        folder.push(character, 0, |byte, _| folded.push(byte));
    }
    folder.finish(0, |byte, _| folded.push(byte));
    if folded.is_empty() {
        return Err(ConfigError::new(at(), "has no visible character; remove it"));
    }
    if folded.len() > PHRASE_BYTES_MAX {
        let problem = format!("has {} bytes once folded, more than {PHRASE_BYTES_MAX}; shorten it", folded.len());
        return Err(ConfigError::new(at(), problem));
    }
    Ok(folded)
}

/// Where the automaton stands in one text, and which of the text's bytes its state covers.
#[derive(Debug, Clone)]
struct Cursor {
    folder: Folder,
    run: Run,
    /// Bytes of text seen.
    position: usize,
}

/// The automaton's part of a cursor.
#[derive(Debug, Clone)]
struct Run {
    state: StateID,
    /// For each byte of shadow that the state covers, the offset in the text of the character it
    /// came from. As long as the state is deep: at most `PHRASE_BYTES_MAX`.
    covered: VecDeque<usize>,
    /// The offset of the deciding phrase's first character, once it is complete.
    found: Option<usize>,
}

impl Cursor {
    fn new(list: &DenyList) -> Self {
        let run = Run { state: list.start, covered: VecDeque::new(), found: None };
        Self { folder: Folder::default(), run, position: 0 }
    }

    /// Reads on; the offset of the deciding phrase's first character once it is complete.
    fn push(&mut self, list: &DenyList, text: &str) -> Option<usize> {
        for character in text.chars() {
            let at = self.position;
            self.position += character.len_utf8();
            if let Some(start) = self.character(list, character, at) {
                return Some(start);
            }
        }
        None
    }

    /// Reads one character, which stands at offset `at`.
    fn character(&mut self, list: &DenyList, character: char, at: usize) -> Option<usize> {
        let run = &mut self.run;
        self.folder.push(character, at, |byte, at| run.step(list, byte, at));
        self.run.found
    }

    /// Says that the text ends here: a phrase may end with it.
    fn finish(&mut self, list: &DenyList, at: usize) -> Option<usize> {
        let run = &mut self.run;
        self.folder.finish(at, |byte, at| run.step(list, byte, at));
        self.run.found
    }

    /// Where what may still become a phrase begins. Marks that wait to be put in order cannot
    /// begin one: no phrase begins with a mark.
    fn unsettled(&self) -> Option<usize> {
        self.run.covered.front().copied()
    }
}

impl Run {
    fn step(&mut self, list: &DenyList, byte: u8, at: usize) {
        if self.found.is_some() {
            return;
        }
        self.state = list.automaton.next_state(Anchored::No, self.state, byte);
        self.covered.push_back(at);
        let depth = list.depth(self.state);
        self.covered.drain(..self.covered.len().saturating_sub(depth));
        let found = list.longest_match(self.state).and_then(|length| self.covered.len().checked_sub(length));
        self.found = found.and_then(|place| self.covered.get(place).copied());
    }
}

#[cfg(test)]
mod tests;
