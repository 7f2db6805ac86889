//! A conversation to the text the model was trained on, through the chat template its makers ship.
//!
//! Templates are Jinja, written for transformers; this room makes `minijinja` behave as transformers' Jinja does. A
//! template is foreign code: its work and its output are bounded. It does not know tokens or HTTP.

mod clock;
mod json;
mod source;

use crate::tokenizer::{TextError, TextFiles, Tokenizer};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use std::collections::BTreeMap;
use std::io;

/// The name minijinja knows the template by; it appears in error messages, with the line.
const NAME: &str = "chat_template";

/// Instructions one rendering may take: about a hundred a message suffice, and this many take about a second.
const FUEL: u64 = 20_000_000;

/// The longest text a rendering may yield: far above any context window.
const OUTPUT_BYTES_MAX: usize = 8 << 20;

/// A chat template, compiled once.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and its like.
    tokens: Vec<(&'static str, String)>,
}

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
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

/// What `raise_exception` was given, told apart from the engine's own errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Compiles the model's chat template; `None` when it ships none.
    ///
    /// # Errors
    /// When there is one, but it is no Jinja we can compile, or several and none is the default.
    pub fn parse(files: &TextFiles<'_>, tokenizer: &Tokenizer) -> Result<Option<Self>, TextError> {
        let Some(found) = source::find(files)? else { return Ok(None) };
        let mut environment = environment();
        environment
            .add_template_owned(NAME, source::without_generation_marks(&found.text))
            .map_err(|error| TextError::Template { file: found.file, problem: describe(&error) })?;
        let tokens = tokenizer.named_tokens().map(|(name, text)| (name, text.to_owned())).collect();
        Ok(Some(Self { environment, tokens }))
    }

    /// The prompt for a conversation, up to where the model's answer begins.
    ///
    /// `variables` are the client's extra variables; `now_unix_s` is what `strftime_now` sees, in UTC.
    ///
    /// # Errors
    /// When the template refuses these messages, or the bounds on work and output are met.
    pub fn render(
        &self,
        messages: &[wire::openai::ChatMessage],
        variables: &serde_json::Map<String, serde_json::Value>,
        now_unix_s: u64,
    ) -> Result<String, TemplateError> {
        let messages = messages.iter().map(|message| {
            Value::from_pairs([("role", message.role.template_name()), ("content", message.content.as_str())])
        });
        self.render_with(messages.collect(), variables, true, now_unix_s)
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
        self.render_with(json::to_value(messages), variables, add_generation_prompt, now_unix_s)
    }

    fn render_with(
        &self,
        messages: Value,
        variables: &serde_json::Map<String, serde_json::Value>,
        add_generation_prompt: bool,
        now_unix_s: u64,
    ) -> Result<String, TemplateError> {
        // transformers defines these two even when there are none.
        let mut context = BTreeMap::from([("tools", Value::from(())), ("documents", Value::from(()))]);
        context.extend(self.tokens.iter().map(|(name, text)| (*name, Value::from(text))));
        context.extend(variables.iter().map(|(name, value)| (name.as_str(), json::to_value(value))));
        // Ours come last: a client's variable must not stand in for them.
        context.insert("messages", messages);
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        context.insert("raise_exception", Value::from_function(raise_exception));
        context.insert("strftime_now", Value::from_function(move |format: &str| clock::strftime(format, now_unix_s)));
        let mut output = Bounded { text: Vec::new(), full: false };
        let rendered = self
            .environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(Value::from_pairs(context), &mut output).map(drop));
        match rendered {
            // The engine writes whole strings only, so this never replaces anything.
            Ok(()) => Ok(String::from_utf8_lossy(&output.text).into_owned()),
            Err(_) if output.full => Err(TemplateError::TooLarge),
            Err(error) => Err(refusal(&error)),
        }
    }
}

/// Jinja as transformers sets it up.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // transformers trims around blocks and, Jinja's default, drops one line feed at the template's very end.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(false).build();
    environment.set_syntax(syntax.expect("Jinja's own delimiters do not clash"));
    environment.set_debug(false);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(print_as_python_does);
    environment.add_filter("tojson", json::tojson);
    environment
}

/// `{{ value }}`: Python writes some values in other words than minijinja.
fn print_as_python_does(output: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match json::python_word(value) {
        Some(word) => output.write_str(&word).map_err(Error::from),
        None => minijinja::escape_formatter(output, state, value),
    }
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message.to_owned())))
}

fn refusal(error: &Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return TemplateError::Refused(message.clone());
        }
        if current.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
            return TemplateError::TooLong;
        }
        cause = current.source();
    }
    TemplateError::Refused(format!("the model's chat template failed on these messages: {}", describe(error)))
}

/// The engine's own words, with the line and without the template's text.
fn describe(error: &Error) -> String {
    let reason =
        error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    error.line().map_or_else(|| reason.clone(), |line| format!("{reason} (line {line})"))
}

/// A writer that refuses to grow past [`OUTPUT_BYTES_MAX`].
struct Bounded {
    text: Vec<u8>,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > OUTPUT_BYTES_MAX {
            self.full = true;
            return Err(io::Error::other("too much output"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
