//! The words of a choice, in parts: thoughts, text, calls of tools. How a request's answers are read is one value that its
//! choices share.

use models::calls::{self, Format};
use models::thoughts::{self, Begun, Marks};
use std::sync::Arc;

/// A part of what a choice says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Thought(String),
    /// A call begins.
    Call {
        index: u32,
        id: String,
        name: String,
    },
    /// More of a call's arguments.
    Arguments {
        index: u32,
        text: String,
    },
}

impl Part {
    /// Its text, where it has one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Thought(text) | Self::Arguments { text, .. } => Some(text),
            Self::Call { .. } => None,
        }
    }

    /// The same kind of part, with the text from byte `at` on; that text is taken away.
    pub(super) fn split_off(&mut self, at: usize) -> Option<Self> {
        Some(match self {
            Self::Text(text) => Self::Text(text.split_off(at)),
            Self::Thought(text) => Self::Thought(text.split_off(at)),
            Self::Arguments { index, text } => Self::Arguments { index: *index, text: text.split_off(at) },
            Self::Call { .. } => return None,
        })
    }
}

/// Adds a part, to the last one where it continues that.
pub(super) fn add(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), &part) {
        (_, Part::Text(text) | Part::Thought(text) | Part::Arguments { text, .. }) if text.is_empty() => {}
        (Some(Part::Text(before)), Part::Text(more)) | (Some(Part::Thought(before)), Part::Thought(more)) => {
            before.push_str(more);
        }
        (Some(Part::Arguments { index, text }), Part::Arguments { index: same, text: more }) if index == same => {
            text.push_str(more);
        }
        _ => parts.push(part),
    }
}

/// How the answers of a request are read. By default all of them is text.
#[derive(Debug, Clone, Default)]
pub(super) struct Manner {
    /// Thoughts are parted from the text.
    pub(super) thoughts: Option<(&'static Marks, Begun)>,
    /// Thoughts are left out.
    pub(super) hides_thoughts: bool,
    /// Calls are told from text.
    pub(super) calls: Option<Arc<Called>>,
    /// The ids of tokens are wanted, too.
    pub(super) wants_ids: bool,
    /// Special tokens that are part of the text here.
    pub(super) spelled: Arc<[(u32, String)]>,
    /// The field that restricts its tokens the most, where one does.
    pub(super) restricted_by: Option<Arc<str>>,
}

/// The calls that an answer may have.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) format: &'static Format,
    /// The tools.
    pub(super) names: Vec<String>,
    /// The form of calls is guaranteed.
    pub(super) is_live: bool,
    /// There may be several.
    pub(super) parallel: bool,
}

/// The reader of one choice.
#[derive(Debug)]
pub(super) struct Speech {
    thoughts: Option<thoughts::Reader>,
    hides_thoughts: bool,
    calls: Option<calls::Reader>,
    has_short_ids: bool,
    takes_one: bool,
}

impl Speech {
    pub(super) fn new(manner: &Manner) -> Self {
        let calls = manner.calls.as_deref();
        Self {
            thoughts: manner.thoughts.map(|(marks, begun)| thoughts::Reader::new(marks, begun)),
            hides_thoughts: manner.hides_thoughts,
            calls: calls.map(|calls| calls::Reader::new(calls.format, calls.names.clone(), calls.is_live)),
            has_short_ids: calls.is_some_and(|calls| calls.format.has_short_ids()),
            takes_one: calls.is_some_and(|calls| !calls.parallel),
        }
    }

    /// Takes more text, and returns what is certain.
    pub(super) fn push(&mut self, text: String) -> Vec<Part> {
        let parts = match &mut self.thoughts {
            Some(reader) => reader.push(&text),
            None => vec![thoughts::Part::Text(text)],
        };
        let mut out = Vec::new();
        parts.into_iter().for_each(|part| self.part(part, &mut out));
        out
    }

    /// The rest, when the text has ended.
    pub(super) fn finish(&mut self) -> Vec<Part> {
        let mut out = Vec::new();
        let rest = self.thoughts.as_mut().map(thoughts::Reader::finish).unwrap_or_default();
        rest.into_iter().for_each(|part| self.part(part, &mut out));
        let rest = self.calls.as_mut().map(calls::Reader::finish).unwrap_or_default();
        self.called(rest, &mut out);
        out
    }

    /// True if the one call that it may have has ended.
    pub(super) fn is_over(&self) -> bool {
        self.takes_one && self.calls.as_ref().is_some_and(calls::Reader::is_after_call)
    }

    /// True if a tool was called.
    pub(super) fn has_called(&self) -> bool {
        self.calls.as_ref().is_some_and(calls::Reader::has_called)
    }

    /// True while thoughts are read.
    pub(super) fn is_thinking(&self) -> bool {
        self.thoughts.as_ref().is_some_and(thoughts::Reader::is_thinking)
    }

    fn part(&mut self, part: thoughts::Part, out: &mut Vec<Part>) {
        match (part, &mut self.calls) {
            (thoughts::Part::Thought(_), _) if self.hides_thoughts => {}
            (thoughts::Part::Thought(text), _) => add(out, Part::Thought(text)),
            (thoughts::Part::Text(text), None) => add(out, Part::Text(text)),
            (thoughts::Part::Text(text), Some(calls)) => {
                let parts = calls.push(&text);
                self.called(parts, out);
            }
        }
    }

    fn called(&self, parts: Vec<calls::Part>, out: &mut Vec<Part>) {
        for part in parts {
            add(
                out,
                match part {
                    calls::Part::Text(text) => Part::Text(text),
                    calls::Part::Call { index, name } => Part::Call { index, id: self.id(), name },
                    calls::Part::Arguments { index, text } => Part::Arguments { index, text },
                },
            );
        }
    }

    /// An id for a call, which nobody has had before.
    fn id(&self) -> String {
        const LETTERS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let length = if self.has_short_ids { 9 } else { 24 };
        let drawn = (0..length).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]));
        if self.has_short_ids { drawn.collect() } else { "call_".chars().chain(drawn).collect() }
    }
}
