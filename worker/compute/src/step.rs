//! One step as a value: what crosses from the scheduler to a device. Numbers and borrowed lists, nothing computed.

use crate::sampler::Choice;
use tensor::Generation;

/// Consecutive tokens of one sequence: a chunk of a prompt, or one token to continue.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The tokens.
    pub input: Input<'a>,
    /// The first one's position: how many tokens of this sequence the KV blocks already hold, or will hold when the
    /// steps launched before have been computed.
    pub start: usize,
    /// The sequence's KV blocks, enough for every position up to the segment's end.
    pub blocks: &'a [u32],
    /// The wanted result.
    pub want: Want<'a>,
}

/// The tokens of a segment.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// These, at least one.
    Tokens(&'a [u32]),
    /// The one token that the segment of this index chooses in the step launched before, which was not collected yet.
    Previous(usize),
}

/// The result that is wanted of a segment.
#[derive(Debug, Clone, Copy)]
pub enum Want<'a> {
    /// Nothing: more of the prompt follows.
    Nothing,
    /// The token after the last row.
    Token(Choice<'a>),
    /// Log probabilities of the tokens of `next`, each after its row, from the first row on; then perhaps the token after
    /// the last.
    Scores {
        /// At most one for each row.
        next: &'a [u32],
        /// Number of the likeliest tokens to report beside each.
        top: usize,
        /// Choice of the token after the last row.
        then: Option<Choice<'a>>,
    },
    /// Hidden states after the final norm.
    Hidden(Pooling),
    /// Scores of the classes that a model has, of a whole sequence.
    Classes,
}

/// Selection of hidden states. Means are left to the caller: a prompt may be computed in several steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Those of every row.
    Every,
    /// That of the first row.
    First,
    /// That of the last row.
    Last,
    /// The sum of those of every row.
    Sum,
}

/// One step.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The weights it is computed with.
    pub generation: Generation,
    /// Each of another sequence.
    pub segments: &'a [Segment<'a>],
}

impl Segment<'_> {
    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        match self.input {
            Input::Tokens(tokens) => tokens.len(),
            Input::Previous(_) => 1,
        }
    }

    /// The position after its last token.
    #[must_use]
    pub fn end(&self) -> usize {
        self.start + self.rows()
    }

    /// The rows that go through the final norm, and on to the head unless hidden states are wanted.
    #[must_use]
    pub fn picked(&self) -> Picked {
        let rows = self.rows();
        match self.want {
            Want::Nothing => Picked { scored: 0, last: false },
            Want::Hidden(Pooling::First) => Picked { scored: 1, last: false },
            // A sum, of a segment of classes as well, takes the place of the last row.
            Want::Token(_) | Want::Hidden(Pooling::Last | Pooling::Sum) | Want::Classes => {
                Picked { scored: 0, last: true }
            }
            Want::Hidden(Pooling::Every) => Picked { scored: rows, last: false },
            Want::Scores { next, then, .. } => Picked { scored: next.len(), last: then.is_some() && next.len() < rows },
        }
    }
}

/// The rows of a segment that something is wanted of: the first `scored`, and perhaps the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picked {
    /// Number of rows from the first on.
    pub scored: usize,
    /// True if the last row comes after those.
    pub last: bool,
}

impl Picked {
    /// Number of rows.
    #[must_use]
    pub fn count(self) -> usize {
        self.scored + usize::from(self.last)
    }

    /// True if a row is among them, of a segment of so many rows.
    #[must_use]
    pub fn contains(self, row: usize, rows: usize) -> bool {
        row < self.scored || (self.last && row + 1 == rows)
    }
}
