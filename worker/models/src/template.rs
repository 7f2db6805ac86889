//! A conversation to the text the model was trained on, through the chat template its makers ship.
//!
//! Templates are Jinja2, written for transformers; the engine here renders them alike, within bounds. A template that uses
//! something the engine lacks does not keep a model from being served: it is known by what it lacks, and conversations
//! are refused with those words. Tokens and HTTP are not known here.

mod engine;
mod source;

use std::collections::BTreeMap;

use minijinja::Value;
use wire::openai::generate::Opening;
use wire::openai::{ChatMessage, template_messages};

use crate::tokenizer::{TextFiles, Tokenizer};
use engine::{Engine, Failure, OUTPUT_BYTES_MAX};

/// A model's chat template, compiled once.
#[derive(Debug)]
pub struct ChatTemplate {
    text: String,
    engine: Result<Engine, TemplateError>,
    /// `bos_token` and its like.
    tokens: Vec<(String, serde_json::Value)>,
}

/// Errors of rendering a conversation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The model's template cannot be used, whatever the conversation.
    #[error("the model's chat template ({file}) cannot be used here: {problem}; use /v1/completions")]
    Unusable {
        /// The file that holds it.
        file: &'static str,
        /// The missing feature, or the fault.
        problem: String,
    },
    /// The template refused the messages, in its own words, or failed on them.
    #[error("{0}")]
    Refused(String),
    /// The text grew past the bound.
    #[error("the rendered conversation is longer than {OUTPUT_BYTES_MAX} bytes")]
    TooLarge,
    /// The template ran too long: it does not end, or the conversation has far too many messages.
    #[error("the chat template took too many steps for this conversation")]
    TooLong,
}

impl ChatTemplate {
    /// Compiles the model's chat template; `None` when it ships none.
    #[must_use]
    pub fn parse(files: &TextFiles<'_>, tokenizer: &Tokenizer) -> Option<Self> {
        let found = match source::find(files) {
            Ok(None) => return None,
            Ok(Some(found)) => Ok(found),
            Err(fault) => Err(fault),
        };
        let text = found.as_ref().map(|found| found.text.to_string()).unwrap_or_default();
        let engine = found.and_then(|found| {
            let unusable = |problem| TemplateError::Unusable { file: found.file, problem };
            Engine::compile(&found.text).map_err(unusable)
        });
        let tokens = tokenizer.named_tokens().map(|(name, token)| (name.to_owned(), token.clone())).collect();
        Some(Self { text, engine, tokens })
    }

    /// Its source.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if it reads the variable of this name.
    #[must_use]
    pub fn reads(&self, variable: &str) -> bool {
        self.text.contains(variable)
    }

    /// The error of every rendering, if the template cannot be used.
    #[must_use]
    pub fn fault(&self) -> Option<&TemplateError> {
        self.engine.as_ref().err()
    }

    /// The prompt for a conversation, up to where the model's answer begins.
    ///
    /// With another `opening` it ends elsewhere. `tools` are those that the model may call, as the request has them; `variables` are the client's extra
    /// variables; `now_unix_s` is what `strftime_now` sees, in UTC.
    ///
    /// # Errors
    /// The template refuses these messages, or the bounds on work and output are met, or it cannot be used at all.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        tools: &[&serde_json::Value],
        variables: &serde_json::Map<String, serde_json::Value>,
        opening: Opening,
        now_unix_s: u64,
    ) -> Result<String, TemplateError> {
        let values = template_messages(messages).iter().map(engine::to_value).collect();
        let rendered = self.render_with(values, tools, variables, opening == Opening::Answer, now_unix_s)?;
        match messages.last() {
            Some(last) if opening == Opening::Continue => until_last(rendered, last.content.trim()),
            _ => Ok(rendered),
        }
    }

    /// As [`ChatTemplate::render`], for messages with any fields (tool calls, parts), as `messages` would be in
    /// transformers' `apply_chat_template`; with `add_generation_prompt` false the answer is not begun.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_json(
        &self,
        messages: &serde_json::Value,
        variables: &serde_json::Map<String, serde_json::Value>,
        add_generation_prompt: bool,
        now_unix_s: u64,
    ) -> Result<String, TemplateError> {
        self.render_with(engine::to_value(messages), &[], variables, add_generation_prompt, now_unix_s)
    }

    fn render_with(
        &self,
        messages: Value,
        tools: &[&serde_json::Value],
        variables: &serde_json::Map<String, serde_json::Value>,
        add_generation_prompt: bool,
        now_unix_s: u64,
    ) -> Result<String, TemplateError> {
        let engine = self.engine.as_ref().map_err(Clone::clone)?;
        // transformers defines these two even when there are none.
        let mut context = BTreeMap::from([("tools", Value::from(())), ("documents", Value::from(()))]);
        context.extend(self.tokens.iter().map(|(name, token)| (name.as_str(), engine::to_value(token))));
        context.extend(variables.iter().map(|(name, value)| (name.as_str(), engine::to_value(value))));
        // Ours come last: a client's variable must not stand in for them.
        if !tools.is_empty() {
            context.insert("tools", tools.iter().map(|tool| engine::to_value(tool)).collect());
        }
        context.insert("messages", messages);
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        engine.render(context, now_unix_s).map_err(|failure| match failure {
            Failure::Raised(words) => TemplateError::Refused(words),
            Failure::Failed(words) => {
                TemplateError::Refused(format!("the model's chat template failed on these messages: {words}"))
            }
            Failure::TooLarge => TemplateError::TooLarge,
            Failure::TooLong => TemplateError::TooLong,
        })
    }
}

/// The conversation up to the end of its last message's content, so that what follows continues it.
fn until_last(mut rendered: String, content: &str) -> Result<String, TemplateError> {
    let Some(at) = rendered.rfind(content) else {
        let words = "the model's chat template changes the last message, so that it cannot be continued";
        return Err(TemplateError::Refused(words.into()));
    };
    rendered.truncate(at + content.len());
    Ok(rendered)
}
