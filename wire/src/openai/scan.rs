//! One pass over a request's body: where its fields are, and every text in it that can reach a prompt.
//!
//! Router and worker both read bodies by this scan alone, so that what is screened is what is read. It builds
//! nothing of the values it passes: time is proportional to the bytes, memory to what is recorded, and what is
//! recorded is bounded. Texts at places that no row knows are recorded too; only fields of which a row says that
//! they reach no prompt are not.

pub(super) mod lexer;
mod messages;
mod path;
mod span;
mod unescape;
mod unknown;

pub use span::Span;
pub use unescape::unescape;

use super::endpoint::STREAM_OPTIONS;
use super::endpoint::row::{Endpoint, Fate, Field, Kind, TextRole};
use super::error::{ApiError, ErrorKind};
use super::value::{integer, same};
use lexer::{Fault, Leaf, Lexer, Problem};
use serde_json::Value;
use std::borrow::Cow;
use std::ops::Range;
use unknown::{Place, Unknown};

/// The most members of a request's object: ten times the fields that all published APIs have together.
const MEMBERS_MAX: u32 = 1_024;

/// Bounds on what is recorded of one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Nested arrays and objects, at most 256.
    pub depth: u16,
    /// Strings that can reach a prompt.
    pub texts: u32,
    /// Prompts of one request.
    pub prompts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 256, texts: 65_536, prompts: 2_048 }
    }
}

/// The places of fields and texts in a body.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// Each at most once; the span of a `null` is empty.
    fields: Vec<(&'static Field, Span)>,
    texts: Vec<TextSpan>,
    /// How many of the texts are content of messages, or prompts.
    content: usize,
    prompts: u32,
    token_ids: u32,
    unknown: Vec<String>,
    refused: Option<String>,
    stream: bool,
    n: u32,
    max_tokens: Option<u32>,
}

/// A text that can reach a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextSpan {
    /// Between its quotes, escapes and all; a number as it stands.
    pub raw: Span,
    /// Whose words it is.
    pub role: TextRole,
    /// The message or prompt it is part of, counted from 0; 0 where it is part of none.
    pub item: u32,
    /// The relation to the text before it.
    pub joint: Joint,
}

/// The relation of a text to the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joint {
    /// On its own.
    Starts,
    /// Right after the previous text of `Scan::texts`, with nothing or white space between: content parts of one
    /// message, and messages that chat templates join.
    Continues,
}

impl TextSpan {
    /// Its characters.
    #[must_use]
    pub fn read(self, body: &[u8]) -> Cow<'_, str> {
        unescape(self.raw.of(body))
    }

    /// The places in the body of ranges of its characters' bytes, sorted and disjoint; `None` where it is no string's
    /// value: a number, or the name of a member, on which others may depend.
    #[must_use]
    pub fn places(self, body: &[u8], ranges: &[Range<usize>]) -> Option<Vec<Span>> {
        let (start, end) = (self.raw.start as usize, self.raw.end as usize);
        let before = start.checked_sub(1).and_then(|at| body.get(at));
        let (quote, after) = body.get(end..)?.split_first()?;
        let follows = after.iter().find(|byte| !byte.is_ascii_whitespace());
        if before != Some(&b'"') || *quote != b'"' || follows == Some(&b':') {
            return None;
        }
        let places = unescape::places(std::str::from_utf8(self.raw.of(body)).ok()?, ranges);
        Some(places.into_iter().map(|place| Span::new(start + place.start, start + place.end)).collect())
    }

    /// `text` as it stands between this text's quotes.
    #[must_use]
    pub fn escape(self, text: &str) -> String {
        let quoted = |text: &str| {
            let quoted = Value::from(text).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        };
        if self.role == TextRole::Arguments { quoted(&quoted(text)) } else { quoted(text) }
    }
}

impl Scan {
    /// The place of a known field's value; `None` if it is absent or `null`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Span> {
        self.fields().find(|(field, _)| field.name == name).map(|(_, span)| span)
    }

    /// The place of a known field's value that is there; empty, and where it begins, for `null`.
    pub(super) fn place(&self, name: &str) -> Option<Span> {
        self.fields.iter().find(|(field, _)| field.name == name).map(|(_, span)| *span)
    }

    /// The known fields that are there and not `null`, in the body's order.
    pub fn fields(&self) -> impl Iterator<Item = (&'static Field, Span)> + '_ {
        self.fields.iter().copied().filter(|(_, span)| !span.is_empty())
    }

    /// Texts that can reach a prompt: first the content of messages or prompts in order, then all others.
    #[must_use]
    pub fn texts(&self) -> &[TextSpan] {
        &self.texts
    }

    /// The texts in two: the content of messages or prompts, and all others; each in the order of items.
    #[must_use]
    pub fn content_and_beside(&self) -> (&[TextSpan], &[TextSpan]) {
        self.texts.split_at(self.content)
    }

    /// The number of prompts; a conversation is one.
    #[must_use]
    pub const fn prompts(&self) -> u32 {
        self.prompts
    }

    /// The number of token ids in prompts, which no text screen can read.
    #[must_use]
    pub const fn token_ids(&self) -> u32 {
        self.token_ids
    }

    /// Members that nobody knows, as paths of visible ASCII without commas: at most 32 of at most 64 bytes.
    #[must_use]
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// The first member within a known object that asks for something our worker does not do.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// True if a stream's events are to be padded: `stream_options.include_obfuscation`.
    #[must_use]
    pub fn include_obfuscation(&self, body: &[u8]) -> bool {
        let options = self.field("stream_options").and_then(|span| serde_json::from_slice::<Value>(span.of(body)).ok());
        options.is_some_and(|options| options["include_obfuscation"] == true)
    }

    /// The model asked for; `None` where none is named.
    #[must_use]
    pub fn model<'b>(&self, body: &'b [u8]) -> Option<Cow<'b, str>> {
        let value = self.field("model")?.of(body);
        Some(unescape(value.get(1..value.len() - 1)?))
    }

    /// `true` if the answer is to be streamed.
    #[must_use]
    pub const fn stream(&self) -> bool {
        self.stream
    }

    /// The number of choices per prompt; 1 by default.
    #[must_use]
    pub const fn n(&self) -> u32 {
        self.n
    }

    /// The most tokens to generate per choice, where the request says so.
    #[must_use]
    pub const fn max_tokens(&self) -> Option<u32> {
        self.max_tokens
    }
}

/// Scans a body.
///
/// # Errors
/// 400: the body is not a JSON object, or more than `limits` allow; with the field's path, a known field has the
/// wrong type or is there twice, or a string is malformed.
pub fn scan(body: &[u8], endpoint: &'static Endpoint, limits: &Limits) -> Result<Scan, ApiError> {
    if u32::try_from(body.len()).is_err() {
        return Err(ApiError::new(ErrorKind::PayloadTooLarge, "the body exceeds 4 GiB"));
    }
    Scanner::new(body, limits).request(endpoint).map_err(|fault| refusal(body, fault))
}

/// The state of a scan.
struct Scanner<'b> {
    lexer: Lexer<'b>,
    limits: &'b Limits,
    fields: Vec<(&'static Field, Span)>,
    /// Content of messages, and prompts: what a model reads in one piece.
    content: Vec<TextSpan>,
    /// Every other text.
    beside: Vec<TextSpan>,
    items: u32,
    prompts: Option<u32>,
    token_ids: u32,
    unknown: Unknown,
    refused: Option<String>,
}

impl<'b> Scanner<'b> {
    fn new(body: &'b [u8], limits: &'b Limits) -> Self {
        Self {
            lexer: Lexer::new(body, limits.depth),
            limits,
            fields: Vec::new(),
            content: Vec::new(),
            beside: Vec::new(),
            items: 0,
            prompts: None,
            token_ids: 0,
            unknown: Unknown::default(),
            refused: None,
        }
    }

    fn request(mut self, endpoint: &Endpoint) -> Result<Scan, Fault> {
        if self.lexer.peek() != b'{' {
            return self.lexer.fault(Problem::Syntax("a JSON object"));
        }
        self.lexer.open()?;
        let mut count = 0;
        while self.lexer.another(b'}', count == 0)? {
            count += 1;
            if count > MEMBERS_MAX {
                return self.lexer.fault(Problem::Many("members of the request", MEMBERS_MAX));
            }
            let name = self.lexer.name()?;
            match endpoint.field(unescape(self.lexer.bytes(name)).as_bytes()) {
                Some(field) => self.field(field)?,
                None => {
                    self.unknown.add(Place::Top, self.lexer.bytes(name));
                    self.beside(name, TextRole::Unknown)?;
                    self.whole(None, TextRole::Unknown)?;
                }
            }
        }
        self.lexer.end()?;
        self.finish()
    }

    /// A known field's value.
    fn field(&mut self, field: &'static Field) -> Result<(), Fault> {
        self.lexer.peek();
        let start = self.lexer.at();
        if self.fields.iter().any(|(known, _)| std::ptr::eq(*known, field)) {
            return self.lexer.fault(Problem::Twice);
        }
        let end = if self.lexer.eat_null()? {
            start
        } else {
            self.value(field)?;
            self.lexer.at()
        };
        self.fields.push((field, Span::new(start, end)));
        Ok(())
    }

    fn value(&mut self, field: &'static Field) -> Result<(), Fault> {
        match field.kind {
            Kind::Messages => self.messages(),
            Kind::Prompt => self.prompt(),
            Kind::StreamOptions => self.object(STREAM_OPTIONS, Place::Options),
            Kind::Tokens => self.tokens(),
            kind => {
                self.check(kind)?;
                match field.reaches {
                    Some(role) => self.whole(Some(field.name), role),
                    None => self.lexer.walk(|_, _| Ok(())),
                }
            }
        }
    }

    /// Checks the type of the value that is next, and takes nothing.
    fn check(&mut self, kind: Kind) -> Result<(), Fault> {
        let first = self.lexer.peek();
        let (is_right, wanted) = match kind {
            Kind::Any => (true, ""),
            Kind::Bool => (matches!(first, b't' | b'f'), "`true` or `false`"),
            Kind::Integer => return self.check_number(true),
            Kind::Number => return self.check_number(false),
            Kind::Text => (first == b'"', "a string"),
            Kind::Texts => (matches!(first, b'"' | b'['), "a string or a list of strings"),
            Kind::Integers | Kind::Tokens => (first == b'[', "a list of integers"),
            Kind::Object | Kind::StreamOptions => (first == b'{', "an object"),
            Kind::Messages => (first == b'[', "a list of messages"),
            Kind::Prompt => (matches!(first, b'"' | b'['), PROMPT),
        };
        if is_right { Ok(()) } else { self.wrong(wanted) }
    }

    fn check_number(&mut self, is_integer: bool) -> Result<(), Fault> {
        let wanted = if is_integer { "an integer" } else { "a number" };
        let first = self.lexer.peek();
        if first != b'-' && !first.is_ascii_digit() {
            return self.wrong(wanted);
        }
        let mut ahead = self.lexer.clone();
        let number = ahead.number()?;
        let is_right = !is_integer || integer(ahead.bytes(number)).is_some();
        if is_right { Ok(()) } else { self.wrong(wanted) }
    }

    /// A value of the wrong type, or of no type at all.
    fn wrong<T>(&mut self, wanted: &'static str) -> Result<T, Fault> {
        let fault = self.lexer.fault(Problem::Kind(wanted));
        // Where the value is no JSON either, that is the better message.
        self.lexer.clone().walk(|_, _| Ok(()))?;
        fault
    }

    /// An object of known members, none of which holds text.
    fn object(&mut self, members: &'static [Field], place: Place) -> Result<(), Fault> {
        self.check(Kind::Object)?;
        self.lexer.open()?;
        let mut seen = 0_u32;
        let mut is_first = true;
        while self.lexer.another(b'}', is_first)? {
            is_first = false;
            let name = self.lexer.name()?;
            let known = self.member(name, members, &mut seen, place)?;
            if self.lexer.eat_null()? {
                continue;
            }
            match known {
                Some(member) => {
                    self.check(member.kind)?;
                    let start = self.lexer.at();
                    self.lexer.walk(|_, _| Ok(()))?;
                    self.refuse(member, start, place);
                }
                None => self.whole(None, TextRole::Unknown)?,
            }
        }
        Ok(())
    }

    /// Looks a member's name up; none that is known may come twice. `seen` has a bit for each.
    fn member(
        &mut self,
        name: Span,
        members: &'static [Field],
        seen: &mut u32,
        place: Place,
    ) -> Result<Option<&'static Field>, Fault> {
        let text = unescape(self.lexer.bytes(name));
        let Some(index) = members.iter().position(|member| member.name == text) else {
            self.unknown.add(place, self.lexer.bytes(name));
            self.beside(name, TextRole::Unknown)?;
            return Ok(None);
        };
        if *seen >> index & 1 == 1 {
            self.lexer.peek();
            return self.lexer.fault(Problem::Twice);
        }
        *seen |= 1 << index;
        Ok(Some(&members[index]))
    }

    /// Notes a member whose value, from `start` to here, asks for something that is not done.
    fn refuse(&mut self, member: &Field, start: usize, place: Place) {
        let Fate::Refused(unless) = member.fate else { return };
        let value = self.lexer.bytes(Span::new(start, self.lexer.at()));
        if self.refused.is_none() && !unless.iter().any(|harmless| same(value, harmless.as_bytes())) {
            self.refused = Some(format!("{place}{}", member.name));
        }
    }

    /// The value of the member `of`, all of whose strings, names and numbers can reach a prompt.
    fn whole(&mut self, of: Option<&str>, role: TextRole) -> Result<(), Fault> {
        let item = self.items.saturating_sub(1);
        let (room, texts_max) = (self.room(), self.limits.texts);
        let lexer = self.lexer.clone();
        let beside = &mut self.beside;
        // The name whose value the next leaf is, where that is a string or number.
        let (mut count, mut member) = (0, of.map(Cow::Borrowed));
        self.lexer.walk(|leaf, raw| {
            let bytes = lexer.bytes(raw);
            let of = std::mem::replace(&mut member, (leaf == Leaf::Name).then(|| unescape(bytes)));
            // A template may print any of its variables, names and all.
            if role != TextRole::Variable && is_structure(leaf, bytes, of.as_deref()) {
                return Ok(());
            }
            if count == room {
                return Err(Fault { at: raw.start as usize, problem: Problem::Many(TEXTS, texts_max) });
            }
            count += 1;
            let is_arguments = leaf == Leaf::Text && of.as_deref() == Some("arguments");
            let role = if is_arguments { TextRole::Arguments } else { role };
            beside.push(TextSpan { raw, role, item, joint: Joint::Starts });
            Ok(())
        })
    }

    /// Texts that may still be recorded.
    fn room(&self) -> u32 {
        let recorded = u32::try_from(self.content.len() + self.beside.len()).unwrap_or(u32::MAX);
        self.limits.texts.saturating_sub(recorded)
    }

    fn check_room(&self) -> Result<(), Fault> {
        if self.room() == 0 { self.lexer.fault(Problem::Many(TEXTS, self.limits.texts)) } else { Ok(()) }
    }

    /// Records a text that is no content.
    fn beside(&mut self, raw: Span, role: TextRole) -> Result<(), Fault> {
        self.check_room()?;
        self.beside.push(TextSpan { raw, role, item: self.items.saturating_sub(1), joint: Joint::Starts });
        Ok(())
    }

    /// Records content of the current item.
    fn content(&mut self, raw: Span, role: TextRole, joint: Joint) -> Result<(), Fault> {
        self.check_room()?;
        self.content.push(TextSpan { raw, role, item: self.items.saturating_sub(1), joint });
        Ok(())
    }

    /// A string, a list of strings, a list of token ids, or a list of such lists.
    fn prompt(&mut self) -> Result<(), Fault> {
        self.check(Kind::Prompt)?;
        if self.lexer.peek() == b'"' {
            return self.prompt_text();
        }
        self.lexer.open()?;
        let mut count = 0;
        let mut first = 0;
        while self.lexer.another(b']', count == 0)? {
            count += 1;
            let begins = match self.lexer.peek() {
                b'-' => b'0',
                digit if digit.is_ascii_digit() => b'0',
                other => other,
            };
            first = if count == 1 { begins } else { first };
            match begins {
                b'"' if first == b'"' => self.prompt_text()?,
                b'[' if first == b'[' => {
                    self.next_prompt()?;
                    self.tokens()?;
                }
                b'0' if first == b'0' => {
                    if count == 1 {
                        self.next_prompt()?;
                    }
                    self.token()?;
                }
                _ => return self.wrong(PROMPT),
            }
        }
        self.prompts.get_or_insert(1);
        Ok(())
    }

    fn prompt_text(&mut self) -> Result<(), Fault> {
        self.next_prompt()?;
        let raw = self.lexer.string()?;
        self.content(raw, TextRole::Prompt, Joint::Starts)
    }

    fn next_prompt(&mut self) -> Result<(), Fault> {
        let prompts = self.prompts.unwrap_or(0);
        if prompts == self.limits.prompts {
            return self.lexer.fault(Problem::Many("prompts", self.limits.prompts));
        }
        self.prompts = Some(prompts + 1);
        self.items += 1;
        Ok(())
    }

    /// A list of token ids.
    fn tokens(&mut self) -> Result<(), Fault> {
        self.check(Kind::Tokens)?;
        self.lexer.open()?;
        let mut is_first = true;
        while self.lexer.another(b']', is_first)? {
            is_first = false;
            self.token()?;
        }
        Ok(())
    }

    fn token(&mut self) -> Result<(), Fault> {
        self.check(Kind::Integer)?;
        self.lexer.number()?;
        // A body of 4 GiB holds fewer than 2^32 of them.
        self.token_ids += 1;
        Ok(())
    }

    fn finish(mut self) -> Result<Scan, Fault> {
        let stream = self.value_of("stream").is_some_and(|(_, value)| value == b"true");
        let n = self.count("n")?.unwrap_or(1);
        let max_tokens = match self.count("max_completion_tokens")? {
            None => self.count("max_tokens")?,
            max => max,
        };
        let prompts = self.prompts.unwrap_or(1);
        let content = self.content.len();
        self.content.append(&mut self.beside);
        let unknown = self.unknown.into_names();
        let (fields, texts, token_ids, refused) = (self.fields, self.content, self.token_ids, self.refused);
        Ok(Scan { fields, texts, content, prompts, token_ids, unknown, refused, stream, n, max_tokens })
    }

    fn value_of(&self, name: &str) -> Option<(usize, &'b [u8])> {
        let (_, span) = self.fields.iter().find(|(field, span)| field.name == name && !span.is_empty())?;
        Some((span.start as usize, self.lexer.bytes(*span)))
    }

    /// The value of a field that counts something.
    fn count(&self, name: &str) -> Result<Option<u32>, Fault> {
        let Some((at, value)) = self.value_of(name) else { return Ok(None) };
        let count = integer(value).and_then(|value| u32::try_from(value).ok());
        count.map(Some).ok_or(Fault { at, problem: Problem::Kind("an integer from 0 to 4294967295") })
    }
}

const PROMPT: &str = "a string, a list of strings, a list of token ids, or a list of such lists";
const TEXTS: &str = "texts";

/// Words of the APIs themselves, which say nothing of their own in a prompt: names of members, and the types of what
/// is defined or called. `of` is the member whose value a leaf is.
fn is_structure(leaf: Leaf, text: &[u8], of: Option<&str>) -> bool {
    match leaf {
        Leaf::Number => false,
        Leaf::Name => matches!(
            text,
            b"type"
                | b"function"
                | b"name"
                | b"description"
                | b"parameters"
                | b"properties"
                | b"required"
                | b"id"
                | b"arguments"
                | b"text"
                | b"title"
                | b"json_schema"
                | b"schema"
        ),
        Leaf::Text => {
            of == Some("type")
                && matches!(
                    text,
                    b"function"
                        | b"text"
                        | b"object"
                        | b"string"
                        | b"number"
                        | b"integer"
                        | b"boolean"
                        | b"array"
                        | b"null"
                )
        }
    }
}

/// A fault in the words a client gets.
fn refusal(body: &[u8], fault: Fault) -> ApiError {
    let path = path::path(body, fault.at);
    let at_path = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
    let message = match fault.problem {
        Problem::Kind(wanted) => format!("`{path}` must be {wanted}"),
        Problem::Twice => format!("`{path}` is there twice; send it once"),
        Problem::Syntax(wanted) if fault.at >= body.len() => {
            format!("the body is not valid JSON: it ends where {wanted} was expected{at_path}")
        }
        Problem::Syntax(wanted) => {
            let (line, column) = line_and_column(body, fault.at);
            format!("the body is not valid JSON: expected {wanted} at line {line} column {column}{at_path}")
        }
        Problem::NotUtf8 => format!("the body is not valid JSON: a string{at_path} is not UTF-8"),
        Problem::Escape => format!("the body is not valid JSON: a string{at_path} holds an invalid escape"),
        Problem::Deep(max) => format!("the body is nested more than {max} levels deep{at_path}"),
        Problem::Many(things, max) => format!("the body has more than {max} {things}{at_path}"),
    };
    let error = ApiError::new(ErrorKind::InvalidRequest, message);
    if path.is_empty() { error } else { error.with_param(path) }
}

fn line_and_column(body: &[u8], at: usize) -> (usize, usize) {
    let before = &body[..at.min(body.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    (line, column)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests measure")]
mod tests;
