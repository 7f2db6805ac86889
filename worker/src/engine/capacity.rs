//! Upper bounds of an engine, which waiting does not change. A sequence beyond them is refused by whoever sees it first,
//! instead of holding up everyone behind it.
//!
//! It knows no request and no text; what is free at the moment is the scheduler's affair.

use super::options::EngineOptions;
use compute::backend::Limits;
use thiserror::Error;

/// The largest of everything that one sequence may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Positions of one sequence: the model's length, or fewer where the KV cache holds fewer.
    pub(super) positions: usize,
    /// KV blocks there are.
    pub(super) blocks: usize,
    /// Positions per KV block.
    pub(super) block_tokens: usize,
    /// Rows of a step.
    pub(super) rows: usize,
    /// Rows of logits of a step.
    pub(super) logits_rows: usize,
}

/// Reasons that a sequence can never be computed.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
pub enum Misfit {
    /// There is nothing to continue.
    #[error("the prompt is empty: the model needs at least one token")]
    Empty,
    /// A token is not in the vocabulary.
    #[error("the token id {token} is not below the vocabulary's {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// It is longer than any sequence may be.
    #[error("the model's length is {most} tokens and the sequence has {tokens}; shorten the prompt")]
    Length {
        /// Its length.
        tokens: usize,
        /// The longest that fits.
        most: usize,
    },
    /// The engine was started with a step of no rows.
    #[error("the engine was started without rows for a step; raise max_num_batched_tokens")]
    Rows,
}

impl Capacity {
    /// The capacity of a backend of these limits under these options.
    pub(super) fn of(limits: &Limits, options: &EngineOptions) -> Self {
        let held = limits.kv_blocks.saturating_mul(limits.kv_block_tokens);
        let of_step = if limits.is_whole { limits.max_rows } else { usize::MAX };
        Self {
            positions: options.max_model_len.min(limits.max_position).min(held).min(of_step),
            blocks: limits.kv_blocks,
            block_tokens: limits.kv_block_tokens,
            rows: limits.max_rows,
            logits_rows: limits.max_logits_rows,
        }
    }

    /// Refuses a sequence of `tokens` tokens that could never be computed, however long it waits. Every sequence needs
    /// a row of logits in the end, so how many of them it wants makes no difference.
    ///
    /// # Errors
    /// The bound that it exceeds.
    pub(super) fn check(&self, tokens: usize) -> Result<(), Misfit> {
        if tokens == 0 {
            return Err(Misfit::Empty);
        }
        let most = self.positions.min(self.blocks.saturating_mul(self.block_tokens));
        if tokens > most {
            return Err(Misfit::Length { tokens, most });
        }
        if self.rows == 0 || self.logits_rows == 0 {
            return Err(Misfit::Rows);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_to_the_last_position_is_taken_and_one_more_is_refused() {
        let whole = Capacity { positions: 40, blocks: 9, block_tokens: 4, rows: 8, logits_rows: 1 };
        assert_eq!((whole.check(36), whole.check(1)), (Ok(()), Ok(())));
        assert_eq!(whole.check(37), Err(Misfit::Length { tokens: 37, most: 36 }));
        assert_eq!(whole.check(usize::MAX), Err(Misfit::Length { tokens: usize::MAX, most: 36 }));
        assert_eq!(whole.check(0), Err(Misfit::Empty));
        assert_eq!(Capacity { positions: 35, ..whole }.check(36), Err(Misfit::Length { tokens: 36, most: 35 }));
        for none in [Capacity { rows: 0, ..whole }, Capacity { logits_rows: 0, ..whole }] {
            assert_eq!(none.check(1), Err(Misfit::Rows));
        }
    }
}
