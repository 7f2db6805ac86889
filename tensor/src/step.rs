//! The nouns of one step: what crosses from the scheduler to a device.

/// Which rows of a segment return logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantLogits {
    /// None: more of the prompt follows.
    None,
    /// The last row: the next token is to be sampled.
    Last,
    /// Every row: the prompt's own log probabilities were asked for.
    All,
}

/// A run of consecutive tokens of one sequence: a chunk of a prompt, or one decoded token.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// The first one's position: how many tokens of this sequence the KV blocks already hold.
    pub start: usize,
    /// The sequence's KV blocks, enough for `start + tokens.len()` positions.
    pub blocks: &'a [u32],
    /// Which logits come back.
    pub want: WantLogits,
}

/// Which weights of a backend: those it was built with are 0, and every installation counts on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);
