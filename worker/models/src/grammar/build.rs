//! From a form to what the engine of grammars reads, within bounds on its size and depth.

use super::GrammarError;
use crate::calls::{Format, Framing};
use crate::thoughts::{Begun, Marks};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};
use std::fmt::Write;
use wire::openai::structure::{Form, Structure};
use wire::openai::tools::Tool;

/// The most objects and lists of a schema, nested or not: each may be a level of recursion.
const NODES_MAX: usize = 8_192;
/// The deepest nesting of brackets in a grammar or an expression.
const NESTING_MAX: usize = 64;
/// The most bytes of a reason.
const REASON_BYTES_MAX: usize = 512;
/// White space between the tokens of JSON: a space, or a line break and its indentation. More is room to ramble.
const WHITE_SPACE: &str = r"(\x20|\x0A\x20{0,24}|\x0A\x09{0,8})";

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

/// The spelling of a text that may be a special token of the model.
pub(super) type Spell<'a> = &'a dyn Fn(&str) -> String;

/// The grammar of a shape. Where it has several parts, each is a grammar of its own beside the one that joins them.
pub(super) fn grammar(shape: &Shape, spell: Spell<'_>) -> Result<TopLevelGrammar, GrammarError> {
    if let Shape { text: Some(text), calls: None, thoughts: None } = shape {
        return Ok(TopLevelGrammar::from_grammar(self::text(text)?));
    }
    let mut rules = String::new();
    let mut parts = Vec::new();
    let mut answers = Vec::new();
    if let Some(text) = &shape.text {
        parts.push(named(self::text(text)?, "text"));
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

/// The grammar of a text.
fn text(form: &Structure) -> Result<GrammarWithLexer, GrammarError> {
    Ok(match &form.form {
        Form::Json => schema(json!({"type": "object"}), form.is_compact, false)?,
        Form::Schema(given) => schema(given.clone(), form.is_compact, false)?,
        Form::Regex(expression) => {
            check_nesting(expression)?;
            GrammarWithLexer::from_regex(expression)
        }
        Form::Choice(choices) => GrammarWithLexer::from_lark(choice(choices)),
        Form::Grammar(text) => {
            check_nesting(text)?;
            GrammarWithLexer::from_lark(text.clone())
        }
    })
}

/// The grammar of a schema. How JSON is spaced is ours to say, and unless it is lenient nothing is done by halves.
fn schema(given: Value, is_compact: bool, is_lenient: bool) -> Result<GrammarWithLexer, GrammarError> {
    let nodes = nodes(&given);
    if nodes > NODES_MAX {
        return Err(GrammarError::TooLarge { count: nodes, of: "objects and lists", most: NODES_MAX });
    }
    let mut schema = if given == Value::Bool(true) { json!({}) } else { given };
    if let Some(members) = schema.as_object_mut() {
        let options = if is_compact {
            json!({"whitespace_flexible": false, "lenient": is_lenient})
        } else {
            json!({"whitespace_pattern": WHITE_SPACE, "lenient": is_lenient})
        };
        members.insert("x-guidance".into(), options);
    }
    Ok(GrammarWithLexer::from_json_schema(schema))
}

/// The objects and lists in a value.
fn nodes(value: &Value) -> usize {
    let mut count = 0;
    let mut rest = vec![value];
    while let Some(value) = rest.pop() {
        match value {
            Value::Object(members) => {
                count += 1;
                rest.extend(members.values());
            }
            Value::Array(items) => {
                count += 1;
                rest.extend(items);
            }
            _ => {}
        }
    }
    count
}

/// Lark's spelling of one of some texts.
fn choice(choices: &[String]) -> String {
    let mut grammar = "start: ".to_owned();
    for (at, text) in choices.iter().enumerate() {
        let or = if at == 0 { "" } else { " | " };
        // Lark's strings are JSON's. Writing to a string does not fail.
        _ = write!(grammar, "{or}{}", Value::from(text.as_str()));
    }
    grammar
}

/// Refuses brackets nested deeper than the parsers of grammars should follow. Escapes and quotes are not understood:
/// what is counted is at least the nesting.
fn check_nesting(text: &str) -> Result<(), GrammarError> {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest <= NESTING_MAX {
        return Ok(());
    }
    Err(GrammarError::TooLarge { count: deepest, of: "nested brackets", most: NESTING_MAX })
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
