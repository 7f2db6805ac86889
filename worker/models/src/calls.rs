//! Calls of tools in what a model says: one table of the formats that models were trained on (`format`), and a reader
//! that tells calls from text, however the text is cut.
//!
//! Whatever is no call of a listed tool stays text. It knows tokens only as texts, and no HTTP.

mod format;
mod object;
mod plain;
mod python;

pub(crate) use format::Framing;
pub use format::{Format, FormatError};
pub use plain::in_words;

use format::Syntax;
use object::{Head, Object, Progress};
use std::collections::VecDeque;

/// The most times that what began like a call is read again as text, of one answer: each may read all that follows.
const RESTARTS_MAX: usize = 16;

/// A part of what a model says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text that is no call.
    Text(String),
    /// A call begins.
    Call {
        /// Its number in the answer.
        index: u32,
        /// The tool.
        name: String,
    },
    /// More of a call's arguments: JSON.
    Arguments {
        /// The call's number.
        index: u32,
        /// The text.
        text: String,
    },
}

/// Reads one answer.
#[derive(Debug)]
pub struct Reader {
    format: &'static Format,
    /// The tools that may be called.
    names: Vec<String>,
    /// A call is told as it comes, rather than when it is complete: its form is guaranteed.
    is_live: bool,
    state: State,
    /// Text since what may be a call began.
    held: String,
    /// Characters to be read, of what was held and is no call.
    again: VecDeque<char>,
    restarts: usize,
    calls: u32,
    /// Calls are in a list.
    is_list: bool,
    out: Vec<Part>,
}

#[derive(Debug)]
enum State {
    /// Nothing but white space came.
    Start,
    /// Text, in which a mark may begin a call.
    Text,
    /// A call is to begin.
    Lead,
    /// The name of a tool, before its arguments.
    Name { from: usize },
    /// A call, which began at this byte of what is held.
    Object { from: usize, object: Object },
    /// A list of calls in Python's syntax.
    Python(python::Brackets),
    /// A call has ended.
    After,
    /// Text to the end.
    Plain,
}

impl Reader {
    /// A reader of calls of tools of these names. With `is_live` the form of calls is guaranteed, and they are told as
    /// they come.
    #[must_use]
    pub fn new(format: &'static Format, names: Vec<String>, is_live: bool) -> Self {
        let state = if format.mark.is_some() { State::Text } else { State::Start };
        // Where no tool may be called, no call is guaranteed either.
        let is_live = is_live && !names.is_empty();
        Self {
            format,
            names,
            is_live,
            state,
            held: String::new(),
            again: VecDeque::new(),
            restarts: 0,
            calls: 0,
            is_list: false,
            out: Vec::new(),
        }
    }

    /// Takes more text, and returns what is certain.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        for character in text.chars() {
            self.again.push_back(character);
            while let Some(character) = self.again.pop_front() {
                self.step(character);
            }
        }
        std::mem::take(&mut self.out)
    }

    /// The rest, when the text has ended.
    pub fn finish(&mut self) -> Vec<Part> {
        loop {
            // An answer may be cut anywhere: what parts calls is no text, and of calls that are guaranteed nothing is.
            let is_after_call = match self.state {
                State::After => self.held.trim().is_empty(),
                State::Lead => self.has_called(),
                _ => false,
            };
            if is_after_call || self.is_live {
                self.held.clear();
            }
            if self.held.is_empty() {
                break;
            }
            if matches!(self.state, State::Text | State::Start | State::Plain) {
                let held = std::mem::take(&mut self.held);
                self.text(&held);
                break;
            }
            self.fail();
            while let Some(character) = self.again.pop_front() {
                self.step(character);
            }
        }
        std::mem::take(&mut self.out)
    }

    /// True if a call has ended and nothing followed yet.
    #[must_use]
    pub fn is_after_call(&self) -> bool {
        matches!(self.state, State::After)
    }

    /// True if a call was told.
    #[must_use]
    pub fn has_called(&self) -> bool {
        self.calls > 0
    }

    fn step(&mut self, character: char) {
        if matches!(self.state, State::Plain) {
            return self.text(character.encode_utf8(&mut [0; 4]));
        }
        self.held.push(character);
        match &self.state {
            State::Start => self.start(),
            State::Text => self.look_for_mark(),
            State::Lead => self.lead(character),
            State::Name { from } => self.name(*from),
            State::Object { .. } => self.object(character),
            State::Python(_) => self.python(character),
            State::After => self.after(),
            State::Plain => {}
        }
    }

    fn text(&mut self, text: &str) {
        match self.out.last_mut() {
            Some(Part::Text(before)) => before.push_str(text),
            _ => self.out.push(Part::Text(text.to_owned())),
        }
    }

    /// Gives up a call: the first character that is held is text, and the rest is read again.
    fn fail(&mut self) {
        let held = std::mem::take(&mut self.held);
        // A call that was told cannot be called back.
        if matches!(&self.state, State::Object { object, .. } if object.is_told()) {
            self.state = State::After;
            return;
        }
        self.is_list = false;
        self.restarts += 1;
        if self.format.mark.is_none() || self.restarts > RESTARTS_MAX {
            self.state = State::Plain;
            return self.text(&held);
        }
        self.state = State::Text;
        let mut characters = held.chars();
        if let Some(first) = characters.next() {
            self.text(first.encode_utf8(&mut [0; 4]));
        }
        characters.rev().for_each(|character| self.again.push_front(character));
    }

    /// The beginning of an answer that is all calls, or none.
    fn start(&mut self) {
        let begun = self.held.trim_start();
        let skipped = self.format.skipped.unwrap_or_default();
        if begun.is_empty() || (begun.len() < skipped.len() && skipped.starts_with(begun)) {
            return;
        }
        if !skipped.is_empty() && begun == skipped {
            self.state = State::Lead;
            return;
        }
        self.state = State::Lead;
        // The one character that is no white space.
        self.lead(begun.chars().next_back().unwrap_or_default());
    }

    fn look_for_mark(&mut self) {
        let Some(mark) = self.format.mark else { return };
        while !mark.starts_with(self.held.as_str()) {
            let first = self.held.remove(0);
            self.text(first.encode_utf8(&mut [0; 4]));
        }
        if self.held == mark {
            self.state = State::Lead;
        }
    }

    fn lead(&mut self, character: char) {
        let from = self.held.len() - character.len_utf8();
        match (character, self.format.syntax) {
            _ if character.is_ascii_whitespace() => {}
            ('{', Syntax::Objects | Syntax::Named) => {
                self.state = State::Object { from, object: Object::new(None) };
                self.object('{');
            }
            ('[', Syntax::Objects | Syntax::Named) if !self.is_list && self.format.has_lists => self.is_list = true,
            ('[', Syntax::Python) => self.state = State::Python(python::Brackets::new(from)),
            (_, Syntax::Named) if !self.is_list => self.state = State::Name { from },
            _ => self.fail(),
        }
    }

    /// A name, and then an object of arguments, perhaps with a mark between.
    fn name(&mut self, from: usize) {
        const ARGUMENTS: &str = "[ARGS]";
        let said = &self.held[from..];
        let Some(before) = said.strip_suffix('{') else {
            let name = said.trim_end().split('[').next().unwrap_or_default();
            let rest = said[name.len()..].trim_start();
            if !self.names.iter().any(|known| known.starts_with(name)) || !ARGUMENTS.starts_with(rest.trim_end()) {
                self.fail();
            }
            return;
        };
        let name = before.trim_end();
        let name = name.strip_suffix(ARGUMENTS).unwrap_or(name).trim_end().to_owned();
        if !self.names.contains(&name) {
            return self.fail();
        }
        let from = self.held.len() - 1;
        self.state = State::Object { from, object: Object::new(Some(name)) };
        self.object('{');
    }

    fn object(&mut self, character: char) {
        let State::Object { from, object } = &mut self.state else { return };
        let (from, progress) = (*from, object.push(character, &self.held[*from..]));
        match progress {
            Progress::Within => self.tell_live(from),
            Progress::Never => self.fail(),
            Progress::Complete => {
                self.tell_live(from);
                self.complete(from);
            }
        }
    }

    /// Tells what is known of a call that is under way.
    fn tell_live(&mut self, from: usize) {
        let State::Object { object, .. } = &mut self.state else { return };
        if !self.is_live {
            return;
        }
        let text = &self.held[from..];
        if !object.is_told() {
            let Some(name) = object.head(text).filter(|name| self.names.contains(name)) else { return };
            object.tell();
            self.out.push(Part::Call { index: self.calls, name });
            self.calls += 1;
        }
        let more = object.more(text);
        arguments(&mut self.out, self.calls, more);
    }

    /// An object is complete: a call, or none.
    fn complete(&mut self, from: usize) {
        let State::Object { object, .. } = &self.state else { return };
        if !object.is_told() {
            let Some(Head { name, arguments }) = object.read(&self.held[from..]) else { return self.fail() };
            if !self.names.contains(&name) {
                return self.fail();
            }
            self.call(name, &arguments);
        }
        self.held.clear();
        self.state = State::After;
    }

    fn call(&mut self, name: String, arguments: &str) {
        self.out.push(Part::Call { index: self.calls, name });
        self.calls += 1;
        self::arguments(&mut self.out, self.calls, arguments);
    }

    fn python(&mut self, character: char) {
        let State::Python(brackets) = &mut self.state else { return };
        let from = brackets.from();
        match brackets.push(character) {
            Progress::Within => {}
            Progress::Never => self.fail(),
            Progress::Complete => {
                let calls = python::calls(&self.held[from..]);
                let is_listed = |calls: &Vec<Head>| calls.iter().all(|call| self.names.contains(&call.name));
                match calls.filter(is_listed) {
                    None => self.fail(),
                    Some(calls) => {
                        calls.into_iter().for_each(|Head { name, arguments }| self.call(name, &arguments));
                        self.held.clear();
                        self.state = State::After;
                    }
                }
            }
        }
    }

    /// Behind a call: what ends it, what parts it from the next, or text.
    fn after(&mut self) {
        let said = self.held.trim_start();
        let closes: [&str; 2] = [self.format.close.unwrap_or_default(), if self.is_list { "]" } else { "" }];
        let parts = if self.is_list { "," } else { self.format.between.unwrap_or_default() };
        let is = |mark: &str| !mark.is_empty() && said == mark;
        let may_become = |mark: &str| said.len() < mark.len() && mark.starts_with(said);
        if said.is_empty() {
            return;
        }
        if closes.into_iter().any(is) {
            self.is_list &= said != "]";
            self.held.clear();
        } else if is(parts) {
            self.state = State::Lead;
        } else if self.format.mark.is_some_and(is) {
            self.held = said.to_owned();
            self.state = State::Lead;
        } else if !closes.into_iter().chain([parts]).chain(self.format.mark).any(may_become) {
            // Text follows, and perhaps a mark within it.
            let held = std::mem::take(&mut self.held);
            self.is_list = false;
            self.state = if self.format.mark.is_some() { State::Text } else { State::Plain };
            held.chars().rev().for_each(|character| self.again.push_front(character));
        }
    }
}

/// Adds to the arguments of the last of so many calls.
fn arguments(out: &mut Vec<Part>, calls: u32, more: &str) {
    let index = calls.saturating_sub(1);
    match out.last_mut() {
        _ if more.is_empty() => {}
        Some(Part::Arguments { index: last, text }) if *last == index => text.push_str(more),
        _ => out.push(Part::Arguments { index, text: more.to_owned() }),
    }
}

#[cfg(test)]
mod tests;
