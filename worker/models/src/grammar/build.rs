//! From a form to what the engine of grammars reads, within bounds on its size and depth.

use super::text::{choice, grammar as written, regex, schema};
use super::{GrammarError, Spell, parts};
use crate::calls::{Format, Framing};
use crate::thoughts::{Begun, Marks};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};
use std::fmt::Write;
use wire::openai::structure::{Form, Structure};
use wire::openai::tools::Tool;

/// The most bytes of a reason.
const REASON_BYTES_MAX: usize = 512;
/// The most calls in one answer, where their form is ours.
const CALLS_MAX: usize = 16;

/// The form that an answer must have.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Of its text.
    pub text: Option<Structure>,
    /// Calls of tools, instead of text.
    pub calls: Option<Calls>,
    /// Thoughts come first, or may.
    pub thoughts: Option<(&'static Marks, Begun)>,
}

/// Calls that an answer must have, or may have instead of its text.
#[derive(Debug, Clone)]
pub struct Calls {
    /// Their format.
    pub format: &'static Format,
    /// The tools, at least one.
    pub tools: Vec<Tool>,
    /// There may be several calls.
    pub parallel: bool,
}

/// The grammar of a shape. Where it has several parts, each is a grammar of its own beside the one that joins them.
pub(super) fn grammar(shape: &Shape, spell: Spell<'_>) -> Result<TopLevelGrammar, GrammarError> {
    if let Shape { text: Some(text), calls: None, thoughts: None } = shape {
        return Ok(TopLevelGrammar { grammars: self::text(text, spell)?, max_tokens: None });
    }
    let mut rules = String::new();
    let mut parts = Vec::new();
    let mut answers = Vec::new();
    if let Some(text) = &shape.text {
        parts = self::text(text, spell)?;
        parts.iter_mut().take(1).for_each(|part| part.name = Some("text".into()));
        answers.push("@text");
    }
    if let Some(calls) = &shape.calls {
        self::calls(calls, spell, &mut rules, &mut parts)?;
        answers.push("calls");
    }
    let thoughts = shape.thoughts.map_or("", |(marks, begun)| thoughts(marks, begun, spell, &mut rules));
    let start = format!("start: {thoughts} answer\nanswer: {}\n{rules}", answers.join(" | "));
    let joined = GrammarWithLexer::from_lark(start);
    Ok(TopLevelGrammar { grammars: [vec![joined], parts].concat(), max_tokens: None })
}

fn named(grammar: GrammarWithLexer, name: &str) -> GrammarWithLexer {
    GrammarWithLexer { name: Some(name.to_owned()), ..grammar }
}

/// Rules for thoughts; returns what stands for them.
fn thoughts(marks: &Marks, begun: Begun, spell: Spell<'_>, rules: &mut String) -> &'static str {
    let end = spell(marks.end);
    // A special token is no part of a regular expression: thoughts end before it.
    let within = if end.starts_with('<') {
        format!("thoughts: THOUGHT {end} BLANK?\n")
    } else {
        format!("thoughts: thought BLANK?\nthought[lazy]: THOUGHT {end}\n")
    };
    // Writing to a string does not fail.
    _ = write!(rules, "{within}THOUGHT: /(.|\\n)*/\nBLANK: /[ \\n]{{1,4}}/\nbegun: {} thoughts\n", spell(marks.begin));
    match begun {
        Begun::Over => "",
        Begun::Maybe => "begun?",
        Begun::Within => "thoughts",
    }
}

/// Rules for calls, and a grammar for the arguments of each tool.
fn calls(
    calls: &Calls,
    spell: Spell<'_>,
    rules: &mut String,
    parts: &mut Vec<GrammarWithLexer>,
) -> Result<(), GrammarError> {
    let Framing { before, open, close, between, after, arguments } = calls.format.framing(calls.parallel);
    let mut names = Vec::new();
    for (at, tool) in calls.tools.iter().enumerate() {
        let (call, own) = (format!("call_{at}"), format!("arguments_{at}"));
        let head = format!("{{\"name\": {}, \"{arguments}\": ", Value::from(tool.name.as_str()));
        // Writing to a string does not fail.
        _ = writeln!(rules, "{call}: {} @{own} \"}}\"", Value::from(head));
        parts.push(named(arguments_of(tool)?, &own));
        names.push(call);
    }
    let literal = |texts: &[&str]| texts.iter().map(|text| spell(text)).collect::<Vec<_>>().join(" ");
    let more = match calls.parallel {
        true => format!("({} one){{0,{}}}", literal(between), CALLS_MAX - 1),
        false => String::new(),
    };
    let one = format!("one: {} ({}) {}", literal(open), names.join(" | "), literal(close));
    _ = writeln!(rules, "calls: {} one {more} {}\n{one}", literal(before), literal(after));
    Ok(())
}

/// The grammar of a tool's arguments. What is not to be strict is kept to as far as it can be.
fn arguments_of(tool: &Tool) -> Result<GrammarWithLexer, GrammarError> {
    let given = tool.parameters.clone();
    let none = || json!({"type": "object", "properties": {}, "additionalProperties": false});
    let mut given = given.unwrap_or_else(none);
    if let Some(members) = given.as_object_mut() {
        // Arguments are an object, whether or not the schema says so.
        members.entry("type").or_insert_with(|| "object".into());
    }
    schema(given, false, !tool.is_strict)
}

/// The grammar of a text, and those that it refers to.
fn text(form: &Structure, spell: Spell<'_>) -> Result<Vec<GrammarWithLexer>, GrammarError> {
    Ok(vec![match &form.form {
        Form::Json => schema(json!({"type": "object"}), form.is_compact, false)?,
        Form::Schema(given) => schema(given.clone(), form.is_compact, false)?,
        Form::Regex(expression) => regex(expression)?,
        Form::Choice(choices) => choice(choices),
        Form::Grammar(text) => written(text)?,
        Form::Parts(part) => return parts::grammars(part, spell),
    }])
}

/// The first line of a reason, cut where it is long.
pub(super) fn first_line(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default();
    // Its words are for those who mend it.
    if line.starts_with("panic") {
        return "the engine of grammars failed on it".into();
    }
    line[..line.floor_char_boundary(REASON_BYTES_MAX)].to_owned()
}
