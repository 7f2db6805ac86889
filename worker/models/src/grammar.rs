//! Forms of text as sets of tokens: which tokens may come next, so that a text of a form becomes of that form.
//!
//! Schemas, regular expressions and grammars are compiled by llguidance, within bounds on size, work and depth; what it
//! cannot do it says, and nothing is done by halves. A grammar is compiled once and never changes; a walk along it is
//! of one sequence. What it allows depends on the form and the tokens alone. It knows no request, no thread that waits
//! and no sampling.

mod build;
mod vocabulary;

pub use build::{Calls, Shape};
pub use vocabulary::Vocabulary;

use llguidance::{Matcher, TokenParser};
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

/// A compiled form. Immutable: every walk begins with a copy.
pub struct Grammar(TokenParser);

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grammar")
    }
}

impl Grammar {
    /// A walk along it, at its beginning.
    #[must_use]
    pub fn walk(&self) -> Walk {
        Walk(Matcher::new(Ok(self.0.deep_clone())))
    }
}

/// A walk along a grammar, token by token.
pub struct Walk(Matcher);

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
    /// `previous` was not allowed, or the work that one token may take was not enough; the text says which.
    pub fn next(&mut self, previous: Option<u32>) -> Result<Vec<u32>, String> {
        let Self(matcher) = self;
        let step = previous.map_or(Ok(()), |token| matcher.consume_token(token));
        let mask = step.and_then(|()| matcher.compute_mask_or_eos());
        mask.map(Vec::from).map_err(|cause| build::first_line(&cause.to_string()))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests measure")]
mod tests;
