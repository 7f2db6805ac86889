//! Sampling parameters and stop conditions, which all generating endpoints share.

use super::error::ApiError;
use super::given::Given;
use std::collections::BTreeMap;

/// The most choices one request may ask for. vLLM has no bound; each choice is a sequence that
/// holds KV blocks, so we have one.
pub(crate) const N_MAX: u32 = 16;
/// The most alternatives per token, OpenAI's own bound.
pub(crate) const TOP_LOGPROBS_MAX: u32 = 20;
/// The most stop strings. OpenAI takes 4, vLLM any number.
pub(crate) const STOP_MAX: usize = 16;
/// The longest stop string in bytes: it bounds what a stream must hold back.
pub(crate) const STOP_BYTES_MAX: usize = 256;
/// The most entries of `logit_bias`, OpenAI's own bound.
pub(crate) const LOGIT_BIAS_MAX: usize = 300;
/// The most entries of `bad_words`.
const BAD_WORDS_MAX: usize = 128;
/// The longest `cache_salt` in bytes: it is a secret or a name, not a text.
pub(crate) const CACHE_SALT_BYTES_MAX: usize = 256;

/// Checked sampling parameters. `None` means "as the model's `generation_config.json` says".
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 (greedy) to 2.
    pub temperature: Option<f32>,
    /// Above 0, to 1.
    pub top_p: Option<f32>,
    /// The most likely tokens to choose among; 0 is all.
    pub top_k: Option<u32>,
    /// 0 to 1, relative to the most likely token.
    pub min_p: f32,
    /// Same seed, same tokens.
    pub seed: Option<i64>,
    /// −2 to 2, for tokens already generated.
    pub presence_penalty: f32,
    /// −2 to 2, times the number of occurrences.
    pub frequency_penalty: f32,
    /// Above 0; 1 is none. Counts the prompt too (Keskar et al. 2019).
    pub repetition_penalty: Option<f32>,
    /// Token id to bias, −100 to 100.
    pub logit_bias: Vec<(u32, f32)>,
    /// The number of choices.
    pub n: u32,
    /// The most tokens to generate per choice.
    pub max_tokens: Option<u32>,
    /// The fewest tokens before an end is allowed.
    pub min_tokens: u32,
    /// Treat the end-of-sequence token as an ordinary one.
    pub ignore_eos: bool,
    /// Strings that end the text and are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the text and are not part of it.
    pub stop_token_ids: Vec<u32>,
    /// `None`: no log probabilities. `Some(k)`: the chosen token's and those of the `k` likeliest.
    pub logprobs: Option<u32>,
    /// `None`: no log probabilities of the prompt. `Some(k)`: each token's and those of the `k` likeliest in its place.
    pub prompt_logprobs: Option<u32>,
    /// The only tokens that may come; all if none.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Words that may not come.
    pub bad_words: Vec<String>,
    /// Priority by `service_tier`, where the request gives none itself: a hint.
    pub tier_priority: i64,
    /// vLLM's `priority`: lower goes first, 0 where nothing is said.
    pub priority: i64,
    /// vLLM's `cache_salt`: prefixes are shared among requests of one salt; empty where nothing is said.
    pub cache_salt: String,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: 0.0,
            seed: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: None,
            logit_bias: Vec::new(),
            n: 1,
            max_tokens: None,
            min_tokens: 0,
            ignore_eos: false,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            allowed_token_ids: None,
            bad_words: Vec::new(),
            tier_priority: 0,
            priority: 0,
            cache_salt: String::new(),
        }
    }
}

impl Sampling {
    /// Checks what fields must be to one another.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        match self.max_tokens {
            Some(max) if self.min_tokens > max => {
                let message = format!("`min_tokens` ({}) exceeds the most tokens allowed ({max})", self.min_tokens);
                Err(ApiError::invalid("min_tokens", message))
            }
            _ => Ok(()),
        }
    }
}

impl Sampling {
    /// Refuses what contradicts a form of the text that `param` asks for: its end is where the form has one.
    pub(super) fn check_with(&self, param: &str) -> Result<(), ApiError> {
        let contradicts = [("min_tokens", self.min_tokens > 0), ("ignore_eos", self.ignore_eos)];
        match contradicts.iter().find(|(_, is_set)| *is_set) {
            None => Ok(()),
            Some((name, _)) => {
                let message = format!("`{name}` and `{param}` contradict each other: the form decides on the end");
                Err(ApiError::invalid(*name, message))
            }
        }
    }
}

/// vLLM's convention: −1 and 0 both mean "all".
pub(super) fn top_k(given: Given<'_>) -> Result<u32, ApiError> {
    // A top k beyond any vocabulary is all, too.
    Ok(u32::try_from(given.integer(-1, u32::MAX.into())?.max(0)).unwrap_or(0))
}

/// −1 means "draw one", as in vLLM, SGLang and llama.cpp.
pub(super) fn seed(given: Given<'_>) -> Result<Option<i64>, ApiError> {
    Ok(Some(given.integer(i64::MIN, i64::MAX)?).filter(|seed| *seed != -1))
}

pub(super) fn logit_bias(given: Given<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let raw: BTreeMap<String, f64> = given.json()?;
    if raw.len() > LOGIT_BIAS_MAX {
        return Err(given.wrong(&format!("an object of at most {LOGIT_BIAS_MAX} entries")));
    }
    let entry = |(token, bias): (String, f64)| {
        let path = format!("logit_bias.{token}");
        let id = token
            .parse::<u32>()
            .map_err(|_| ApiError::invalid(path.clone(), "the keys of `logit_bias` are token ids, such as \"1024\""))?;
        #[expect(clippy::cast_possible_truncation, reason = "within a small range; precision is not at stake")]
        if (-100.0..=100.0).contains(&bias) {
            return Ok((id, bias as f32));
        }
        Err(ApiError::invalid(path.clone(), format!("`{path}` must be between -100 and 100, not {bias}")))
    };
    raw.into_iter().map(entry).collect()
}

/// As in vLLM, a salt that is given is not empty.
pub(super) fn cache_salt(given: Given<'_>) -> Result<String, ApiError> {
    let salt: String = given.json()?;
    if (1..=CACHE_SALT_BYTES_MAX).contains(&salt.len()) {
        return Ok(salt);
    }
    let message = format!("a `cache_salt` has 1 to {CACHE_SALT_BYTES_MAX} bytes, not {}", salt.len());
    Err(ApiError::invalid("cache_salt", message))
}

pub(super) fn stop(given: Given<'_>) -> Result<Vec<String>, ApiError> {
    let stop = if given.raw.starts_with(b"\"") { vec![given.json()?] } else { given.json::<Vec<String>>()? };
    if stop.len() > STOP_MAX {
        return Err(ApiError::invalid("stop", format!("at most {STOP_MAX} stop strings, not {}", stop.len())));
    }
    for (index, text) in stop.iter().enumerate() {
        if text.is_empty() || text.len() > STOP_BYTES_MAX {
            let message = format!("a stop string has 1 to {STOP_BYTES_MAX} bytes, not {}", text.len());
            return Err(ApiError::invalid(format!("stop[{index}]"), message));
        }
    }
    Ok(stop)
}

/// Words that may not come, within the bounds of stop strings.
pub(super) fn bad_words(given: Given<'_>) -> Result<Vec<String>, ApiError> {
    let words: Vec<String> = given.json()?;
    if words.len() > BAD_WORDS_MAX || words.iter().any(|word| word.is_empty() || word.len() > STOP_BYTES_MAX) {
        return Err(given.wrong(&format!("a list of at most {BAD_WORDS_MAX} words of 1 to {STOP_BYTES_MAX} bytes")));
    }
    Ok(words)
}

/// The only tokens that may come; an empty list is refused, as in vLLM.
pub(super) fn allowed_token_ids(given: Given<'_>) -> Result<Option<Vec<u32>>, ApiError> {
    let ids: Vec<super::prompt::TokenId> = given.json()?;
    if ids.is_empty() {
        return Err(given.wrong("a list of at least one token id"));
    }
    Ok(Some(ids.into_iter().map(|id| id.0).collect()))
}

/// OpenAI's `service_tier` as a priority: lower goes first.
pub(super) fn service_tier(given: Given<'_>) -> i64 {
    match given.raw {
        b"\"priority\"" => -1,
        b"\"flex\"" => 1,
        _ => 0,
    }
}

pub(super) fn stop_token_ids(given: Given<'_>) -> Result<Vec<u32>, ApiError> {
    let ids: Vec<super::prompt::TokenId> = given.json()?;
    if ids.len() > LOGIT_BIAS_MAX {
        return Err(given.wrong(&format!("a list of at most {LOGIT_BIAS_MAX} token ids")));
    }
    Ok(ids.into_iter().map(|id| id.0).collect())
}
