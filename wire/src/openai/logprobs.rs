//! Log probabilities of a prompt's tokens, as vLLM writes them in whole answers.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One entry for each token of a prompt: the token itself and the likeliest in its place, by their ids. `null` for the
/// first, which nothing foretells.
pub type PromptLogprobs = Vec<Option<BTreeMap<u32, PromptLogprob>>>;

/// The log probability of one token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptLogprob {
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// Its place among all tokens, 1 for the likeliest; `null` where it is beyond those that were asked for.
    pub rank: Option<u32>,
    /// Its text.
    pub decoded_token: String,
}
