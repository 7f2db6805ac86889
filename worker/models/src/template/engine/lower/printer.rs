//! The lowered template as it is written: text, line by line, and constants.

use std::fmt::Write as _;

use minijinja::Value;
use minijinja::machinery::Span;

use crate::template::engine::operators::PREFIX;

/// Nothing, or what is missing.
pub(super) type Lowering = Result<(), String>;

/// A template that is being written.
pub(super) struct Printer {
    pub(super) out: String,
    /// The line that is being written.
    line: u16,
    pub(super) constants: Vec<(String, Value)>,
}

/// Something that is missing here.
pub(super) fn missing(what: &str, span: Span) -> String {
    format!("{what} is not supported (line {})", span.start_line)
}

/// A name that a template may give.
pub(super) fn name(name: &str, span: Span) -> Result<&str, String> {
    if name.starts_with(PREFIX) { Err(missing(&format!("the name `{name}`"), span)) } else { Ok(name) }
}

impl Printer {
    /// A printer at line 1.
    pub(super) fn new(bytes: usize) -> Self {
        Self { out: String::with_capacity(bytes), line: 1, constants: Vec::new() }
    }

    /// Goes to the line of something, within a tag.
    pub(super) fn go(&mut self, span: Span) {
        while self.line < span.start_line {
            self.out.push('\n');
            self.line += 1;
        }
    }

    pub(super) fn push(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Writes the name of a constant.
    pub(super) fn constant(&mut self, value: Value) {
        let name = format!("{PREFIX}c{}", self.constants.len());
        self.out.push_str(&name);
        self.constants.push((name, value));
    }

    /// `{% end… %}`.
    pub(super) fn end(&mut self, tag: &str) {
        let _ = write!(self.out, "{{% {tag} %}}");
    }
}
