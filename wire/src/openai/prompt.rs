//! Prompts of a completion, or inputs to embed: texts, or token ids.

use super::error::ApiError;
use super::given::Given;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// The most prompts in one request: each is a sequence.
pub(crate) const PROMPTS_MAX: u32 = 64;

/// A prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text, yet to be tokenised.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
}

/// A token id, also written as a float.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenId(pub(super) u32);

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect;
        impl Visitor<'_> for Expect {
            type Value = TokenId;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a token id, an integer of at least 0")
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<TokenId, E> {
                u32::try_from(id).map(TokenId).map_err(|_| E::custom("a token id fits 32 bits"))
            }

            fn visit_f64<E: Error>(self, id: f64) -> Result<TokenId, E> {
                if id.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&id) {
                    return Err(E::custom("a token id is an integer that fits 32 bits"));
                }
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was checked")]
                Ok(TokenId(id as u32))
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

/// The scan has told the four forms apart, and refused mixtures.
#[derive(Deserialize)]
#[serde(transparent)]
struct Ids(Vec<TokenId>);

impl From<Ids> for Prompt {
    fn from(Ids(ids): Ids) -> Self {
        Self::Tokens(ids.into_iter().map(|id| id.0).collect())
    }
}

/// A string, a list of strings, a list of token ids, or a list of such lists.
pub(super) fn prompts(given: Given<'_>) -> Result<Vec<Prompt>, ApiError> {
    let within = given.raw.get(1..).unwrap_or_default().trim_ascii_start();
    let prompts = match (given.raw.first(), within.first()) {
        (Some(b'"'), _) => vec![Prompt::Text(given.json()?)],
        (_, Some(b'"')) => given.json::<Vec<String>>()?.into_iter().map(Prompt::Text).collect(),
        (_, Some(b'[')) => given.json::<Vec<Ids>>()?.into_iter().map(Prompt::from).collect(),
        (_, Some(b']')) => Vec::new(),
        _ => vec![given.json::<Ids>()?.into()],
    };
    if prompts.is_empty() || prompts.iter().any(|prompt| matches!(prompt, Prompt::Tokens(ids) if ids.is_empty())) {
        let name = given.name;
        return Err(ApiError::invalid(name, format!("`{name}` must not be an empty list")));
    }
    Ok(prompts)
}
