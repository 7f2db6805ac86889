//! Forms of text as sets of tokens: which tokens may come next, so that a text of a form becomes of that form.
//!
//! Schemas, regular expressions and grammars are compiled by llguidance, within bounds on size, work and depth; what it
//! cannot do it says, and nothing is done by halves. A grammar is compiled once and never changes; a walk along it is
//! of one sequence. What it allows depends on the form and the tokens alone. It knows no request, no thread that waits
//! and no sampling.

mod build;
mod ending;
mod gbnf;
mod literal;
mod pace;
mod parts;
mod text;
mod vocabulary;

pub use build::{Calls, Shape};
pub use pace::Pace;
pub use parts::bracketed;
pub use vocabulary::Vocabulary;

use llguidance::TokenParser;
use llguidance::api::StopReason;
use llguidance::panic_utils::catch_unwind;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use thiserror::Error;

/// Stack of threads that compile or walk: the engine of grammars recurses as deep as a schema leads it.
pub const STACK_BYTES: usize = 128 << 20;

/// Reasons why a form cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GrammarError {
    /// The form is wrong, unsatisfiable, or beyond what can be guaranteed.
    #[error("the form cannot be guaranteed: {0}")]
    Refused(String),
    /// The form is larger than the bounds on it.
    #[error("the form has {count} {of}; at most {most} are taken")]
    TooLarge {
        /// How many there are.
        count: usize,
        /// Of what.
        of: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// The model's tokenizer cannot be read as bytes, or has no token that ends a text.
    #[error("this model's tokenizer allows no forms: {0}")]
    Tokenizer(&'static str),
}

/// The spelling of a text that may be a special token of the model.
type Spell<'a> = &'a dyn Fn(&str) -> String;

/// A compiled form. Immutable: every walk begins with a copy.
pub struct Grammar {
    parser: TokenParser,
    /// Special tokens that texts of the form may have.
    marks: Arc<[u32]>,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grammar")
    }
}

impl Grammar {
    /// A walk along it, at its beginning.
    #[must_use]
    pub fn walk(&self) -> Walk {
        Walk { parser: self.parser.deep_clone(), marks: Arc::clone(&self.marks) }
    }
}

/// A walk along a grammar, token by token.
pub struct Walk {
    parser: TokenParser,
    marks: Arc<[u32]>,
}

impl std::fmt::Debug for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Walk")
    }
}

impl Walk {
    /// The tokens that may come next, as words of 32 bits, the lowest first: after `previous`, or as the first. Where the
    /// text may end, the tokens that end it are among them.
    ///
    /// # Errors
    /// `previous` was not allowed, or the work that one token may take was not enough; the text says which. A walk that
    /// failed goes on failing.
    pub fn next(&mut self, previous: Option<u32>) -> Result<Vec<u32>, String> {
        let parser = &mut self.parser;
        let step = AssertUnwindSafe(|| {
            if let Some(token) = previous {
                parser.consume_token(token)?;
                parser.check_stop()?;
            }
            match parser.stop_reason() {
                StopReason::NotStopped => parser.compute_mask(),
                StopReason::EndOfSentence | StopReason::NoExtension => Ok(parser.token_env.tok_trie().eos_token_set()),
                // It says why it has stopped.
                _ => parser.compute_mask(),
            }
        });
        catch_unwind(step).map(Vec::from).map_err(|cause| build::first_line(&cause.to_string()))
    }

    /// A short way from here to the end of the form, by way of the token `first` where there is one: tokens that the walk
    /// would take, the last of which ends the text. Of those looked at, it is the one with the fewest bytes; `None` where
    /// none of at most so many bytes was found.
    fn way(&mut self, first: Option<u32>, bytes_max: usize) -> Option<Vec<u32>> {
        let (parser, marks) = (&mut self.parser, &self.marks);
        if parser.stopped() {
            let end = parser.token_env.tok_trie().eos_token();
            let has_ended = matches!(parser.stop_reason(), StopReason::EndOfSentence | StopReason::NoExtension);
            return has_ended.then(|| vec![end]);
        }
        catch_unwind(AssertUnwindSafe(|| Ok(ending::way(parser, marks, first, bytes_max)))).ok().flatten()
    }

    /// True if the walk would take these tokens, one after another.
    fn takes(&mut self, tokens: &[u32]) -> bool {
        let parser = &mut self.parser;
        let taken = catch_unwind(AssertUnwindSafe(|| parser.validate_tokens_raw(tokens)));
        taken.is_ok_and(|taken| taken == tokens.len())
    }

    /// True if a token ends texts.
    fn ends(&self, token: u32) -> bool {
        self.parser.token_env.tok_trie().eos_tokens().contains(&token)
    }

    /// The bytes of a token.
    fn bytes(&self, token: u32) -> &[u8] {
        self.parser.token_env.tok_trie().token(token)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests measure")]
mod tests;
