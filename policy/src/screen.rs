//! Lists of phrases: which may not pass, which are replaced or noted in prompts, and how a stream is
//! held back exactly as long as it could still become one of them.
//!
//! Text is matched on its *shadow* (`fold`). The phrases, folded the same way, form an Aho-Corasick
//! automaton; its current state's depth is the length of the longest end of the shadow that is
//! still the beginning of a phrase, which is all that has to be held back. The verdict is therefore
//! a function of the whole text: the first phrase to *end* decides; of those that end there the
//! longest; what stands before it is released, nothing at or after its first character ever is.

mod automaton;
mod fold;
mod inner;
mod marks;
mod output;
mod prompt;
mod request;
mod starts;

pub(crate) use marks::Marks;
pub use output::{OutputScreen, Release};
pub use prompt::PromptScreen;
pub(crate) use request::Read;

use crate::config::{ConfigError, DenyListConfig, PHRASE_BYTES_MAX, PHRASES_MAX};
use automaton::{Automaton, PATTERN_BYTES_MAX, State};
use fold::Folder;
use starts::Starts;

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
    automaton: Automaton,
    starts: Starts,
    /// By pattern.
    kinds: Vec<Kind>,
}

impl Phrases {
    /// Compiles folded phrases; `field` is where they come from.
    fn new(field: &str, phrases: Vec<(Vec<u8>, Kind)>) -> Result<Self, ConfigError> {
        let (folded, kinds): (Vec<_>, Vec<_>) = phrases.into_iter().unzip();
        let too_large = || ConfigError::new(field, "has more text than an automaton holds; remove phrases");
        let automaton = Automaton::new(&folded).ok_or_else(too_large)?;
        Ok(Self { automaton, starts: Starts::new(&folded), kinds })
    }

    /// The offset of the denied phrase that decides over a whole text, if there is one.
    fn find(&self, text: &str) -> Option<usize> {
        let mut cursor = Cursor::new();
        cursor.push(self, text).or_else(|| cursor.finish(self, text.len()))
    }

    /// Reads a whole text by itself; whether a denied phrase is in it, and what else.
    fn read_alone(&self, text: &str) -> (bool, Marked) {
        let mut cursor = Cursor::new();
        let is_denied = cursor.push(self, text).is_some() || cursor.finish(self, text.len()).is_some();
        (is_denied, cursor.run.marked)
    }

    /// The phrases that end in a matching state: their kinds, and their lengths in bytes of shadow.
    fn ending(&self, state: State) -> impl Iterator<Item = (Kind, usize)> {
        self.automaton.ending(state).map(|(pattern, length)| (self.kinds[pattern], length))
    }
}

const _: () = assert!(PHRASE_BYTES_MAX <= PATTERN_BYTES_MAX && PHRASE_BYTES_MAX.is_power_of_two());

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
    state: State,
    /// For each byte of shadow that the state covers, the offset in the text of the character it
    /// came from: a ring, of which as much counts as the state is deep.
    covered: Box<[usize; PHRASE_BYTES_MAX]>,
    /// Bytes of shadow seen, and how many of them the state covers.
    seen: usize,
    depth: usize,
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
    fn new() -> Self {
        let run = Run {
            state: State::default(),
            covered: Box::new([0; PHRASE_BYTES_MAX]),
            seen: 0,
            depth: 0,
            found: None,
            marked: Marked::default(),
        };
        Self { folder: Folder::default(), run, position: 0 }
    }

    /// Reads on; the offset of the deciding phrase's first character once it is complete.
    fn push(&mut self, list: &Phrases, text: &str) -> Option<usize> {
        let mut rest = text;
        loop {
            rest = self.skip(list, rest);
            let character = rest.chars().next()?;
            rest = &rest[character.len_utf8()..];
            let at = self.position;
            self.position += character.len_utf8();
            if let Some(start) = self.character(list, character, at) {
                return Some(start);
            }
        }
    }

    /// Passes over text in which no phrase begins, where none has begun before; returns what is left.
    #[inline]
    fn skip<'t>(&mut self, list: &Phrases, text: &'t str) -> &'t str {
        if self.run.state != State::default() || !self.folder.is_settled() {
            return text;
        }
        let skipped = list.starts.next_start(text.as_bytes(), self.folder.is_in_word());
        if let Some(last) = skipped.checked_sub(1) {
            self.folder.passed(text.as_bytes()[last]);
            self.position += skipped;
        }
        &text[skipped..]
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
        self.run.begin(self.run.depth)
    }
}

impl Run {
    fn step(&mut self, list: &Phrases, byte: u8, at: usize) {
        if self.found.is_some() {
            return;
        }
        self.state = list.automaton.next(self.state, byte);
        self.covered[self.seen % PHRASE_BYTES_MAX] = at;
        self.seen = self.seen.wrapping_add(1);
        self.depth = list.automaton.depth(self.state);
        if list.automaton.is_match(self.state) {
            self.matched(list, byte, at);
        }
    }

    /// The offset of the character that the last `length` bytes of shadow begin with; `None` of no bytes.
    fn begin(&self, length: usize) -> Option<usize> {
        (length > 0).then(|| self.covered[self.seen.wrapping_sub(length) % PHRASE_BYTES_MAX])
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
        if denied > 0 {
            self.found = self.begin(denied);
        }
        if self.marked.redacted.len() <= REDACTIONS_MAX
            && let Some(start) = self.begin(redacted)
        {
            self.marked.redacted.push(Redacted { start, last: at, is_past: byte == fold::EDGE });
        }
    }
}

#[cfg(test)]
mod tests;
