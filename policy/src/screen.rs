//! Lists of phrases: which may not pass, which are replaced or noted in prompts, and how a stream is
//! held back exactly as long as it could still become one of them.
//!
//! Text is matched on its *shadow* (`fold`). The phrases, folded the same way, form an Aho-Corasick
//! automaton; its current state's depth is the length of the longest end of the shadow that is
//! still the beginning of a phrase, which is all that has to be held back. The verdict is therefore
//! a function of the whole text: the first phrase to *end* decides; of those that end there the
//! longest; what stands before it is released, nothing at or after its first character ever is.

mod fold;
mod inner;
mod marks;
mod output;
mod prompt;
mod request;

pub(crate) use marks::Marks;
pub use output::{OutputScreen, Release};
pub use prompt::PromptScreen;
pub(crate) use request::Read;

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
pub struct DenyList(Phrases);

impl DenyList {
    /// Compiles a list; `None` where it has no phrases.
    ///
    /// # Errors
    /// A phrase that is empty once folded or too long, too many of them; the error names it.
    pub fn new(config: &DenyListConfig) -> Result<Option<Self>, ConfigError> {
        let folded = folded_phrases("deny_list.phrases", &config.phrases)?;
        if folded.is_empty() {
            return Ok(None);
        }
        let phrases = folded.into_iter().map(|folded| (folded, Kind::Denied)).collect();
        Phrases::new("deny_list.phrases", phrases).map(|phrases| Some(Self(phrases)))
    }

    /// The phrase that decides over a whole text, if there is one.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<DenyMatch> {
        self.0.find(text).map(|start| DenyMatch { start })
    }
}

/// The consequence of a phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing of a text passes from here on.
    Denied,
    /// It is replaced.
    Redacted,
    /// It is noted by the label of this number, below `LABELS_MAX`.
    Labelled(u8),
}

/// Compiled phrases.
#[derive(Debug)]
struct Phrases {
    automaton: NFA,
    start: StateID,
    /// By state: how many bytes of shadow lead from the start to it. 0 for ids that are no state.
    depths: Vec<u16>,
    /// By pattern.
    kinds: Vec<Kind>,
}

impl Phrases {
    /// Compiles folded phrases; `field` is where they come from.
    fn new(field: &str, phrases: Vec<(Vec<u8>, Kind)>) -> Result<Self, ConfigError> {
        let (folded, kinds): (Vec<_>, Vec<_>) = phrases.into_iter().unzip();
        let too_large =
            |cause: &dyn std::fmt::Display| ConfigError::new(field, format!("does not fit an automaton: {cause}"));
        let mut builder = NFA::builder();
        builder.match_kind(MatchKind::Standard).prefilter(false);
        let automaton = builder.build(&folded).map_err(|cause| too_large(&cause))?;
        let start = automaton.start_state(Anchored::No).map_err(|cause| too_large(&cause))?;
        let mut depths = Vec::new();
        for phrase in &folded {
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
        Ok(Self { automaton, start, depths, kinds })
    }

    /// The offset of the denied phrase that decides over a whole text, if there is one.
    fn find(&self, text: &str) -> Option<usize> {
        let mut cursor = Cursor::new(self);
        cursor.push(self, text).or_else(|| cursor.finish(self, text.len()))
    }

    /// Reads a whole text by itself; whether a denied phrase is in it, and what else.
    fn read_alone(&self, text: &str) -> (bool, Marked) {
        let mut cursor = Cursor::new(self);
        let is_denied = cursor.push(self, text).is_some() || cursor.finish(self, text.len()).is_some();
        (is_denied, cursor.run.marked)
    }

    fn depth(&self, state: StateID) -> usize {
        self.depths.get(state.as_usize()).copied().unwrap_or(0).into()
    }

    /// The phrases that end in a matching state: their kinds, and their lengths in bytes of shadow.
    fn ending(&self, state: StateID) -> impl Iterator<Item = (Kind, usize)> {
        (0..self.automaton.match_len(state)).map(move |place| {
            let pattern = self.automaton.match_pattern(state, place);
            (self.kinds[pattern.as_usize()], self.automaton.pattern_len(pattern))
        })
    }
}

/// Folds a list of phrases; `field` is where they come from.
fn folded_phrases(field: &str, phrases: &[String]) -> Result<Vec<Vec<u8>>, ConfigError> {
    if phrases.len() > PHRASES_MAX {
        return Err(ConfigError::new(field, format!("has more than {PHRASES_MAX} entries")));
    }
    phrases.iter().enumerate().map(|(index, phrase)| folded_phrase(&format!("{field}[{index}]"), phrase)).collect()
}

fn folded_phrase(at: &str, phrase: &str) -> Result<Vec<u8>, ConfigError> {
    let mut folded = Vec::new();
    let mut folder = Folder::default();
    // White space around a phrase is a slip of the pen; inside one it counts.
    let phrase = phrase.trim_matches(|character: char| character.is_whitespace() || fold::is_invisible(character));
    if phrase.starts_with(fold::is_mark) {
        return Err(ConfigError::new(at, "begins with a combining mark, which belongs to what stands before it"));
    }
    for character in phrase.chars() {
        folder.push(character, 0, |byte, _| folded.push(byte));
    }
    folder.finish(0, |byte, _| folded.push(byte));
    if folded.is_empty() {
        return Err(ConfigError::new(at, "has no visible character; remove it"));
    }
    if folded.len() > PHRASE_BYTES_MAX {
        let problem = format!("has {} bytes once folded, more than {PHRASE_BYTES_MAX}; shorten it", folded.len());
        return Err(ConfigError::new(at, problem));
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
    /// The offset of the deciding phrase's first character, once it is complete. Nothing is read after that.
    found: Option<usize>,
    /// Other phrases that are complete.
    marked: Marked,
}

/// Phrases in a text that do not end it.
#[derive(Debug, Clone, Default)]
struct Marked {
    /// The labels noted, a bit each.
    labels: u32,
    /// Those to be replaced, in the order of their ends; at most `REDACTIONS_MAX` and one more.
    redacted: Vec<Redacted>,
}

/// A phrase to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Redacted {
    /// The offset of its first character.
    start: usize,
    /// The offset of its last character, or behind it where `is_past`.
    last: usize,
    /// True if it was complete only with what follows it.
    is_past: bool,
}

/// The most phrases of one prompt that are replaced: a body does not grow by more than 8 MiB.
const REDACTIONS_MAX: usize = 65_536;
/// The most labels.
pub(crate) const LABELS_MAX: usize = 32;

impl Cursor {
    fn new(list: &Phrases) -> Self {
        let run = Run { state: list.start, covered: VecDeque::new(), found: None, marked: Marked::default() };
        Self { folder: Folder::default(), run, position: 0 }
    }

    /// Reads on; the offset of the deciding phrase's first character once it is complete.
    fn push(&mut self, list: &Phrases, text: &str) -> Option<usize> {
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
    fn character(&mut self, list: &Phrases, character: char, at: usize) -> Option<usize> {
        let run = &mut self.run;
        self.folder.push(character, at, |byte, at| run.step(list, byte, at));
        self.run.found
    }

    /// Says that the text ends here: a phrase may end with it.
    fn finish(&mut self, list: &Phrases, at: usize) -> Option<usize> {
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
    fn step(&mut self, list: &Phrases, byte: u8, at: usize) {
        if self.found.is_some() {
            return;
        }
        self.state = list.automaton.next_state(Anchored::No, self.state, byte);
        self.covered.push_back(at);
        let depth = list.depth(self.state);
        self.covered.drain(..self.covered.len().saturating_sub(depth));
        if list.automaton.is_match(self.state) {
            self.matched(list, byte, at);
        }
    }

    /// Notes the phrases that the last byte of shadow, which comes from the character at `at`, completed.
    #[cold]
    fn matched(&mut self, list: &Phrases, byte: u8, at: usize) {
        let (mut denied, mut redacted) = (0, 0);
        for (kind, length) in list.ending(self.state) {
            match kind {
                Kind::Denied => denied = denied.max(length),
                Kind::Redacted => redacted = redacted.max(length),
                Kind::Labelled(label) => self.marked.labels |= 1 << label,
            }
        }
        let begin = |length: usize| self.covered.get(self.covered.len().checked_sub(length)?).copied();
        if denied > 0 {
            self.found = begin(denied);
        }
        if redacted > 0
            && self.marked.redacted.len() <= REDACTIONS_MAX
            && let Some(start) = begin(redacted)
        {
            self.marked.redacted.push(Redacted { start, last: at, is_past: byte == fold::EDGE });
        }
    }
}

#[cfg(test)]
mod tests;
