//! Sets of allowed tokens: the part of a vocabulary that a grammar, or a list, leaves.

use std::sync::{Arc, OnceLock};

/// Tokens that may come, one bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u64>,
}

impl Mask {
    /// A mask that allows nothing of a vocabulary of this size.
    #[must_use]
    pub fn none(vocabulary: usize) -> Self {
        Self { words: vec![0; vocabulary.div_ceil(64)] }
    }

    /// A mask that allows all of a vocabulary of this size.
    #[must_use]
    pub fn all(vocabulary: usize) -> Self {
        Self { words: vec![!0; vocabulary.div_ceil(64)] }
    }

    /// The mask that allows this token alone.
    #[must_use]
    pub fn one(token: u32) -> Self {
        let mut mask = Self::none(token as usize + 1);
        mask.allow(token);
        mask
    }

    /// The mask of these words, 32 tokens each, the lowest bit first.
    #[must_use]
    pub fn from_words(words: &[u32]) -> Self {
        let word = |pair: &[u32]| u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 32;
        Self { words: words.chunks(2).map(word).collect() }
    }

    /// Allows no token that `other` does not allow.
    pub fn narrow(&mut self, other: &Self) {
        for (at, word) in self.words.iter_mut().enumerate() {
            *word &= other.words.get(at).copied().unwrap_or(0);
        }
    }

    /// Forbids a token.
    pub fn forbid(&mut self, token: u32) {
        if let Some(word) = self.words.get_mut(token as usize / 64) {
            *word &= !(1 << (token % 64));
        }
    }

    /// True if no token may come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Allows a token; one beyond the vocabulary is none.
    pub fn allow(&mut self, token: u32) {
        if let Some(word) = self.words.get_mut(token as usize / 64) {
            *word |= 1 << (token % 64);
        }
    }

    /// True if a token may come.
    #[must_use]
    pub fn allows(&self, token: u32) -> bool {
        self.words.get(token as usize / 64).is_some_and(|word| word >> (token % 64) & 1 == 1)
    }

    /// Gives every token that may not come no probability. Tokens beyond the mask may not come.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        let (masked, beyond) = logits.split_at_mut(logits.len().min(self.words.len() * 64));
        for (chunk, &word) in masked.chunks_mut(64).zip(&self.words) {
            // Grammars allow few tokens: most words are empty.
            if word == 0 {
                chunk.fill(f32::NEG_INFINITY);
                continue;
            }
            for (bit, logit) in chunk.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        beyond.fill(f32::NEG_INFINITY);
    }
}

/// A mask that may still be computed while the step runs that needs it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct PendingMask(Arc<OnceLock<Result<Mask, String>>>);

impl PendingMask {
    /// A mask that is there.
    #[must_use]
    pub fn ready(mask: Mask) -> Self {
        Self(Arc::new(OnceLock::from(Ok(mask))))
    }

    /// Settles it: a mask, or why there is none. The first call counts.
    pub fn settle(&self, mask: Result<Mask, String>) {
        // Settled before: nobody can be told otherwise.
        _ = self.0.set(mask);
    }

    /// Waits until it is settled.
    ///
    /// # Errors
    /// There is no mask; the text says why.
    pub fn wait(&self) -> Result<&Mask, &str> {
        self.0.wait().as_ref().map_err(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mask_is_waited_for_and_settled_once() {
        let pending = PendingMask::default();
        let waiter = std::thread::spawn({
            let pending = pending.clone();
            move || pending.wait().map(|mask| mask.allows(33)).map_err(str::to_owned)
        });
        pending.settle(Ok(Mask::from_words(&[0, 2])));
        pending.settle(Err("too late".into()));
        assert_eq!(waiter.join().expect("ends"), Ok(true));
    }

    #[test]
    fn words_of_32_bits_are_read_in_order_and_narrowed() {
        let mut mask = Mask::from_words(&[1, 2, 4]);
        let allowed = |mask: &Mask| (0..200).filter(|&token| mask.allows(token)).collect::<Vec<_>>();
        assert_eq!(allowed(&mask), [0, 33, 66]);
        mask.narrow(&Mask::from_words(&[1, 2]));
        assert_eq!(allowed(&mask), [0, 33]);
        mask.forbid(0);
        mask.forbid(33);
        assert!(mask.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_not_allowed_has_no_probability(
            vocabulary in 1_usize..300,
            logits in 1_usize..300,
            tokens in prop::collection::btree_set(0_u32..320, 0..20),
        ) {
            let mut mask = Mask::none(vocabulary);
            tokens.iter().for_each(|&token| mask.allow(token));
            let mut found = vec![1.0_f32; logits];
            mask.apply(&mut found);
            for (token, logit) in (0..).zip(found) {
                let is_allowed = tokens.contains(&token) && (token as usize) < vocabulary.next_multiple_of(64);
                prop_assert_eq!(mask.allows(token), is_allowed);
                prop_assert_eq!(logit, if is_allowed { 1.0 } else { f32::NEG_INFINITY });
            }
        }
    }
}
