//! Forms of text as what the engine of grammars reads, within bounds on their size and depth.

use super::literal::literal;
use super::{GrammarError, gbnf};
use llguidance::api::GrammarWithLexer;
use serde_json::{Value, json};
use std::fmt::Write;

/// The most objects and lists of a schema, nested or not: each may be a level of recursion.
const NODES_MAX: usize = 8_192;
/// The deepest nesting of brackets in a grammar or an expression.
const NESTING_MAX: usize = 64;
/// White space between the tokens of JSON: a space, or a line break and its indentation. More is room to ramble.
const WHITE_SPACE: &str = r"(\x20|\x0A\x20{0,24}|\x0A\x09{0,8})";

/// The grammar of a schema. How JSON is spaced is ours to say, and unless it is lenient nothing is done by halves.
pub(super) fn schema(given: Value, is_compact: bool, is_lenient: bool) -> Result<GrammarWithLexer, GrammarError> {
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

/// The grammar of a regular expression.
pub(super) fn regex(expression: &str) -> Result<GrammarWithLexer, GrammarError> {
    check_nesting(expression)?;
    Ok(GrammarWithLexer::from_regex(expression))
}

/// The grammar of a grammar, whose language shows by its first words.
pub(super) fn grammar(text: &str) -> Result<GrammarWithLexer, GrammarError> {
    check_nesting(text)?;
    let lark = if gbnf::is_gbnf(text) { gbnf::to_lark(text).map_err(GrammarError::Refused)? } else { text.to_owned() };
    Ok(GrammarWithLexer::from_lark(lark))
}

/// The grammar of one of some texts.
pub(super) fn choice(choices: &[String]) -> GrammarWithLexer {
    let mut grammar = "start: ".to_owned();
    for (at, text) in choices.iter().enumerate() {
        let or = if at == 0 { "" } else { " | " };
        // Writing to a string does not fail.
        _ = write!(grammar, "{or}{}", literal(text));
    }
    GrammarWithLexer::from_lark(grammar)
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
