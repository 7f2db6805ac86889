//! From changed channels back to JSON: edits of what a worker wrote, and chunks of our own in its
//! words.

use super::{Answer, Channel, Choice, Holder, Step, Text};
use crate::openai::filter::FilterResults;
use crate::openai::scan::Span;
use serde_json::{Value, json};
use std::fmt::Write;

/// `text` as a string of JSON.
fn json_string(text: &str) -> String {
    Value::from(text).to_string()
}

/// Changes to one document; what is not changed stays byte for byte.
#[derive(Debug, Default)]
pub struct Edits {
    edits: Vec<(Span, String)>,
}

impl Edits {
    /// The bytes that a member without letters adds.
    pub const OBFUSCATION_BYTES: usize = r#""obfuscation":"","#.len();

    /// Adds a member to a chunk that means nothing and makes it longer.
    pub fn obfuscate(&mut self, json: &str, letters: &str) {
        self.first_member(json, format!("\"obfuscation\":\"{letters}\","));
    }

    /// Puts a member, with its comma, before all others of a document. An answer is an object, and has choices.
    fn first_member(&mut self, json: &str, member: String) {
        if let Some(at) = json.find('{').and_then(|at| u32::try_from(at + 1).ok()) {
            self.edits.push((Span { start: at, end: at }, member));
        }
    }

    /// True if nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Puts other characters in a text's place.
    pub fn replace_text(&mut self, text: &Text, with: &str) {
        let quoted = json_string(with);
        self.edits.push((text.raw, quoted[1..quoted.len() - 1].to_owned()));
    }

    /// Puts `null` in a value's place.
    pub fn remove_value(&mut self, value: Span) {
        self.edits.push((value, "null".into()));
    }

    /// Sets why a choice ended.
    pub fn finish(&mut self, choice: &Choice, reason: &str) {
        let reason = json_string(reason);
        match choice.finish {
            Some(span) => self.edits.push((span, reason)),
            None => {
                let at = Span { start: choice.span.start + 1, end: choice.span.start + 1 };
                let comma = if choice.is_empty { "" } else { "," };
                self.edits.push((at, format!("\"finish_reason\":{reason}{comma}")));
            }
        }
    }

    /// Says beside a choice what a filter found in it.
    pub fn filtered(&mut self, choice: &Choice, results: &FilterResults) {
        if !choice.is_empty {
            let at = Span { start: choice.span.start + 1, end: choice.span.start + 1 };
            self.edits.push((at, results.member() + ","));
        }
    }

    /// Says beside an answer what a filter found in its prompt.
    pub fn prompt_filtered(&mut self, json: &str, results: &FilterResults) {
        self.first_member(json, results.prompt_member() + ",");
    }

    /// Leaves nothing of a choice but why it ended.
    pub fn empty(&mut self, choice: &Choice, reason: &str) {
        let holder = match choice.holder {
            Holder::Delta => r#""delta":{}"#,
            Holder::Message => r#""message":{"role":"assistant","content":""}"#,
            Holder::Text => r#""text":"""#,
        };
        let (index, reason) = (choice.index, json_string(reason));
        let choice_span = choice.span;
        self.edits.retain(|(span, _)| span.end <= choice_span.start || choice_span.end <= span.start);
        let with = format!("{{\"index\":{index},{holder},\"logprobs\":null,\"finish_reason\":{reason}}}");
        self.edits.push((choice_span, with));
    }

    /// Takes choices out of an answer, and with them every other change to them. `is_kept` has an
    /// entry for each.
    pub fn keep(&mut self, answer: &Answer, is_kept: &[bool]) {
        let spans: Vec<Span> = answer.choices.iter().map(|choice| choice.span).collect();
        let mut last_kept = None;
        let mut gaps = Vec::new();
        for (place, span) in spans.iter().enumerate() {
            if is_kept.get(place).copied().unwrap_or(false) {
                last_kept = Some(*span);
                continue;
            }
            // With the comma that follows; where none does, with the one before.
            match spans.get(place + 1) {
                Some(next) => gaps.push(Span { start: span.start, end: next.start }),
                None => {
                    let start = last_kept.map_or(spans[0].start, |kept| kept.end);
                    gaps.push(Span { start, end: span.end });
                }
            }
        }
        let is_in = |gap: &Span, span: Span| gap.start <= span.start && span.end <= gap.end;
        self.edits.retain(|(span, _)| !gaps.iter().any(|gap| is_in(gap, *span)));
        self.edits.extend(gaps.into_iter().map(|gap| (gap, String::new())));
    }

    /// The changed document.
    #[must_use]
    pub fn apply(mut self, json: &str) -> String {
        self.edits.sort_by_key(|(span, _)| (span.start, span.end));
        let mut out = String::with_capacity(json.len());
        let mut at = 0;
        for (span, with) in &self.edits {
            let (start, end) = (span.start as usize, span.end as usize);
            // A gap may reach over one that it joins.
            out.push_str(json.get(at..start).unwrap_or_default());
            if start >= at {
                out.push_str(with);
            }
            at = at.max(end);
        }
        out.push_str(json.get(at..).unwrap_or_default());
        out
    }
}

/// The JSON around the choices of a stream's chunks, for chunks of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    head: String,
    tail: String,
}

impl Envelope {
    /// The JSON around the choices of `answer`, without its counts and asides.
    #[must_use]
    pub fn of(answer: &Answer, json: &str) -> Self {
        let cut = |from: u32, to: u32| {
            let mut spans: Vec<Span> = answer.asides.iter().copied().chain(answer.usage_span).collect();
            spans.sort();
            spans.dedup();
            let mut edits = Edits::default();
            for span in spans.into_iter().filter(|span| from <= span.start && span.end <= to) {
                edits.remove_value(Span { start: span.start - from, end: span.end - from });
            }
            edits.apply(json.get(from as usize..to as usize).unwrap_or_default())
        };
        let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
        Self { head: cut(0, answer.list.start), tail: cut(answer.list.end, length) }
    }

    /// A chunk without choices that says what a filter found in the prompt.
    #[must_use]
    pub fn prompt_filtered(&self, results: &FilterResults) -> String {
        let json = format!("{}[]{}", self.head, self.tail);
        let mut edits = Edits::default();
        edits.prompt_filtered(&json, results);
        edits.apply(&json)
    }

    /// A chunk that adds `text` to a channel of a choice, and ends the choice where `reason` says so.
    #[must_use]
    pub fn chunk(&self, choice: u32, channel: &Channel, text: &str, reason: Option<&str>) -> String {
        let mut out = format!("{}[{{\"index\":{choice},", self.head);
        let reason = reason.map_or_else(|| "null".to_owned(), json_string);
        // Writing to a string does not fail.
        _ = write!(out, "{},\"logprobs\":null,\"finish_reason\":{reason}}}]{}", nested(&channel.path, text), self.tail);
        out
    }
}

/// `text` at the end of `path`, as a member of the object that the path begins in.
fn nested(path: &[Step], text: &str) -> String {
    let mut value = json!(text);
    let mut steps = path;
    while let [rest @ .., last] = steps {
        steps = rest;
        value = match last {
            Step::Member(name) if steps.is_empty() => return format!("{}:{value}", json_string(name)),
            Step::Member(name) => json!({ name.as_ref(): value }),
            Step::Item(index) => {
                if let Value::Object(members) = &mut value
                    && !members.contains_key("index")
                {
                    members.shift_insert(0, "index".into(), json!(index));
                }
                json!([value])
            }
        };
    }
    // A path begins with a member.
    format!("\"delta\":{value}")
}
