//! Grammars in GBNF, as llama.cpp, vLLM and SGLang have them (`root ::= "a" [0-9]+`), in the language that the engine of
//! grammars reads.
//!
//! The engine reads texts by terminals, each an expression that is matched as far as it goes. A rule becomes one where that
//! loses nothing: where it leads to no circle of rules, and no character that may follow it could also continue it. All
//! others stay rules, of such terminals, of single characters, and of texts that begin like no other and like no character.

mod ast;
mod lexer;
mod set;
mod terminals;

use super::literal::literal;
use ast::{Atom, Choice, Part};
use lexer::{Lexer, Token};
use set::Set;
use std::collections::HashMap;
use std::fmt::Write;

/// The most rules of a grammar: a chain of them may be as deep a recursion.
const RULES_MAX: usize = 2_048;
/// The most times that a part is repeated, as llama.cpp has it.
const REPEATS_MAX: u32 = 2_000;

/// True if a grammar is in GBNF.
pub(super) fn is_gbnf(text: &str) -> bool {
    let mut lexer = Lexer::new(text);
    // A name and its mark come first, comments aside.
    matches!((lexer.next(), lexer.next()), (Ok(Some(Token::Name(_))), Ok(Some(Token::Is))))
}

/// The grammar in Lark's language.
///
/// # Errors
/// It is no GBNF; the text says where and why.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let rules = Reader::new(text)?.rules()?;
    let is_terminal = terminals::terminals(&rules.bodies, rules.root);
    let apart = terminals::apart(&rules.bodies, &is_terminal);
    let mut writer = Writer { is_terminal: &is_terminal, apart, is_apart: false, out: String::new() };
    writer.out = format!("start: {}\n", writer.name(rules.root));
    for (rule, body) in rules.bodies.iter().enumerate() {
        writer.is_apart = !is_terminal[rule];
        let name = writer.name(rule);
        // Writing to a string does not fail.
        _ = write!(writer.out, "{name}: ");
        writer.choice(body);
        writer.out.push('\n');
    }
    Ok(writer.out)
}

/// A grammar's rules, by their numbers.
struct Rules {
    bodies: Vec<Choice>,
    root: usize,
}

/// Reads a grammar. Rules are numbered as they are named first.
struct Reader<'t> {
    lexer: Lexer<'t>,
    next: Option<Token<'t>>,
    numbers: HashMap<&'t str, usize>,
    bodies: Vec<Option<Choice>>,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Result<Self, String> {
        let mut lexer = Lexer::new(text);
        let next = lexer.next()?;
        Ok(Self { lexer, next, numbers: HashMap::new(), bodies: Vec::new() })
    }

    fn rules(mut self) -> Result<Rules, String> {
        while let Some(token) = self.take()? {
            let Token::Name(name) = token else { return Err(self.lexer.error("a rule's name is missing")) };
            if self.take()? != Some(Token::Is) {
                return Err(self.lexer.error("`::=` is missing after a rule's name"));
            }
            let number = self.number(name)?;
            let body = self.choice()?;
            if self.bodies[number].replace(body).is_some() {
                return Err(format!("the rule `{name}` is there twice"));
            }
        }
        let names: HashMap<usize, &str> = self.numbers.iter().map(|(name, number)| (*number, *name)).collect();
        let bodies = self.bodies.into_iter().enumerate();
        let bodies = bodies.map(|(number, body)| {
            body.ok_or_else(|| format!("there is no rule `{}`", names.get(&number).copied().unwrap_or_default()))
        });
        let bodies = bodies.collect::<Result<Vec<_>, _>>()?;
        let root = self.numbers.get("root").copied().ok_or("there is no rule `root`, where the text begins")?;
        Ok(Rules { bodies, root })
    }

    fn number(&mut self, name: &'t str) -> Result<usize, String> {
        let number = *self.numbers.entry(name).or_insert(self.bodies.len());
        if number == self.bodies.len() {
            self.bodies.push(None);
        }
        if self.bodies.len() > RULES_MAX { Err(format!("there are more than {RULES_MAX} rules")) } else { Ok(number) }
    }

    fn take(&mut self) -> Result<Option<Token<'t>>, String> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    /// Alternatives up to what ends them: a bracket, the next rule, the end. Brackets are not nested deeply
    /// (`check_nesting`).
    fn choice(&mut self) -> Result<Choice, String> {
        let mut choice = vec![Vec::new()];
        loop {
            let atom = match &self.next {
                None | Some(Token::Close) => return Ok(choice),
                Some(Token::Name(_)) if self.lexer.is_before_mark() => return Ok(choice),
                Some(Token::Or) => {
                    self.take()?;
                    choice.push(Vec::new());
                    continue;
                }
                Some(_) => self.atom()?,
            };
            let (least, most) = self.repeats()?;
            if let Some(sequence) = choice.last_mut() {
                sequence.push(Part { atom, least, most });
            }
        }
    }

    fn atom(&mut self) -> Result<Atom, String> {
        match self.take()? {
            Some(Token::Text(text)) => Ok(Atom::Text(text)),
            Some(Token::Character(set)) => Ok(Atom::Character(set)),
            Some(Token::Name(name)) => self.number(name).map(Atom::Rule),
            Some(Token::Open) => {
                let choice = self.choice()?;
                match self.take()? {
                    Some(Token::Close) => Ok(Atom::Group(choice)),
                    _ => Err(self.lexer.error("a bracket is not closed")),
                }
            }
            _ => Err(self.lexer.error("a text, a set, a rule's name or a bracket is missing")),
        }
    }

    /// The least and the most times that the part before comes.
    fn repeats(&mut self) -> Result<(u32, Option<u32>), String> {
        let Some(Token::Repeat(least, most)) = self.next else { return Ok((1, Some(1))) };
        self.take()?;
        if matches!(self.next, Some(Token::Repeat(..))) {
            return Err(self.lexer.error("a part is repeated twice; put it in brackets"));
        }
        if least > REPEATS_MAX || most.is_some_and(|most| most > REPEATS_MAX || most < least) {
            return Err(self
                .lexer
                .error(&format!("a part comes at most {REPEATS_MAX} times, and no fewer than its least")));
        }
        Ok((least, most))
    }
}

/// Writes rules in Lark's language.
struct Writer<'a> {
    is_terminal: &'a [bool],
    /// The first characters of texts that are written character by character, in rules that are no terminals.
    apart: Set,
    /// The rule is such a one.
    is_apart: bool,
    out: String,
}

impl Writer<'_> {
    fn name(&self, rule: usize) -> String {
        if self.is_terminal[rule] { format!("T{rule}") } else { format!("r{rule}") }
    }

    fn choice(&mut self, choice: &Choice) {
        for (at, sequence) in choice.iter().enumerate() {
            self.out.push_str(if at == 0 { "" } else { " | " });
            // A part that never comes is nothing.
            let mut parts = sequence.iter().filter(|part| part.most != Some(0)).peekable();
            if parts.peek().is_none() {
                self.out.push_str("\"\"");
            }
            parts.for_each(|part| self.part(part));
        }
    }

    fn part(&mut self, part: &Part) {
        match &part.atom {
            Atom::Text(text) => self.text(text),
            Atom::Character(set) => self.out.push_str(&set.expression()),
            Atom::Rule(rule) => self.out.push_str(&self.name(*rule)),
            Atom::Group(choice) => {
                self.out.push('(');
                self.choice(choice);
                self.out.push(')');
            }
        }
        // Writing to a string does not fail.
        _ = match (part.least, part.most) {
            (1, Some(1)) => write!(self.out, " "),
            (least, None) => write!(self.out, "{{{least},}} "),
            (least, Some(most)) => write!(self.out, "{{{least},{most}}} "),
        };
    }

    fn text(&mut self, text: &str) {
        if !(self.is_apart && text.starts_with(|first| self.apart.has(first))) {
            return self.out.push_str(&literal(text));
        }
        let characters: Vec<String> = text.chars().map(|character| literal(&character.to_string())).collect();
        _ = write!(self.out, "({})", characters.join(" "));
    }
}
