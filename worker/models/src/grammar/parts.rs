//! Texts that are put together from parts, as grammars: one that joins them, and one for each part with a form of its own.
//!
//! Free text ends before what must follow it, wherever that comes first. A mark may hold special tokens of the model, which
//! no free text has.

use super::literal::literal;
use super::text::{grammar, regex, schema};
use super::{GrammarError, Spell};
use llguidance::api::GrammarWithLexer;
use std::fmt::Write;
use wire::openai::structure::tags::{Count, Part, Tag};

/// The grammars of a text, the one that joins them first.
pub(super) fn grammars(part: &Part, spell: Spell<'_>) -> Result<Vec<GrammarWithLexer>, GrammarError> {
    let mut joiner = Joiner { spell, rules: "FREE: /(.|\\n)*/\n".into(), names: 0, grammars: Vec::new() };
    let start = joiner.part(part)?;
    let joined = GrammarWithLexer::from_lark(format!("start: {start}\n{}", joiner.rules));
    joiner.grammars.insert(0, joined);
    Ok(joiner.grammars)
}

/// The pieces of a text, in order: those in brackets, `<so>` or `[so]`, which may be special tokens, and what is between
/// them.
#[must_use]
pub fn bracketed(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut from = 0;
    for (at, open) in text.match_indices(['<', '[']) {
        let close = if open == "<" { '>' } else { ']' };
        let inner = &text[at + 1..];
        // The innermost pair counts.
        let Some(length) = inner.find(close).filter(|&end| at >= from && !inner[..end].contains(open)) else {
            continue;
        };
        let end = at + length + 2;
        pieces.extend([&text[from..at], &text[at..end]]);
        from = end;
    }
    pieces.push(&text[from..]);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// Rules of the grammar that joins parts, as far as they are written.
struct Joiner<'a> {
    spell: Spell<'a>,
    rules: String,
    /// Names that were given.
    names: usize,
    /// Grammars of parts.
    grammars: Vec<GrammarWithLexer>,
}

impl Joiner<'_> {
    /// An expression for a part.
    fn part(&mut self, part: &Part) -> Result<String, GrammarError> {
        Ok(match part {
            Part::Text(text) => self.spelled(text).join(" "),
            Part::Free => "FREE".into(),
            Part::Schema(given) => self.apart(schema(given.clone(), false, false)?),
            Part::Regex(expression) => self.apart(regex(expression)?),
            Part::Grammar(text) => self.apart(grammar(text)?),
            Part::Sequence(parts) => self.all(parts, " ")?,
            Part::Or(parts) => self.all(parts, " | ")?,
            Part::Tag(tag) => {
                let begin = self.spelled(&tag.begin).join(" ");
                format!("{begin} {}", self.rest(tag)?)
            }
            Part::Triggered { triggers, tags, count } => self.triggered(triggers, tags, *count)?,
            Part::Separated { separator, tags, count } => {
                let tags = tags.iter().map(|tag| self.part(&Part::Tag(Box::new(tag.clone()))));
                let one = format!("({})", tags.collect::<Result<Vec<_>, _>>()?.join(" | "));
                let separator = self.spelled(separator).join(" ");
                let more = if count.stop_after_first { String::new() } else { format!("({separator} {one})*") };
                format!("({one} {more}){}", if count.at_least_one { "" } else { "?" })
            }
        })
    }

    fn all(&mut self, parts: &[Part], between: &str) -> Result<String, GrammarError> {
        let parts = parts.iter().map(|part| self.part(part)).collect::<Result<Vec<_>, _>>()?;
        Ok(format!("({})", parts.join(between)))
    }

    /// A grammar of its own.
    fn apart(&mut self, grammar: GrammarWithLexer) -> String {
        let name = format!("part_{}", self.grammars.len());
        self.grammars.push(GrammarWithLexer { name: Some(name.clone()), ..grammar });
        format!("@{name}")
    }

    /// A tag after its beginning.
    fn rest(&mut self, tag: &Tag) -> Result<String, GrammarError> {
        let is_free = tag.content == Part::Free;
        let ends =
            tag.ends.iter().map(|end| if is_free { self.up_to("FREE", end) } else { self.spelled(end).join(" ") });
        let ends = format!("({})", ends.collect::<Vec<_>>().join(" | "));
        Ok(if is_free { ends } else { format!("{} {ends}", self.part(&tag.content)?) })
    }

    /// Tags within text that has no trigger.
    fn triggered(&mut self, triggers: &[String], tags: &[Tag], count: Count) -> Result<String, GrammarError> {
        let plain = self.name();
        let all: Vec<String> = triggers.iter().map(|trigger| literal(trigger)).collect();
        // Writing to a string does not fail.
        _ = writeln!(self.rules, "P{plain}: FREE & ~(FREE ({}) FREE)", all.join(" | "));
        let before = format!("P{plain}");
        let mut one = Vec::new();
        for tag in tags {
            let begin = self.up_to(&before, &tag.begin);
            one.push(format!("{begin} {}", self.rest(tag)?));
        }
        let one = format!("({})", one.join(" | "));
        Ok(match (count.at_least_one, count.stop_after_first) {
            (true, true) => one,
            (false, true) => format!("({one} | {before})"),
            (true, false) => format!("({one}+ {before})"),
            (false, false) => format!("({one}* {before})"),
        })
    }

    /// Text of a terminal, up to this mark and with it.
    fn up_to(&mut self, terminal: &str, mark: &str) -> String {
        let pieces = self.spelled(mark);
        let number = self.name();
        let special = pieces.iter().position(|piece| piece.starts_with('<'));
        let (lead, rest) = pieces.split_at(special.unwrap_or(pieces.len()));
        let lead = lead.join(" ");
        // Writing to a string does not fail.
        _ = if special.is_some() {
            // A special token is no part of an expression: the text ends before it.
            writeln!(self.rules, "U{number}: {terminal} {lead}\nu{number}: U{number} {}", rest.join(" "))
        } else {
            writeln!(self.rules, "u{number}[lazy]: {terminal} {lead}")
        };
        format!("u{number}")
    }

    fn name(&mut self) -> usize {
        self.names += 1;
        self.names
    }

    /// The pieces of a mark: texts, and special tokens.
    fn spelled(&self, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        let mut plain = String::new();
        for piece in bracketed(text) {
            let spelling = (self.spell)(piece);
            if spelling.starts_with('<') {
                out.extend((!plain.is_empty()).then(|| literal(&std::mem::take(&mut plain))));
                out.push(spelling);
            } else {
                plain.push_str(piece);
            }
        }
        out.extend((!plain.is_empty()).then(|| literal(&plain)));
        out
    }
}
