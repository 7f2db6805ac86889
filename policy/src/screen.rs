//! Lists of phrases: which may not pass, which are replaced or noted in prompts, and how a stream is
//! held back exactly as long as it could still become one of them.
//!
//! Text is matched on its *shadow* (`fold`). The phrases, folded the same way, form an Aho-Corasick
//! automaton; its current state's depth is the length of the longest end of the shadow that is
//! still the beginning of a phrase, which is all that has to be held back. The verdict is therefore
//! a function of the whole text: the first phrase to *end* decides; of those that end there the
//! longest; what stands before it is released, nothing at or after its first character ever is.
//!
//! A text has a second shadow where characters look like others (`looks`). It is read beside the first from such a
//! character until both are in one state again, so plain text pays nothing for it. Prompts have further readings
//! (`dress`, `encoded`), for which the whole text must be there.

mod automaton;
mod cursor;
mod dress;
mod encoded;
mod fold;
mod inner;
mod looks;
mod marks;
mod output;
mod phrases;
mod prompt;
mod request;
mod starts;

pub(crate) use marks::Marks;
pub use output::{OutputScreen, Release};
pub use prompt::PromptScreen;
pub(crate) use request::Read;

use crate::config::{ConfigError, DenyListConfig, ReadingsConfig};
use phrases::{Kind, Patterns, Phrases, add_phrases};

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
        Self::reading(config, ReadingsConfig::default())
    }

    /// As [`new`](Self::new), with these readings.
    pub(crate) fn reading(config: &DenyListConfig, readings: ReadingsConfig) -> Result<Option<Self>, ConfigError> {
        if config.phrases.is_empty() {
            return Ok(None);
        }
        let mut phrases = Patterns::default();
        add_phrases(&mut phrases, "deny_list.phrases", &config.phrases, Kind::Denied, readings)?;
        Phrases::new("deny_list.phrases", &phrases, readings).map(|phrases| Some(Self(phrases)))
    }

    /// The phrase that decides over a whole text, if there is one.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<DenyMatch> {
        self.0.find(text).map(|start| DenyMatch { start })
    }
}

#[cfg(test)]
mod tests;
