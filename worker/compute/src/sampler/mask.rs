//! Sets of allowed tokens: the part of a vocabulary that a grammar, or a list, leaves.

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
