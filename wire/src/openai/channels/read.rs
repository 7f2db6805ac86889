//! From the JSON of an answer to its channels.

use super::error::{Clues, fault_of_text};
use super::{Answer, Channel, Choice, Found, Holder, Kind, NotAnAnswer, Step, Text, Whole};
use crate::openai::endpoint::Answers;
use crate::openai::scan::lexer::{Fault as LexerFault, Leaf, Lexer, Problem};
use crate::openai::scan::{Span, unescape};
use crate::openai::usage::Usage;
use crate::sse::{Event, is_done};
use serde::Deserialize;
use std::borrow::Cow;

/// The deepest nesting of an answer: published ones reach 8.
const DEPTH_MAX: u16 = 64;
/// The most members of one object; more is not an answer.
const MEMBERS_MAX: usize = 256;
/// The most texts and labels of one choice at places nobody knows. A value with more is an aside.
const UNKNOWN_MAX: usize = 64;

/// Reads one event of a stream.
///
/// # Errors
/// It is no chunk, no error and no end.
pub fn read_event(event: &Event) -> Result<Found, NotAnAnswer> {
    if is_done(&event.data) {
        return Ok(Found::Done);
    }
    let is_error = event.event == "error";
    match read(event.data.as_bytes()) {
        Ok((_, clues)) if is_error || clues.is_error() => Ok(Found::Error(clues.fault(event.data.as_bytes()))),
        Ok((Some(answer), _)) => Ok(Found::Answer(answer)),
        // A server of another kind names its events; OpenAI's stream has none of these.
        _ if is_error => Ok(Found::Error(fault_of_text(&event.data))),
        Ok((None, _)) if !matches!(event.event.as_str(), "" | "message") => Ok(Found::Foreign),
        Ok((None, _)) => Err(NotAnAnswer("has no `choices`")),
        Err(_) if !matches!(event.event.as_str(), "" | "message") => Ok(Found::Foreign),
        Err(problem) => Err(problem),
    }
}

/// Reads an answer of some shape that is not streamed.
///
/// # Errors
/// It is not JSON, or has no whole choices, or no vectors.
pub fn read_whole(body: &[u8], shape: Answers) -> Result<Whole, NotAnAnswer> {
    let (answer, clues) = read(body)?;
    if clues.is_error() {
        return Ok(Whole::Error(clues.fault(body)));
    }
    if shape == Answers::Vectors {
        return read_vectors(body);
    }
    let answer = answer.ok_or(NotAnAnswer("has no `choices`"))?;
    if answer.choices.is_empty() || !answer.choices.iter().all(|choice| choice.is_whole) {
        return Err(NotAnAnswer("has no `choices` with a `message` or `text`"));
    }
    Ok(Whole::Answer(answer))
}

/// The count of tokens beside vectors.
#[derive(Deserialize)]
struct Prompted {
    prompt_tokens: u32,
}

/// Counts the vectors of an answer.
fn read_vectors(json: &[u8]) -> Result<Whole, NotAnAnswer> {
    let mut reader = Reader { lexer: Lexer::lenient(json, DEPTH_MAX), clues: Clues::default() };
    let (mut vectors, mut usage) = (None, None);
    reader.members(|reader, name, _| {
        match name {
            "data" if reader.lexer.peek() == b'[' => {
                let mut count = 0;
                reader.items(|reader, _| {
                    count += 1;
                    reader.vector()
                })?;
                vectors = Some(count);
            }
            "usage" => {
                let span = reader.skip()?;
                let counted = serde_json::from_slice(reader.lexer.bytes(span)).ok();
                usage = counted.map(|Prompted { prompt_tokens }| Usage::new(prompt_tokens, 0));
            }
            _ => _ = reader.skip()?,
        }
        Ok(())
    })?;
    let count = vectors.filter(|count| *count > 0).ok_or(NotAnAnswer("has no `data` with vectors"))?;
    Ok(Whole::Vectors { count, usage })
}

/// Reads a document: its answer where it has choices, and what tells of an error.
fn read(json: &[u8]) -> Result<(Option<Answer>, Clues), NotAnAnswer> {
    Ok(Reader { lexer: Lexer::lenient(json, DEPTH_MAX), clues: Clues::default() }.document()?)
}

impl From<LexerFault> for NotAnAnswer {
    fn from(fault: LexerFault) -> Self {
        Self(match fault.problem {
            Problem::Kind(problem) => problem,
            Problem::Twice => "has a member twice",
            Problem::Deep(_) | Problem::Many(..) => "is nested too deeply or has too many members",
            Problem::Syntax(_) | Problem::NotUtf8 | Problem::Escape => "is not JSON",
        })
    }
}

struct Reader<'b> {
    lexer: Lexer<'b>,
    clues: Clues,
}

type Read<T = ()> = Result<T, LexerFault>;

impl<'b> Reader<'b> {
    fn document(mut self) -> Read<(Option<Answer>, Clues)> {
        if self.lexer.peek() != b'{' {
            return self.lexer.fault(Problem::Kind("is not a JSON object"));
        }
        let mut answer = Answer::default();
        let mut has_choices = false;
        self.members(|reader, name, _| {
            match name {
                "choices" if reader.lexer.peek() == b'[' => {
                    has_choices = true;
                    answer.list = reader.items(|reader, position| {
                        answer.choices.push(reader.choice(position)?);
                        Ok(())
                    })?;
                }
                "usage" => {
                    let span = reader.skip()?;
                    answer.usage = serde_json::from_slice(reader.lexer.bytes(span)).ok();
                    answer.usage_span = Some(span);
                    reader.aside_if_text(span, &mut answer.asides);
                }
                "id" | "object" | "created" | "model" | "system_fingerprint" | "service_tier" => {
                    let span = reader.skip()?;
                    reader.clue(name, span);
                    // In OpenAI's place these hold no model text, as long as they are scalars.
                    if matches!(reader.lexer.bytes(span).first(), Some(b'{' | b'[')) {
                        answer.asides.push(span);
                    }
                }
                _ => {
                    let span = reader.skip()?;
                    reader.clue(name, span);
                    reader.aside(span, &mut answer.asides);
                }
            }
            Ok(())
        })?;
        self.lexer.end()?;
        self.clues.has_choices = has_choices;
        Ok((has_choices.then_some(answer), self.clues))
    }

    /// One vector: numbers, or those in base64.
    fn vector(&mut self) -> Read {
        if self.lexer.peek() != b'{' {
            return self.lexer.fault(Problem::Kind("has a vector that is no object"));
        }
        let mut is_there = false;
        self.members(|reader, name, _| {
            if name != "embedding" {
                return reader.skip().map(|_| ());
            }
            reader.lexer.peek();
            let is_list = reader.lexer.peek() == b'[';
            let mut is_right = true;
            reader.lexer.walk(|leaf, raw| {
                is_right &= match leaf {
                    Leaf::Number => is_list,
                    Leaf::Text => !is_list && !raw.is_empty(),
                    Leaf::Name => false,
                };
                Ok(())
            })?;
            is_there = is_right;
            Ok(())
        })?;
        if is_there { Ok(()) } else { self.lexer.fault(Problem::Kind("has a vector without numbers")) }
    }

    fn choice(&mut self, position: u32) -> Read<Choice> {
        if self.lexer.peek() != b'{' {
            return self.lexer.fault(Problem::Kind("has a choice that is no object"));
        }
        let mut choice = Choice { index: position, is_empty: true, ..Choice::default() };
        let span = self.members(|reader, name, _| {
            choice.is_empty = false;
            match name {
                "index" => choice.index = reader.index()?.unwrap_or(position),
                "delta" | "message" => reader.message(name, &mut choice)?,
                "text" => {
                    choice.is_whole |= reader.lexer.peek() == b'"';
                    choice.holder = Holder::Text;
                    reader.text(Kind::Text, vec![member("text")], &mut choice)?;
                }
                "finish_reason" => {
                    let span = reader.skip()?;
                    let value = reader.lexer.bytes(span);
                    choice.finish_reason = unquoted(value).map(|raw| unescape(raw).into_owned());
                    if choice.finish_reason.is_none() && value != b"null" {
                        return reader.lexer.fault(Problem::Kind("has a finish reason that is no string"));
                    }
                    choice.finish = Some(span);
                }
                "logprobs" => {
                    let span = reader.skip()?;
                    choice.logprobs = (reader.lexer.bytes(span) != b"null").then_some(span);
                }
                _ => {
                    let span = reader.skip()?;
                    if name == "error" {
                        reader.clues.note_choice(reader.lexer.bytes(span));
                    }
                    reader.aside(span, &mut choice.asides);
                }
            }
            Ok(())
        })?;
        choice.span = span;
        Ok(choice)
    }

    /// The object that holds a chat's texts.
    fn message(&mut self, name: &str, choice: &mut Choice) -> Read {
        match self.lexer.peek() {
            b'{' => {}
            b'n' => return self.skip().map(|_| ()),
            _ => return self.lexer.fault(Problem::Kind("has a choice whose message is no object")),
        }
        let root = if name == "message" { "message" } else { "delta" };
        if name == "message" {
            (choice.is_whole, choice.holder) = (true, Holder::Message);
        }
        self.members(|reader, name, name_span| {
            let path = |name: &'static str| vec![member(root), member(name)];
            match name {
                "role" => reader.label(choice),
                "content" => reader.text(Kind::Text, path("content"), choice),
                "reasoning_content" => reader.text(Kind::Reasoning, path("reasoning_content"), choice),
                "reasoning" => reader.text(Kind::Reasoning, path("reasoning"), choice),
                "refusal" => reader.text(Kind::Refusal, path("refusal"), choice),
                "tool_calls" => reader.tools(path("tool_calls"), choice),
                "function_call" => reader.call(&path("function_call"), choice),
                _ => {
                    choice.labels.push(name_span);
                    reader.unknown(Kind::Other, vec![member(root), Step::Member(name.to_owned().into())], choice)
                }
            }
        })?;
        Ok(())
    }

    fn tools(&mut self, path: Vec<Step>, choice: &mut Choice) -> Read {
        if self.lexer.peek() != b'[' {
            return self.unknown(Kind::Other, path, choice);
        }
        self.items(|reader, position| {
            let first = choice.texts.len();
            let at = path.len();
            let path = [path.as_slice(), &[Step::Item(position)]].concat();
            if reader.lexer.peek() != b'{' {
                return reader.unknown(Kind::Other, path, choice);
            }
            let mut index = None;
            reader.members(|reader, name, name_span| {
                let path = || [path.as_slice(), &[Step::Member(name.to_owned().into())]].concat();
                match name {
                    "index" => index = reader.index()?,
                    "id" | "type" => reader.label(choice)?,
                    "function" | "custom" => reader.call(&path(), choice)?,
                    _ => {
                        choice.labels.push(name_span);
                        reader.unknown(Kind::Other, path(), choice)?;
                    }
                }
                Ok(())
            })?;
            renumber(&mut choice.texts[first..], at, index);
            Ok(())
        })?;
        Ok(())
    }

    /// A call of a function or a tool: a name, and arguments or an input.
    fn call(&mut self, path: &[Step], choice: &mut Choice) -> Read {
        if self.lexer.peek() != b'{' {
            return self.unknown(Kind::Other, path.to_vec(), choice);
        }
        self.members(|reader, name, name_span| {
            let path = [path, &[Step::Member(name.to_owned().into())]].concat();
            match name {
                "name" => reader.text(Kind::ToolName, path, choice),
                "arguments" => reader.text(Kind::ToolArguments, path, choice),
                _ => {
                    choice.labels.push(name_span);
                    reader.unknown(Kind::Other, path, choice)
                }
            }
        })?;
        Ok(())
    }

    /// A known text; where it is no string, whatever texts it holds.
    fn text(&mut self, kind: Kind, path: Vec<Step>, choice: &mut Choice) -> Read {
        if self.lexer.peek() == b'"' {
            let raw = self.lexer.string()?;
            choice.texts.push(Text { channel: Channel { kind, path }, raw });
            return Ok(());
        }
        self.unknown(kind, path, choice)
    }

    fn label(&mut self, choice: &mut Choice) -> Read {
        choice.has_more = true;
        if self.lexer.peek() == b'"' {
            choice.labels.push(self.lexer.string()?);
            return Ok(());
        }
        let span = self.skip()?;
        self.aside(span, &mut choice.asides);
        Ok(())
    }

    /// Texts at places that nobody knows. Numbers in lists may be tokens or bytes of a text, which
    /// no channel can hold: such a value, or one with too many texts, is an aside as a whole.
    fn unknown(&mut self, kind: Kind, path: Vec<Step>, choice: &mut Choice) -> Read {
        self.lexer.peek();
        let start = self.lexer.at();
        let (texts, labels) = (choice.texts.len(), choice.labels.len());
        let has_numbers = self.unknown_value(kind, path, choice)?;
        if has_numbers || choice.texts.len() - texts + choice.labels.len() - labels > UNKNOWN_MAX {
            choice.texts.truncate(texts);
            choice.labels.truncate(labels);
            choice.asides.push(Span::new(start, self.lexer.at()));
        }
        Ok(())
    }

    /// Returns whether there is a list that holds numbers.
    fn unknown_value(&mut self, kind: Kind, path: Vec<Step>, choice: &mut Choice) -> Read<bool> {
        let mut has_numbers = false;
        match self.lexer.peek() {
            b'"' => {
                let raw = self.lexer.string()?;
                choice.texts.push(Text { channel: Channel { kind, path }, raw });
            }
            b'{' => has_numbers = self.unknown_object(kind, &path, choice)?.0,
            b'[' => {
                self.items(|reader, position| {
                    let first = choice.texts.len();
                    let at = path.len();
                    let path = [path.as_slice(), &[Step::Item(position)]].concat();
                    if reader.lexer.peek() == b'{' {
                        let (numbers, index) = reader.unknown_object(kind, &path, choice)?;
                        has_numbers |= numbers;
                        renumber(&mut choice.texts[first..], at, index);
                        return Ok(());
                    }
                    has_numbers |= matches!(reader.lexer.peek(), b'-' | b'0'..=b'9');
                    has_numbers |= reader.unknown_value(kind, path, choice)?;
                    Ok(())
                })?;
            }
            b'n' | b't' | b'f' => _ = self.skip()?,
            _ => {
                choice.has_more = true;
                self.skip()?;
            }
        }
        Ok(has_numbers)
    }

    /// Returns whether there is a list that holds numbers, and the object's own `index`.
    fn unknown_object(&mut self, kind: Kind, path: &[Step], choice: &mut Choice) -> Read<(bool, Option<u32>)> {
        let (mut has_numbers, mut index) = (false, None);
        self.members(|reader, name, name_span| {
            choice.has_more = true;
            let path = [path, &[Step::Member(name.to_owned().into())]].concat();
            match name {
                "index" if reader.lexer.peek().is_ascii_digit() => index = reader.index()?,
                "type" | "id" | "format" => reader.label(choice)?,
                _ => {
                    choice.labels.push(name_span);
                    has_numbers |= reader.unknown_value(kind, path, choice)?;
                }
            }
            Ok(())
        })?;
        Ok((has_numbers, index))
    }

    /// An index; numbers that some servers write as `1.0` are indices, too.
    fn index(&mut self) -> Read<Option<u32>> {
        let span = self.skip()?;
        let text = std::str::from_utf8(self.lexer.bytes(span)).unwrap_or_default();
        if text == "null" {
            return Ok(None);
        }
        let number = text.parse::<f64>().ok().filter(|number| number.fract() == 0.0);
        match number.filter(|number| (0.0..f64::from(u32::MAX)).contains(number)) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
            Some(number) => Ok(Some(number as u32)),
            None => self.lexer.fault(Problem::Kind("has an index that is none")),
        }
    }

    /// Records a value where it may hold text: anything but numbers, words and what is empty.
    fn aside(&self, span: Span, asides: &mut Vec<Span>) {
        let value = self.lexer.bytes(span);
        let is_empty = matches!(value, b"\"\"" | b"[]" | b"{}");
        if matches!(value.first(), Some(b'"' | b'[' | b'{')) && !is_empty {
            asides.push(span);
        }
    }

    /// Records a value where it holds a string that is not empty: for structures of counts.
    fn aside_if_text(&self, span: Span, asides: &mut Vec<Span>) {
        let mut has_text = false;
        let value = self.lexer.bytes(span);
        let walked = Lexer::lenient(value, DEPTH_MAX).walk(|leaf, raw| {
            has_text |= leaf == Leaf::Text && !raw.is_empty();
            Ok(())
        });
        if has_text || walked.is_err() {
            asides.push(span);
        }
    }

    /// Notes a member that may tell of an error.
    fn clue(&mut self, name: &str, span: Span) {
        self.clues.note(name, self.lexer.bytes(span));
    }

    /// Passes a value.
    fn skip(&mut self) -> Read<Span> {
        self.lexer.peek();
        let start = self.lexer.at();
        self.lexer.walk(|_, _| Ok(()))?;
        Ok(Span::new(start, self.lexer.at()))
    }

    /// The members of the object that is next, each at most once: a client reads one of two, and
    /// nobody knows which.
    fn members(&mut self, mut each: impl FnMut(&mut Self, &str, Span) -> Read) -> Read<Span> {
        self.lexer.peek();
        let start = self.lexer.at();
        let mut names: Vec<Cow<'b, str>> = Vec::new();
        self.lexer.open()?;
        while self.lexer.another(b'}', names.is_empty())? {
            let span = self.lexer.name()?;
            let name = unescape(self.lexer.bytes(span));
            if names.contains(&name) {
                return self.lexer.fault(Problem::Twice);
            }
            if names.len() == MEMBERS_MAX {
                return self.lexer.fault(Problem::Many("members", MEMBERS_MAX as u32));
            }
            each(self, &name, span)?;
            names.push(name);
        }
        Ok(Span::new(start, self.lexer.at()))
    }

    /// The elements of the list that is next.
    fn items(&mut self, mut each: impl FnMut(&mut Self, u32) -> Read) -> Read<Span> {
        self.lexer.peek();
        let start = self.lexer.at();
        let mut position = 0;
        self.lexer.open()?;
        while self.lexer.another(b']', position == 0)? {
            each(self, position)?;
            position += 1;
        }
        Ok(Span::new(start, self.lexer.at()))
    }
}

const fn member(name: &'static str) -> Step {
    Step::Member(Cow::Borrowed(name))
}

/// Puts an element's own index in the place of its position.
fn renumber(texts: &mut [Text], at: usize, index: Option<u32>) {
    let Some(index) = index else { return };
    for text in texts {
        text.channel.path[at] = Step::Item(index);
    }
}

/// The bytes between the quotes of a string.
pub(super) fn unquoted(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"")
}
