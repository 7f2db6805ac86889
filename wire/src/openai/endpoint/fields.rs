//! Fields that several endpoints share, and the members of messages. Names are those that OpenAI, vLLM, SGLang and
//! llama.cpp publish; `docs/semantics.md` lists them.

use super::row::{Fate, Field, Kind, Setter, TextRole};
use crate::openai::{sampling, structure};
use serde::Deserialize;

/// A field that is done.
pub(super) const fn honoured(name: &'static str, kind: Kind, set: Setter) -> Field {
    Field { name, kind, fate: Fate::Honoured(set), reaches: None }
}

/// A field that is known and not done, save for values that ask for nothing.
pub(super) const fn refused(name: &'static str, unless: &'static [&'static str]) -> Field {
    Field { name, kind: Kind::Any, fate: Fate::Refused(unless), reaches: None }
}

/// The same, whose strings can reach a prompt.
pub(super) const fn refused_text(name: &'static str, unless: &'static [&'static str], role: TextRole) -> Field {
    Field { reaches: Some(role), ..refused(name, unless) }
}

/// A hint without effect on the answer.
pub(super) const fn ignored(name: &'static str) -> Field {
    Field { name, kind: Kind::Any, fate: Fate::Ignored, reaches: None }
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

/// Fields of every endpoint that generates: the model, the stream, the sampling parameters.
pub(super) static GENERATION: &[Field] = &[
    honoured("model", Kind::Text, |draft, given| given.json().map(|name| draft.model = Some(name))),
    honoured("stream", Kind::Bool, |draft, given| {
        draft.output.stream = given.boolean();
        Ok(())
    }),
    honoured("stream_options", Kind::StreamOptions, |draft, given| {
        let options: StreamOptions = given.json()?;
        draft.has_stream_options = true;
        draft.output.include_usage = options.include_usage.unwrap_or(false);
        draft.output.continuous_usage = options.continuous_usage_stats.unwrap_or(false);
        Ok(())
    }),
    honoured("temperature", Kind::Number, |draft, given| {
        given.number(0.0, 2.0).map(|value| draft.sampling.temperature = Some(value))
    }),
    honoured("top_p", Kind::Number, |draft, given| {
        let instead = "use `temperature: 0` for greedy decoding";
        given.number_above(0.0, 1.0, instead).map(|value| draft.sampling.top_p = Some(value))
    }),
    honoured("top_k", Kind::Integer, |draft, given| {
        sampling::top_k(given).map(|value| draft.sampling.top_k = Some(value))
    }),
    honoured("min_p", Kind::Number, |draft, given| given.number(0.0, 1.0).map(|value| draft.sampling.min_p = value)),
    honoured("seed", Kind::Integer, |draft, given| sampling::seed(given).map(|seed| draft.sampling.seed = seed)),
    honoured("presence_penalty", Kind::Number, |draft, given| {
        given.number(-2.0, 2.0).map(|value| draft.sampling.presence_penalty = value)
    }),
    honoured("frequency_penalty", Kind::Number, |draft, given| {
        given.number(-2.0, 2.0).map(|value| draft.sampling.frequency_penalty = value)
    }),
    honoured("repetition_penalty", Kind::Number, |draft, given| {
        let instead = "1 is no penalty";
        given.number_above(0.0, 10.0, instead).map(|value| draft.sampling.repetition_penalty = Some(value))
    }),
    honoured("logit_bias", Kind::Object, |draft, given| {
        sampling::logit_bias(given).map(|bias| draft.sampling.logit_bias = bias)
    }),
    honoured("n", Kind::Integer, |draft, given| given.count(sampling::N_MAX).map(|n| draft.sampling.n = n)),
    honoured("max_tokens", Kind::Integer, |draft, given| {
        given.count(u32::MAX).map(|max| draft.sampling.max_tokens = Some(max))
    }),
    honoured("min_tokens", Kind::Integer, |draft, given| {
        given.count(u32::MAX).map(|min| draft.sampling.min_tokens = min)
    }),
    honoured("ignore_eos", Kind::Bool, |draft, given| {
        draft.sampling.ignore_eos = given.boolean();
        Ok(())
    }),
    honoured("stop", Kind::Texts, |draft, given| sampling::stop(given).map(|stop| draft.sampling.stop = stop)),
    honoured("stop_token_ids", Kind::Integers, |draft, given| {
        sampling::stop_token_ids(given).map(|ids| draft.sampling.stop_token_ids = ids)
    }),
    // vLLM
    honoured("allowed_token_ids", Kind::Integers, |draft, given| {
        sampling::allowed_token_ids(given).map(|ids| draft.sampling.allowed_token_ids = ids)
    }),
    Field {
        reaches: Some(TextRole::Definition),
        ..honoured("bad_words", Kind::Texts, |draft, given| {
            sampling::bad_words(given).map(|words| draft.sampling.bad_words = words)
        })
    },
    honoured("prompt_logprobs", Kind::Integer, |draft, given| {
        given.count(sampling::TOP_LOGPROBS_MAX).map(|count| draft.sampling.prompt_logprobs = Some(count))
    }),
    honoured("truncate_prompt_tokens", Kind::Integer, |draft, given| {
        let most = given.integer(-1, u32::MAX.into())?;
        draft.truncate_prompt_tokens = u32::try_from(most).ok();
        if most == 0 { Err(given.wrong("-1 or at least 1")) } else { Ok(()) }
    }),
    honoured("return_token_ids", Kind::Bool, |draft, given| {
        draft.output.token_ids = given.boolean();
        Ok(())
    }),
];

/// Fields of every endpoint that the engine has a queue for.
pub(super) static PLACE: &[Field] = &[
    // A tier is a priority, where the engine has any.
    honoured("service_tier", Kind::Text, |draft, given| {
        draft.tier_priority = sampling::service_tier(given);
        Ok(())
    }),
    honoured("priority", Kind::Integer, |draft, given| {
        given.integer(i64::MIN, i64::MAX).map(|priority| draft.sampling.priority = priority)
    }),
    honoured("cache_salt", Kind::Text, |draft, given| {
        sampling::cache_salt(given).map(|salt| draft.sampling.cache_salt = salt)
    }),
];

/// A field that asks for a form of the text.
const fn form(name: &'static str, kind: Kind, set: Setter) -> Field {
    Field { reaches: Some(TextRole::Definition), ..honoured(name, kind, set) }
}

/// Fields that ask for a form of the text.
pub(super) static STRUCTURE: &[Field] = &[
    form("response_format", Kind::Object, |draft, given| draft.set_structure(structure::response_format(given)?)),
    // vLLM
    form("structured_outputs", Kind::Object, |draft, given| draft.set_structure(structure::structured_outputs(given)?)),
    form("guided_json", Kind::Any, |draft, given| draft.set_structure(structure::json(given)?)),
    form("guided_regex", Kind::Text, |draft, given| draft.set_structure(structure::regex(given)?)),
    form("guided_choice", Kind::Any, |draft, given| draft.set_structure(structure::choice(given)?)),
    form("structural_tag", Kind::Any, |draft, given| draft.set_structure(structure::structural_tag(given)?)),
    form("guided_grammar", Kind::Text, |draft, given| draft.set_structure(structure::grammar(given)?)),
    // SGLang
    form("regex", Kind::Text, |draft, given| draft.set_structure(structure::regex(given)?)),
    form("ebnf", Kind::Text, |draft, given| draft.set_structure(structure::grammar(given)?)),
    // SGLang has it as a text, llama.cpp as an object.
    form("json_schema", Kind::Any, |draft, given| draft.set_structure(structure::json(given)?)),
    // llama.cpp
    form("grammar", Kind::Text, |draft, given| draft.set_structure(structure::grammar(given)?)),
];

/// Hints: whatever they say, the answer is the same.
pub(super) static HINTS: &[Field] = &[
    ignored("user"),
    ignored("metadata"),
    ignored("store"),
    ignored("safety_identifier"),
    ignored("prompt_cache_key"),
    ignored("prompt_cache_retention"),
    // vLLM; there is one engine of grammars.
    Field { reaches: Some(TextRole::Definition), ..ignored("guided_decoding_backend") },
    ignored("request_id"),
    ignored("session_id"),
    ignored("stream_interval"),
    // SGLang
    ignored("rid"),
    // llama.cpp
    ignored("cache_prompt"),
    ignored("id_slot"),
    ignored("n_cache_reuse"),
    ignored("n_keep"),
    ignored("preserved_tokens"),
];

/// Fields that ask for something we do not do, with the values that ask for nothing.
pub(super) static UNDONE: &[Field] = &[
    // vLLM
    refused_text("guided_whitespace_pattern", &["\"\""], TextRole::Definition),
    refused("logprob_token_ids", &["[]"]),
    refused("logits_processors", &["[]"]),
    refused("use_beam_search", &["false"]),
    refused("length_penalty", &["1"]),
    refused("early_stopping", &["false"]),
    refused("include_stop_str_in_output", &["false"]),
    refused("skip_special_tokens", &["true"]),
    refused("spaces_between_special_tokens", &["true"]),
    refused("truncation_side", &["\"left\"", "\"right\""]),
    refused("return_tokens_as_token_ids", &["false"]),
    refused("return_prompt_text", &["false"]),
    refused("repetition_detection", &[]),
    refused("watermarking", &["false"]),
    refused("detokenize", &["true"]),
    refused("kv_transfer_params", &["{}"]),
    refused("ec_transfer_params", &["{}"]),
    refused_text("vllm_xargs", &["{}"], TextRole::Variable),
    refused_text("mm_processor_kwargs", &["{}"], TextRole::Variable),
    refused_text("media_io_kwargs", &["{}"], TextRole::Variable),
    Field { kind: Kind::Tokens, ..refused("prompt_token_ids", &["[]"]) },
    refused("prompt_embeds", &["[]"]),
    // SGLang
    refused_text("stop_regex", &["\"\"", "[]"], TextRole::Definition),
    refused("no_stop_trim", &["false"]),
    refused_text("lora_path", &["\"\"", "[]"], TextRole::Variable),
    refused("session_params", &["{}"]),
    refused("stream_reasoning", &["true"]),
    refused("return_hidden_states", &["false"]),
    refused("return_routed_experts", &["false"]),
    refused("extra_key", &["\"\""]),
    refused_text("custom_logit_processor", &["\"\""], TextRole::Variable),
    refused_text("custom_params", &["{}"], TextRole::Variable),
    Field { kind: Kind::Tokens, ..refused("input_ids", &["[]"]) },
    // llama.cpp
    refused("grammar_lazy", &["false"]),
    refused_text("grammar_triggers", &["[]"], TextRole::Definition),
    refused("n_predict", &["-1"]),
    refused("n_indent", &["0"]),
    refused("n_probs", &["0"]),
    refused("min_keep", &["0"]),
    refused("typical_p", &["1"]),
    refused("dynatemp_range", &["0"]),
    refused("dynatemp_exponent", &["1"]),
    refused("repeat_penalty", &["1"]),
    refused("repeat_last_n", &["64", "0"]),
    refused("dry_multiplier", &["0"]),
    refused("xtc_probability", &["0"]),
    refused("mirostat", &["0"]),
    refused("top_n_sigma", &["-1"]),
    refused("samplers", &["[]"]),
    refused("post_sampling_probs", &["false"]),
    refused("return_tokens", &["false"]),
    refused("response_fields", &["[]"]),
    refused("t_max_predict_ms", &["0", "-1"]),
    refused("lora", &["[]"]),
    refused_text("image_data", &["[]"], TextRole::Unknown),
    refused_text("input_prefix", &["\"\""], TextRole::Prompt),
    refused_text("input_suffix", &["\"\""], TextRole::Prompt),
    refused_text("input_extra", &["[]"], TextRole::Prompt),
    refused_text("system_prompt", &["\"\""], TextRole::System),
];

const fn member(name: &'static str, kind: Kind, fate: Fate) -> Field {
    Field { name, kind, fate, reaches: None }
}

/// A member that the reading of its object takes.
const fn read(name: &'static str, kind: Kind) -> Field {
    member(name, kind, Fate::Honoured(|_, _| Ok(())))
}

/// Members of a message. The scan finds the texts in them whatever their names are.
pub(crate) static MESSAGE: &[Field] = &[
    read("role", Kind::Text),
    read("content", Kind::Any),
    ignored("cache_control"),
    refused("refusal", &["\"\""]),
    refused("audio", &[]),
    read("tool_calls", Kind::Any),
    read("tool_call_id", Kind::Any),
    // Thoughts of an answer, as it came.
    read("reasoning_content", Kind::Any),
    read("reasoning", Kind::Any),
    refused("function_call", &[]),
    refused("prefix", &["false"]),
    refused("partial", &["false"]),
];

/// Members of a content part.
pub(crate) static PART: &[Field] =
    &[read("type", Kind::Text), read("text", Kind::Text), ignored("cache_control"), ignored("annotations")];

/// Members of `stream_options`.
pub(crate) static STREAM_OPTIONS: &[Field] =
    &[read("include_usage", Kind::Bool), ignored("include_obfuscation"), read("continuous_usage_stats", Kind::Bool)];
