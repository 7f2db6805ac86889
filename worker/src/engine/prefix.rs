//! Names of full KV blocks. A name says the block's tokens and everything before them, so that two blocks of one name
//! hold the same keys and values, whoever computed them.
//!
//! The chain begins at the weights' generation and at a salt: who has another salt has other names, and can neither
//! find a block nor learn from the time of an answer that it is there. It knows no block and no sequence.

use compute::backend::Generation;
use std::fmt;

/// Separates these digests from all others.
const CONTEXT: &str = "forebay kv block name 1";

/// What keeps the prefix caches of those apart who are not to learn of each other: a digest of the tenant, where a
/// router names one, and of the request's own `cache_salt`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CacheSalt([u8; 32]);

impl CacheSalt {
    /// The salt of who is known by `tenant` and asked for `own`; both empty is everybody's salt.
    #[must_use]
    pub fn new(tenant: &str, own: &str) -> Self {
        if tenant.is_empty() && own.is_empty() {
            return Self::default();
        }
        let mut hasher = blake3::Hasher::new_derive_key("forebay cache salt 1");
        // The length goes first, so that no two pairs read the same.
        hasher.update(&(tenant.len() as u64).to_le_bytes()).update(tenant.as_bytes()).update(own.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }
}

/// The name of a full block: BLAKE3 of the name before, or of salt and generation, and of its tokens.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockName([u8; 32]);

impl BlockName {
    /// What the first block's name is made from.
    pub(super) fn root(salt: &CacheSalt, generation: Generation) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&salt.0).update(&generation.0.to_le_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The name of the block of `tokens` that follows `self`.
    pub(super) fn then(&self, tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&self.0);
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}

/// The first 16 bytes in hexadecimal: enough to tell blocks apart.
impl fmt::Display for BlockName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..16].iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for BlockName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BlockName({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_salt_weights_and_everything_before() {
        let root = |salt, generation| BlockName::root(&salt, Generation(generation));
        let plain = root(CacheSalt::default(), 0);
        let names = [
            plain.then(&[1, 2]),
            plain.then(&[2, 1]),
            plain.then(&[1]).then(&[2]),
            root(CacheSalt::default(), 1).then(&[1, 2]),
            root(CacheSalt::new("a", "b"), 0).then(&[1, 2]),
            root(CacheSalt::new("ab", ""), 0).then(&[1, 2]),
            root(CacheSalt::new("", "ab"), 0).then(&[1, 2]),
        ];
        let distinct: std::collections::HashSet<BlockName> = names.into_iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert_eq!(names[0], plain.then(&[1, 2]));
    }
}
