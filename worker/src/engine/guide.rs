//! Restrictions of a sequence's tokens, as the engine sees them: masks, one for each token. No grammar, no thread.

use compute::sampler::PendingMask;

/// Restricts the tokens of one sequence.
pub trait Guide: std::fmt::Debug + Send {
    /// The mask of the next token: the first one, or the one after `previous`, which came last. It may be settled later,
    /// while the step that needs it is computed; with none, every token may come. What it allows depends on the tokens
    /// alone.
    fn next(&mut self, previous: Option<u32>) -> Option<PendingMask>;
}
