//! Names of full KV blocks. A name says the weights, the block's tokens and everything before them, so that two blocks of
//! one name hold the same keys and values, whoever computed them, in whatever process.
//!
//! Inside an engine a block is known by a [`Prefix`], a chain of digests that begins at a salt, and by the generation of
//! its weights. Who has another salt has other prefixes, and can neither find a block nor learn from the time of an answer
//! that it is there. Outside it has a [`BlockName`], which is rooted in the identity of the weights: that may be known
//! long after the first block is full. It knows no block and no sequence.

use compute::backend::Generation;
use std::fmt;
use wire::status::WeightsIdentity;

/// Separates these digests from all others.
const PREFIX_CONTEXT: &str = "forebay kv block prefix 2";
const NAME_CONTEXT: &str = "forebay kv block name 2";
const IDENTITY_CONTEXT: &str = "forebay kv identity 2";

/// Separates the prefix caches of callers that must not learn of each other: a digest of the tenant, where a router
/// names one, and of the request's own `cache_salt`.
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

/// The origin of keys and values besides tokens: a digest of the weights' bytes, of the model's description and of
/// what the backend makes of its matrices. Workers with equal identities compute equal keys and values.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    digest: [u8; 32],
    is_public: bool,
}

impl Identity {
    /// The identity of weights whose bytes have a digest, computed as the canonical `description` says.
    #[must_use]
    pub fn of(weights: &[u8; 32], description: &[u8], preparation: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(IDENTITY_CONTEXT);
        // The length goes first, so that no two pairs read the same.
        hasher.update(weights).update(&(description.len() as u64).to_le_bytes());
        hasher.update(description).update(preparation.as_bytes());
        Self { digest: *hasher.finalize().as_bytes(), is_public: true }
    }

    /// The identity of weights whose bytes nobody hashed: like no other, from random bytes.
    #[must_use]
    pub(crate) fn private(random: [u8; 32]) -> Self {
        Self { digest: random, is_public: false }
    }

    /// True if every worker with the same weights has it.
    pub(crate) const fn is_public(&self) -> bool {
        self.is_public
    }

    /// As `/status` says it.
    #[must_use]
    pub fn status(&self) -> WeightsIdentity {
        WeightsIdentity { digest: self.to_string(), is_public: self.is_public }
    }
}

/// All 32 bytes in hexadecimal.
impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digest.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Identity({self}, public: {})", self.is_public)
    }
}

/// A digest of a salt, of a block's tokens and of all tokens before them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Prefix([u8; 32]);

impl Prefix {
    /// The prefix before the first block.
    pub(super) fn root(salt: &CacheSalt) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(PREFIX_CONTEXT);
        hasher.update(&salt.0);
        Self(*hasher.finalize().as_bytes())
    }

    /// The prefix with the block of `tokens` that follows.
    pub(super) fn then(&self, tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(PREFIX_CONTEXT);
        hasher.update(&self.0);
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// Its last block's name, computed with these weights.
    pub(super) fn name(&self, weights: &Identity) -> BlockName {
        let mut hasher = blake3::Hasher::new_derive_key(NAME_CONTEXT);
        hasher.update(&weights.digest).update(&self.0);
        BlockName(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// The key of a full block within an engine: its tokens and everything before them, and the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) generation: Generation,
    pub(super) prefix: Prefix,
}

/// The published name of a full block: BLAKE3 of the weights' identity and of its prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockName([u8; 32]);

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
    use std::collections::HashSet;

    #[test]
    fn a_name_says_salt_weights_and_everything_before() {
        let weights = Identity::of(&[1; 32], b"a", "stored");
        let name = |salt, blocks: &[&[u32]]| {
            let prefix = blocks.iter().fold(Prefix::root(&salt), |prefix, tokens| prefix.then(tokens));
            prefix.name(&weights)
        };
        let plain = CacheSalt::default();
        let names = [
            name(plain, &[&[1, 2]]),
            name(plain, &[&[2, 1]]),
            name(plain, &[&[1], &[2]]),
            name(CacheSalt::new("a", "b"), &[&[1, 2]]),
            name(CacheSalt::new("ab", ""), &[&[1, 2]]),
            name(CacheSalt::new("", "ab"), &[&[1, 2]]),
        ];
        assert_eq!(HashSet::from(names).len(), names.len());
        assert_eq!(names[0], name(plain, &[&[1, 2]]));
    }

    #[test]
    fn equal_weights_give_equal_names_and_others_never() {
        let prefix = Prefix::root(&CacheSalt::default()).then(&[1, 2]);
        let identities = [
            Identity::of(&[1; 32], b"a", "stored"),
            Identity::of(&[2; 32], b"a", "stored"),
            Identity::of(&[1; 32], b"b", "stored"),
            Identity::of(&[1; 32], b"a", "q8_0"),
            Identity::of(&[1; 32], b"as", "tored"),
            Identity::private([1; 32]),
            Identity::private([2; 32]),
        ];
        let names: HashSet<BlockName> = identities.iter().map(|identity| prefix.name(identity)).collect();
        assert_eq!(names.len(), identities.len());
        assert!(names.contains(&prefix.name(&Identity::of(&[1; 32], b"a", "stored"))));
        assert!(identities[0].status().is_public && !identities[5].status().is_public);
    }
}
