//! A template's text, lowered: parsed as Jinja2, and written again so that every operator is a call of ours.
//!
//! The library's parser knows Jinja2's grammar and its rules of white space. What it parsed is printed as a template
//! of the library's own, in which nothing is left whose meaning differs from Python's: operators, subscripts and
//! attributes are calls, literals and text are constants of the environment. A part of Jinja2 that is missing is named
//! here, before any conversation meets it. Lines keep their numbers, for messages.

mod expressions;
mod printer;
mod statements;
mod tags;

use minijinja::Value;
use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;

use self::printer::Printer;

/// The longest template. Published ones have up to some fifty thousand bytes.
const BYTES_MAX: usize = 1 << 20;

/// The most branches, which the library's parser and compiler walk one within the other.
const BRANCHES_MAX: usize = 500;

/// A lowered template.
pub(super) struct Lowered {
    /// The library's template.
    pub(super) source: String,
    /// Its constants, by name.
    pub(super) constants: Vec<(String, Value)>,
}

/// Lowers a template.
///
/// # Errors
/// The text is no template, or it uses something that is missing here.
pub(super) fn lower(source: &str) -> Result<Lowered, String> {
    if source.len() > BYTES_MAX {
        return Err(format!("it has {} bytes; at most {BYTES_MAX} are read", source.len()));
    }
    if let Some(run) = source.split("elif").count().checked_sub(1).filter(|run| *run > BRANCHES_MAX) {
        return Err(format!("it has {run} `elif`; at most {BRANCHES_MAX} are read"));
    }
    let source = tags::in_library_tags(&source.replace("\r\n", "\n").replace('\r', "\n"))?;
    // transformers trims around blocks and, Jinja2's default, drops one line feed at the template's very end.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(false).build();
    let syntax = syntax.map_err(|error| error.to_string())?;
    let parsed = parse(&source, super::NAME, syntax).map_err(|error| super::describe(&error))?;
    let mut printer = Printer::new(source.len() * 2);
    printer.statement(&parsed)?;
    Ok(Lowered { source: printer.out, constants: printer.constants })
}
