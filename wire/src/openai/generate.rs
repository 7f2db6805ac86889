//! A request to generate text, independent of its endpoint: all that the engine's side knows of a request.
//!
//! It is built from the fields that the scan found, each by the setter of its row, so that every field is read in
//! one place.

use super::draft::Draft;
use super::endpoint::{Endpoint, Fate};
use super::error::ApiError;
use super::given::Given;
use super::message::{ChatMessage, Role};
use super::prompt::{PROMPTS_MAX, Prompt};
use super::sampling::{N_MAX, Sampling};
use super::scan::Scan;
use super::structure::Structure;
use super::tools::{ToolChoice, Tools};
use serde_json::{Map, Value};

pub use super::draft::{Opening, Output, Reasoning};

/// A request to generate text.
#[derive(Debug, Clone, PartialEq)]
pub struct Generate {
    /// The model asked for; `None` where the request names none.
    pub model: Option<String>,
    /// The text for the model.
    pub input: Input,
    /// The sampling parameters.
    pub sampling: Sampling,
    /// The tools that the answer may call.
    pub tools: Option<Tools>,
    /// The form of the answer's text, where one is asked for.
    pub structure: Option<Structure>,
    /// Thoughts before the answer.
    pub reasoning: Reasoning,
    /// The most tokens of a prompt: of a longer one those at its end are kept.
    pub truncate_prompt_tokens: Option<u32>,
    /// The way it is answered.
    pub output: Output,
}

/// The text for a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Messages, for the model's chat template.
    Conversation {
        /// Never empty.
        messages: Vec<ChatMessage>,
        /// vLLM's extra variables for the template, e.g. `enable_thinking`.
        variables: Map<String, Value>,
        /// Where the answer begins.
        opening: Opening,
    },
    /// One or more prompts; choices are numbered prompt by prompt.
    Prompts(Vec<Prompt>),
}

/// Reads a request from the fields that the scan of its body found.
///
/// # Errors
/// 400, naming the field that is missing, out of range or not supported. Numbers of sequences are checked before
/// anything is built.
pub fn parse(body: &[u8], scan: &Scan, endpoint: &Endpoint) -> Result<Generate, ApiError> {
    if scan.prompts() > PROMPTS_MAX {
        return Err(ApiError::invalid("prompt", format!("at most {PROMPTS_MAX} prompts in one request")));
    }
    if !(1..=N_MAX).contains(&scan.n()) {
        return Err(ApiError::invalid("n", format!("`n` must be between 1 and {N_MAX}, not {}", scan.n())));
    }
    fill(body, scan)?.finish(endpoint)
}

/// Fills a draft with the fields that the scan found.
pub(super) fn fill(body: &[u8], scan: &Scan) -> Result<Draft, ApiError> {
    if let Some(path) = scan.refused() {
        return Err(ApiError::unsupported(path, format!("`{path}` is not supported yet; leave it out")));
    }
    let mut draft = Draft::default();
    // What is refused is cheap to find: it comes before anything large is built.
    for (field, span) in scan.fields() {
        if let Fate::Refused(unless) = field.fate {
            Given { name: field.name, raw: span.of(body) }.refuse(unless)?;
        }
    }
    for (field, span) in scan.fields() {
        if let Fate::Honoured(set) = field.fate {
            set(&mut draft, Given { name: field.name, raw: span.of(body) })?;
        }
    }
    Ok(draft)
}

impl Draft {
    fn finish(mut self, endpoint: &Endpoint) -> Result<Generate, ApiError> {
        let required = |name: &str| ApiError::invalid(name, format!("`{name}` is required"));
        if self.has_stream_options && !self.output.stream {
            let message = "`stream_options` is only allowed when `stream` is true";
            return Err(ApiError::invalid("stream_options", message));
        }
        if self.sampling.prompt_logprobs.is_some() && self.output.stream {
            let message = "`prompt_logprobs` are of whole answers; leave out `stream`, or use `echo` with `logprobs` of completions";
            return Err(ApiError::invalid("prompt_logprobs", message));
        }
        match (self.wants_logprobs, self.top_logprobs) {
            (true, top) => self.sampling.logprobs = Some(top.unwrap_or(0)),
            (false, None | Some(0)) => {}
            (false, Some(_)) => {
                return Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs: true`"));
            }
        }
        self.sampling.max_tokens = self.max_completion_tokens.or(self.sampling.max_tokens).or(endpoint.max_tokens);
        self.sampling.check()?;
        if self.best_of.is_some_and(|best_of| best_of != self.sampling.n) {
            return Err(ApiError::unsupported(
                "best_of",
                "`best_of` other than `n` is not supported: all choices are returned; leave it out",
            ));
        }
        if let Some(effort) = self.reasoning_effort {
            if effort == "none" {
                // Templates have another word for it.
                self.variables.entry("enable_thinking").or_insert(false.into());
            }
            self.variables.entry("reasoning_effort").or_insert(effort.into());
        }
        let tools = Tools::of(self.tools, self.tool_choice, self.parallel_tool_calls)?;
        let input = match (self.messages, self.prompts) {
            (Some(messages), _) => {
                let opening = opening(self.add_generation_prompt, self.continue_final_message, &messages)?;
                Input::Conversation { messages, variables: self.variables, opening }
            }
            (None, Some(prompts)) => Input::Prompts(prompts),
            (None, None) => return Err(required(endpoint.prompt)),
        };
        let Self { model, mut sampling, structure, reasoning, truncate_prompt_tokens, output, .. } = self;
        if sampling.priority == 0 {
            sampling.tier_priority = self.tier_priority;
        }
        if let Some(structure) = &structure {
            sampling.check_with(&structure.param)?;
        }
        if tools.as_ref().is_some_and(|tools| tools.choice == ToolChoice::Required) {
            sampling.check_with("tool_choice")?;
        }
        Ok(Generate { model, input, sampling, tools, structure, reasoning, truncate_prompt_tokens, output })
    }
}

/// The end of a conversation, by what a request says of it.
fn opening(begins: Option<bool>, continues: bool, messages: &[ChatMessage]) -> Result<Opening, ApiError> {
    let param = "continue_final_message";
    match (continues, begins) {
        (false, None | Some(true)) => Ok(Opening::Answer),
        (false, Some(false)) => Ok(Opening::Nothing),
        (true, Some(true)) => {
            Err(ApiError::invalid(param, "`continue_final_message` and `add_generation_prompt` contradict each other"))
        }
        (true, _) if messages.last().is_some_and(|last| last.role == Role::Assistant && last.tool_calls.is_empty()) => {
            Ok(Opening::Continue)
        }
        (true, _) => Err(ApiError::invalid(
            param,
            "`continue_final_message` needs a last message of the assistant, without calls",
        )),
    }
}

#[cfg(test)]
mod tests;
