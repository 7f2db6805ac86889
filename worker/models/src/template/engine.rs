//! Jinja2 as transformers sets it up, on top of `minijinja`.
//!
//! The library parses and runs; the meaning of every operator, test, filter and method is Python's and written here,
//! because the library's differs in small ways that change prompts (`none is iterable`, `undefined | length`,
//! `schema.items`, `-1` slices). A template is therefore [lowered](lower): its operators become calls of
//! [operators], its text and its literals constants. The library neither sees nor decides them.
//!
//! A template is foreign code. Its steps, the bytes and values it makes, the nesting of its values and its output are
//! all bounded ([budget]), so that no template can take a thread or the memory for long. Names of tokens, messages and
//! HTTP are not known here.

mod arguments;
mod budget;
mod clock;
mod compare;
mod filters;
mod format;
mod json;
mod lower;
mod methods;
mod namespace;
mod operators;
mod tests;
mod text;
mod words;

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

pub(super) use json::to_value;

/// The library's name for the template.
const NAME: &str = "chat_template";

/// Instructions of one rendering. A message takes some hundred; this many take a few seconds.
const FUEL: u64 = 20_000_000;

/// The stack on which a template is compiled: some kilobytes for each word of the longest tag that is read.
const STACK_BYTES: usize = 64 << 20;

/// The longest text a rendering may yield: far above any context window.
pub(super) const OUTPUT_BYTES_MAX: usize = 8 << 20;

/// A compiled template.
#[derive(Debug)]
pub(super) struct Engine {
    environment: Environment<'static>,
}

/// Errors of one rendering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The template called `raise_exception`, with these words.
    Raised(String),
    /// The template failed; the words say where.
    Failed(String),
    /// The text grew past [`OUTPUT_BYTES_MAX`].
    TooLarge,
    /// The template took too many steps, or made too much on its way.
    TooLong,
}

/// The argument of `raise_exception`, told apart from the library's own errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl Engine {
    /// Compiles a template.
    ///
    /// # Errors
    /// The text is no template, or uses a part of Jinja2 that is missing here; the words name it and its line.
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        // Parsers and compilers go as deep as a template is nested, each level on the stack.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("template".to_owned()).stack_size(STACK_BYTES);
            let thread = thread.spawn_scoped(scope, || Self::compile_here(source));
            let thread = thread.map_err(|error| format!("no thread to compile it on: {error}"))?;
            // A panic of the library's parser is a fault of the template.
            thread.join().unwrap_or_else(|_| Err("the template cannot be parsed".to_owned()))
        })
    }

    fn compile_here(source: &str) -> Result<Self, String> {
        let lowered = lower::lower(source)?;
        let mut environment = environment();
        for (name, value) in lowered.constants {
            environment.add_global(name, value);
        }
        environment.add_template_owned(NAME, lowered.source).map_err(|error| describe(&error))?;
        Ok(Self { environment })
    }

    /// Renders it with these variables; `now_unix_s` is what `strftime_now` sees, in UTC.
    pub(super) fn render(&self, mut variables: BTreeMap<&str, Value>, now_unix_s: u64) -> Result<String, Failure> {
        variables.insert("raise_exception", Value::from_function(raise_exception));
        let strftime_now = move |state: &mut State, format: &str| {
            // A directive may become some twenty characters.
            budget::charge(state, format.len().saturating_mul(32))?;
            Ok::<String, Error>(clock::strftime(format, now_unix_s))
        };
        variables.insert("strftime_now", Value::from_function(strftime_now));
        let mut output = Bounded { text: Vec::new(), full: false };
        let rendered = catch_unwind(AssertUnwindSafe(|| {
            let template = self.environment.get_template(NAME)?;
            template.render_captured_to(Value::from_pairs(variables), &mut output).map(drop)
        }));
        match rendered {
            // The library writes whole strings only, so this never replaces anything.
            Ok(Ok(())) => Ok(String::from_utf8_lossy(&output.text).into_owned()),
            _ if output.full => Err(Failure::TooLarge),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::Failed("an internal error".to_owned())),
        }
    }
}

/// The library without its own filters and tests, and with Jinja2's.
fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_debug(false);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(print);
    operators::register(&mut environment);
    tests::register(&mut environment);
    filters::register(&mut environment);
    environment
}

/// `{{ value }}`, as Python's `str` writes it.
fn print(output: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let text = text::of(state, value)?;
    budget::charge(state, text.len())?;
    output.write_str(&text).map_err(Error::from)
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message.to_string())))
}

fn failure(error: &Error) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return Failure::Raised(message.clone());
        }
        if current.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
            return Failure::TooLong;
        }
        cause = current.source();
    }
    Failure::Failed(describe(error))
}

/// The library's own words, with the line and without the template's text.
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
