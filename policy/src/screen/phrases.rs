//! Compiled phrases: patterns of the shadow, each with its consequence.

use super::automaton::{Automaton, PATTERN_BYTES_MAX, State};
use super::fold::{self, Folder};
use super::starts::Starts;
use crate::config::{ConfigError, PHRASE_BYTES_MAX, PHRASES_MAX, ReadingsConfig};
use std::collections::BTreeSet;

/// The consequence of a phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing of a text passes from here on.
    Denied,
    /// It is replaced.
    Redacted,
    /// It is noted by the label of this number, below `LABELS_MAX`.
    Labelled(u8),
}

/// Compiled phrases.
#[derive(Debug)]
pub(super) struct Phrases {
    pub(super) automaton: Automaton,
    pub(super) starts: Starts,
    /// By pattern.
    kinds: Vec<Kind>,
    pub(super) readings: ReadingsConfig,
}

impl Phrases {
    /// Compiles patterns; `field` is where they come from.
    pub(super) fn new(field: &str, patterns: &Patterns, readings: ReadingsConfig) -> Result<Self, ConfigError> {
        let folded: Vec<&[u8]> = patterns.iter().map(|(folded, _)| folded).collect();
        let too_large = || ConfigError::new(field, "has more text than an automaton holds; remove phrases");
        let automaton = Automaton::new(&folded).ok_or_else(too_large)?;
        let kinds = patterns.iter().map(|(_, kind)| kind).collect();
        Ok(Self { automaton, starts: Starts::new(&folded), kinds, readings })
    }

    /// The phrases that end in a matching state: their kinds, and their lengths in bytes of shadow.
    pub(super) fn ending(&self, state: State) -> impl Iterator<Item = (Kind, usize)> {
        self.automaton.ending(state).map(|(pattern, length)| (self.kinds[pattern], length))
    }
}

const _: () = assert!(PHRASE_BYTES_MAX <= PATTERN_BYTES_MAX && PHRASE_BYTES_MAX.is_power_of_two());

/// Folded phrases, each with its kind. They lie in one piece of memory, which goes back to the system as one.
#[derive(Default)]
pub(super) struct Patterns {
    bytes: Vec<u8>,
    /// By pattern: where it ends, and its kind.
    ends: Vec<(usize, Kind)>,
}

impl Patterns {
    fn push(&mut self, folded: &[u8], kind: Kind) {
        self.bytes.extend_from_slice(folded);
        self.ends.push((self.bytes.len(), kind));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Kind)> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(end, _)| *end));
        starts.zip(&self.ends).map(|(start, (end, kind))| (&self.bytes[start..*end], *kind))
    }
}

/// Folds a list of phrases, and adds their patterns to `all`; `field` is where they come from.
pub(super) fn add_phrases(
    all: &mut Patterns,
    field: &str,
    phrases: &[String],
    kind: Kind,
    readings: ReadingsConfig,
) -> Result<(), ConfigError> {
    if phrases.len() > PHRASES_MAX {
        return Err(ConfigError::new(field, format!("has more than {PHRASES_MAX} entries")));
    }
    for (index, phrase) in phrases.iter().enumerate() {
        // White space around a phrase is a slip of the pen; inside one it counts.
        let phrase = phrase.trim_matches(|character: char| character.is_whitespace() || fold::is_invisible(character));
        let folded = folded_phrase(&format!("{field}[{index}]"), phrase)?;
        if readings.lookalikes && !phrase.is_ascii() {
            let looks = looks_of(phrase).into_iter().filter(|look| *look != folded);
            looks.filter(|look| look.len() <= PHRASE_BYTES_MAX).for_each(|look| all.push(&look, kind));
        }
        all.push(&folded, kind);
    }
    Ok(())
}

fn folded_phrase(at: &str, phrase: &str) -> Result<Vec<u8>, ConfigError> {
    if phrase.starts_with(fold::is_mark) {
        return Err(ConfigError::new(at, "begins with a combining mark, which belongs to what stands before it"));
    }
    let folded = Folder::default().all(phrase);
    if folded.is_empty() {
        return Err(ConfigError::new(at, "has no visible character; remove it"));
    }
    if folded.len() > PHRASE_BYTES_MAX {
        let problem = format!("has {} bytes once folded, more than {PHRASE_BYTES_MAX}; shorten it", folded.len());
        return Err(ConfigError::new(at, problem));
    }
    Ok(folded)
}

/// The most labels.
pub(super) const LABELS_MAX: usize = 32;

/// The shadows that a phrase may have by its looks, in the cases that it is written in.
fn looks_of(phrase: &str) -> BTreeSet<Vec<u8>> {
    let look = |text: &str| Folder::by_look().all(text);
    let (lower, upper) = (phrase.to_lowercase(), phrase.to_uppercase());
    let mut looks: BTreeSet<Vec<u8>> = [phrase, &lower, &capitals(&lower)].into_iter().map(look).collect();
    // Capitals of which all look like those of ASCII are words of ASCII more often than this phrase: `ВОТ` and `BOT`.
    looks.extend(Some(look(&upper)).filter(|look| !is_ascii(look)));
    looks
}

/// True if a shadow has nothing but ASCII, edges aside.
fn is_ascii(shadow: &[u8]) -> bool {
    shadow.iter().all(|byte| byte.is_ascii() || *byte == fold::EDGE)
}

/// A text with each word's first letter a capital.
fn capitals(lower: &str) -> String {
    let mut out = String::with_capacity(lower.len());
    let mut is_in_word = false;
    for character in lower.chars() {
        if is_in_word {
            out.push(character)
        } else {
            out.extend(character.to_uppercase())
        }
        is_in_word = character.is_alphanumeric();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_of_another_script_has_the_looks_of_its_cases() {
        let looks = |phrase| looks_of(phrase).len();
        // In small letters and with first capitals, which are drawn as in words of capitals alone.
        assert_eq!((looks("вор и сор"), looks("毒品")), (2, 1));
        let bot = Folder::default().all("bot");
        assert!(!looks_of("вот").contains(&bot) && !looks_of("ВОТ").is_empty());
    }
}
