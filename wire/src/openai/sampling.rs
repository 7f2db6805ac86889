//! How tokens are chosen and when to stop: the part that chat and completion requests share.

use super::error::ApiError;
use std::collections::BTreeMap;

/// The most choices one request may ask for. vLLM has no bound; each choice is a sequence that
/// holds KV blocks, so we have one.
pub const N_MAX: u32 = 16;
/// The most alternatives per token, OpenAI's own bound.
pub const TOP_LOGPROBS_MAX: u32 = 20;
/// The most stop strings. OpenAI takes 4, vLLM any number.
pub const STOP_MAX: usize = 16;
/// The longest stop string in bytes: it bounds what a stream must hold back.
pub const STOP_BYTES_MAX: usize = 256;
/// The most entries of `logit_bias`, OpenAI's own bound.
pub const LOGIT_BIAS_MAX: usize = 300;

/// The longest `cache_salt` in bytes: it is a secret or a name, not a text.
pub const CACHE_SALT_BYTES_MAX: usize = 256;

/// Validated sampling parameters. `None` means "as the model's `generation_config.json` says".
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
    /// How many choices.
    pub n: u32,
    /// The most tokens to generate per choice.
    pub max_tokens: Option<u32>,
    /// The fewest tokens before an end is allowed.
    pub min_tokens: u32,
    /// Whether the end-of-sequence token is an ordinary one.
    pub ignore_eos: bool,
    /// Strings that end the text and are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the text and are not part of it.
    pub stop_token_ids: Vec<u32>,
    /// `None`: no log probabilities. `Some(k)`: the chosen token's and those of the `k` likeliest.
    pub logprobs: Option<u32>,
    /// vLLM's `priority`: lower goes first, 0 where nothing is said.
    pub priority: i64,
    /// vLLM's `cache_salt`: prefixes are shared among requests of one salt; empty where nothing is said.
    pub cache_salt: String,
}

/// The raw fields, as they were typed; see `request_with_sampling`.
#[derive(Debug, Default)]
pub(super) struct RawSampling {
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) top_k: Option<i64>,
    pub(super) min_p: Option<f64>,
    pub(super) seed: Option<i64>,
    pub(super) presence_penalty: Option<f64>,
    pub(super) frequency_penalty: Option<f64>,
    pub(super) repetition_penalty: Option<f64>,
    pub(super) logit_bias: Option<BTreeMap<String, f64>>,
    pub(super) n: Option<u32>,
    pub(super) max_tokens: Option<u32>,
    pub(super) min_tokens: Option<u32>,
    pub(super) ignore_eos: Option<bool>,
    pub(super) stop: Option<super::parse::OneOrMany>,
    pub(super) stop_token_ids: Option<Vec<u32>>,
    pub(super) priority: Option<i64>,
    pub(super) cache_salt: Option<String>,
}

impl RawSampling {
    pub(super) fn validate(self, logprobs: Option<u32>) -> Result<Sampling, ApiError> {
        let sampling = Sampling {
            temperature: in_range("temperature", self.temperature, 0.0, 2.0)?,
            top_p: in_range("top_p", self.top_p, 0.0, 1.0)?,
            top_k: top_k(self.top_k)?,
            min_p: in_range("min_p", self.min_p, 0.0, 1.0)?.unwrap_or(0.0),
            seed: self.seed,
            presence_penalty: in_range("presence_penalty", self.presence_penalty, -2.0, 2.0)?.unwrap_or(0.0),
            frequency_penalty: in_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?.unwrap_or(0.0),
            repetition_penalty: in_range("repetition_penalty", self.repetition_penalty, 0.0, 10.0)?,
            logit_bias: logit_bias(self.logit_bias.unwrap_or_default())?,
            n: self.n.unwrap_or(1),
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens.unwrap_or(0),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            stop: stop(self.stop)?,
            stop_token_ids: self.stop_token_ids.unwrap_or_default(),
            logprobs,
            priority: self.priority.unwrap_or(0),
            cache_salt: cache_salt(self.cache_salt)?,
        };
        if sampling.top_p == Some(0.0) {
            return Err(ApiError::invalid(
                "top_p",
                "`top_p` must be above 0; use `temperature: 0` for greedy decoding",
            ));
        }
        if sampling.repetition_penalty == Some(0.0) {
            return Err(ApiError::invalid(
                "repetition_penalty",
                "`repetition_penalty` must be above 0; 1 is no penalty",
            ));
        }
        if sampling.n == 0 || sampling.n > N_MAX {
            return Err(ApiError::invalid("n", format!("`n` must be between 1 and {N_MAX}, not {}", sampling.n)));
        }
        if let Some(max) = sampling.max_tokens
            && sampling.min_tokens > max
        {
            return Err(ApiError::invalid(
                "min_tokens",
                format!("`min_tokens` ({}) exceeds the most tokens allowed ({max})", sampling.min_tokens),
            ));
        }
        if sampling.stop_token_ids.len() > LOGIT_BIAS_MAX {
            return Err(ApiError::invalid("stop_token_ids", format!("at most {LOGIT_BIAS_MAX} `stop_token_ids`")));
        }
        Ok(sampling)
    }
}

/// Checks a number's range; JSON has no NaN, and a number too large for a double is refused by the
/// parser, so only the range is left.
fn in_range(name: &str, value: Option<f64>, low: f64, high: f64) -> Result<Option<f32>, ApiError> {
    match value {
        None => Ok(None),
        #[expect(clippy::cast_possible_truncation, reason = "within a small range; precision is not at stake")]
        Some(value) if (low..=high).contains(&value) => Ok(Some(value as f32)),
        Some(value) => Err(ApiError::invalid(name, format!("`{name}` must be between {low} and {high}, not {value}"))),
    }
}

/// vLLM's convention: −1 and 0 both mean "all".
fn top_k(value: Option<i64>) -> Result<Option<u32>, ApiError> {
    match value {
        None => Ok(None),
        Some(-1) => Ok(Some(0)),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| ApiError::invalid("top_k", format!("`top_k` must be −1 (all) or at least 0, not {value}"))),
    }
}

fn logit_bias(raw: BTreeMap<String, f64>) -> Result<Vec<(u32, f32)>, ApiError> {
    if raw.len() > LOGIT_BIAS_MAX {
        return Err(ApiError::invalid("logit_bias", format!("at most {LOGIT_BIAS_MAX} entries in `logit_bias`")));
    }
    raw.into_iter()
        .map(|(token, bias)| {
            let path = format!("logit_bias.{token}");
            let id = token.parse::<u32>().map_err(|_| {
                ApiError::invalid(path.clone(), "the keys of `logit_bias` are token ids, such as \"1024\"")
            })?;
            Ok((id, in_range(&path, Some(bias), -100.0, 100.0)?.unwrap_or(0.0)))
        })
        .collect()
}

/// As in vLLM, a salt that is given is not empty.
fn cache_salt(raw: Option<String>) -> Result<String, ApiError> {
    match raw {
        None => Ok(String::new()),
        Some(salt) if (1..=CACHE_SALT_BYTES_MAX).contains(&salt.len()) => Ok(salt),
        Some(salt) => {
            let message = format!("a `cache_salt` has 1 to {CACHE_SALT_BYTES_MAX} bytes, not {}", salt.len());
            Err(ApiError::invalid("cache_salt", message))
        }
    }
}

fn stop(raw: Option<super::parse::OneOrMany>) -> Result<Vec<String>, ApiError> {
    let stop = raw.map(super::parse::OneOrMany::into_vec).unwrap_or_default();
    if stop.len() > STOP_MAX {
        return Err(ApiError::invalid("stop", format!("at most {STOP_MAX} stop strings, not {}", stop.len())));
    }
    for (index, text) in stop.iter().enumerate() {
        if text.is_empty() || text.len() > STOP_BYTES_MAX {
            let path = format!("stop[{index}]");
            return Err(ApiError::invalid(
                path,
                format!("a stop string has 1 to {STOP_BYTES_MAX} bytes, not {}", text.len()),
            ));
        }
    }
    Ok(stop)
}
