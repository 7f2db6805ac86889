//! The only way out: model text reaches a client as `Screened` bytes, and only this file makes them.
//!
//! Every answer is read in channels (`wire::openai::channels`), so that what is none is noticed
//! whoever listens. Without a deny list a worker's bytes pass as they came. With one each channel
//! of each choice goes through a screen of its own (`choice`), and what nobody can read is left out.

mod choice;
mod padding;

pub(crate) use choice::Garbage;

use bytes::{Bytes, BytesMut};
use choice::Choices;
use padding::Padding;
use policy::Admitted;
use std::borrow::Cow;
use wire::openai::channels::{self, Answer, ErrorClass, Found, all_texts, read_event, read_whole};
use wire::openai::endpoint::Answers;
use wire::openai::{ApiError, Usage};
use wire::sse::{DONE, Event, Frame, Framer, encode_data};

/// Bytes that may reach a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Screened(Bytes);

impl Screened {
    /// An error of ours as an event. The empty line before it ends whatever the worker began.
    pub(crate) fn error_event(error: &ApiError) -> Self {
        let mut out = b"\n".to_vec();
        encode_data(&mut out, &error.to_json());
        Self(out.into())
    }

    /// These bytes and then others.
    pub(crate) fn then(self, other: Self) -> Self {
        if self.0.is_empty() { other } else { Self([self.0, other.0].concat().into()) }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// The part of some frames that passed.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) bytes: Screened,
    /// True if there is model text among them.
    pub(crate) has_text: bool,
    /// Pieces of text that the worker sent, whatever of them passes.
    pub(crate) pieces: u64,
    /// The worker's last count of tokens.
    pub(crate) usage: Option<Usage>,
    /// The reason why nothing can follow; `None` while the answer goes on.
    pub(crate) end: Option<End>,
}

/// The reason why nothing follows in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The worker said `[DONE]`.
    Done,
    /// The worker said that it failed.
    Error(ErrorClass),
    /// Every choice was ended by the screen.
    Blocked,
    /// The worker said what is no answer, or what the screen keeps.
    Garbage,
}

/// The screen of one answer.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Where a list is active; else bytes pass as they are.
    listed: Option<Box<Choices>>,
    /// The shape of an answer.
    answers: Answers,
    /// True if the count at a stream's end was asked for by us alone, so that it goes no further.
    keeps_usage: bool,
    /// Makes a stream's events longer, where that was asked for.
    padding: Option<Padding>,
}

/// A whole answer that passed.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) bytes: Screened,
    /// The worker's count of tokens.
    pub(crate) usage: Option<Usage>,
    /// The length of the texts that it sent.
    pub(crate) text_bytes: usize,
}

impl Gate {
    /// The gate for an answer of so many choices.
    pub(crate) fn new(admitted: Admitted, choices: usize, (answers, keeps_usage): (Answers, bool)) -> Self {
        let listed = admitted.is_screened().then(|| Box::new(Choices::new(admitted, choices)));
        Self { listed, answers, keeps_usage, padding: None }
    }

    /// Pads the events of a stream; `seed` decides by what.
    pub(crate) fn padded(self, seed: u64) -> Self {
        Self { padding: Some(Padding::new(seed)), ..self }
    }

    /// How many choices it ended.
    pub(crate) fn blocks(&self) -> usize {
        self.listed.as_ref().map_or(0, |choices| choices.blocked())
    }

    /// Passes frames up to the one that ends the stream; what follows it is dropped.
    pub(crate) fn frames(&mut self, frames: Vec<Frame>) -> Passed {
        let mut out = Out::default();
        let mut passed = Passed::default();
        for frame in frames {
            let end = match self.frame(&frame, &mut out, &mut passed) {
                Ok(None) => continue,
                Ok(Some(end)) => end,
                Err(Garbage) => End::Garbage,
            };
            passed.end = Some(end);
            break;
        }
        passed.bytes = out.into_screened();
        passed
    }

    fn frame(&mut self, frame: &Frame, out: &mut Out, passed: &mut Passed) -> Result<Option<End>, Garbage> {
        let Some(event) = &frame.event else {
            match self.listed {
                None => out.raw(&frame.raw),
                // A comment shows that the worker lives; its words are nobody's.
                Some(_) if frame.has_more => out.bytes(b":\n\n"),
                Some(_) => {}
            }
            return Ok(None);
        };
        let found = read_event(event).map_err(|_| Garbage)?;
        if let Found::Error(fault) = found {
            if self.denies_any(&all_texts(event.data.as_bytes())) {
                return Err(Garbage);
            }
            // An error in a shape that OpenAI's clients take for an answer is told in theirs.
            let told = if fault.is_openai { Cow::Borrowed(event.data.as_str()) } else { fault.to_json().into() };
            out.pass(told, event, frame, self.listed.is_some());
            return Ok(Some(End::Error(fault.class)));
        }
        let has_text = matches!(&found, Found::Answer(answer) if answer.has_text());
        passed.pieces += u64::from(has_text);
        if let Found::Answer(Answer { choices, usage: Some(usage), .. }) = &found {
            passed.usage = Some(*usage);
            if self.keeps_usage && choices.is_empty() {
                return Ok(None);
            }
        }
        let padding = &mut self.padding;
        let Some(choices) = &mut self.listed else {
            passed.has_text |= has_text;
            match padding {
                Some(padding) if matches!(found, Found::Answer(_)) => out.data(&padding.pad(&event.data)),
                _ => out.raw(&frame.raw),
            }
            return Ok((found == Found::Done).then_some(End::Done));
        };
        let (part, end) = match found {
            Found::Answer(answer) => (choices.chunk(&answer, &event.data)?, None),
            Found::Done => (choices.flush(), Some(End::Done)),
            Found::Foreign | Found::Error(_) => return Ok(None),
        };
        passed.has_text |= part.has_text;
        part.before.iter().for_each(|chunk| out.data(&padded(padding, chunk.as_str().into())));
        if let Some(chunk) = part.chunk {
            out.pass(padded(padding, chunk), event, frame, true);
        }
        let end = end.or_else(|| choices.all_blocked().then_some(End::Blocked));
        match end {
            // Byte for byte, unless there is more than its clients look at.
            Some(End::Done) if event.data.trim() == DONE => out.pass(Cow::Borrowed(&event.data), event, frame, true),
            Some(_) => out.data(DONE),
            None => {}
        }
        Ok(end)
    }

    /// Passes an answer that is not streamed.
    pub(crate) fn whole(&mut self, body: Bytes) -> Result<Whole, Garbage> {
        let answer = match read_whole(&body, self.answers) {
            Ok(channels::Whole::Answer(answer)) => answer,
            // Vectors are no text; what stands beside them may be.
            Ok(channels::Whole::Vectors { count: _, usage }) => return Ok(Whole { usage, ..self.error_body(body)? }),
            Ok(channels::Whole::Error(_)) | Err(_) => return Err(Garbage),
        };
        let text_bytes = answer.choices.iter().flat_map(|choice| &choice.texts).map(|text| text.raw.len()).sum();
        let usage = answer.usage;
        let bytes = match &mut self.listed {
            None => Screened(body),
            Some(choices) => {
                let json = std::str::from_utf8(&body).map_err(|_| Garbage)?;
                match choices.whole(&answer, json)? {
                    Cow::Borrowed(_) => Screened(body),
                    Cow::Owned(json) => Screened(json.into()),
                }
            }
        };
        Ok(Whole { bytes, usage, text_bytes })
    }

    /// Passes a body without choices, as of an error. Under a list one that quotes a denied phrase does not.
    pub(crate) fn error_body(&self, body: Bytes) -> Result<Whole, Garbage> {
        if self.denies_any(&all_texts(&body)) {
            return Err(Garbage);
        }
        Ok(Whole { bytes: Screened(body), usage: None, text_bytes: 0 })
    }

    /// True if a list denies any of the texts, or what they make when joined.
    fn denies_any(&self, texts: &[String]) -> bool {
        self.listed.as_ref().is_some_and(|choices| choices.denies_any(texts))
    }
}

/// An event's data, longer where that is asked for.
fn padded<'d>(padding: &mut Option<Padding>, data: Cow<'d, str>) -> Cow<'d, str> {
    match padding {
        Some(padding) => padding.pad(&data).into(),
        None => data,
    }
}

/// Passes the pieces of a streamed answer through the screen, as a relay does, up to where it ends; for trials of the
/// screen without a network.
#[must_use]
pub fn pass_stream(admitted: Admitted, choices: usize, pieces: impl IntoIterator<Item = Bytes>) -> Bytes {
    let mut gate = Gate::new(admitted, choices, (Answers::Choices, false));
    let mut framer = Framer::new(TRIAL_EVENT_BYTES_MAX);
    let mut out = BytesMut::new();
    for piece in pieces {
        let mut frames = Vec::new();
        let framed = framer.push(piece, &mut frames);
        let passed = gate.frames(frames);
        out.extend_from_slice(&passed.bytes.into_bytes());
        if passed.end.is_some() || framed.is_err() {
            break;
        }
    }
    out.freeze()
}

/// The most bytes of an event on trial.
const TRIAL_EVENT_BYTES_MAX: usize = 1 << 20;

/// Bytes on their way out, copied only where there are several pieces.
#[derive(Debug, Default)]
struct Out {
    first: Bytes,
    more: BytesMut,
}

impl Out {
    fn raw(&mut self, raw: &Bytes) {
        if self.first.is_empty() && self.more.is_empty() {
            self.first = raw.clone();
        } else {
            self.bytes(raw);
        }
    }

    /// An event whose data may have changed; byte for byte where it has not, and, under a list,
    /// nothing stands beside it.
    fn pass(&mut self, data: Cow<'_, str>, event: &Event, frame: &Frame, is_listed: bool) {
        match data {
            Cow::Borrowed(data) if is_listed && (frame.has_more || !event.event.is_empty()) => self.data(data),
            Cow::Borrowed(_) => self.raw(&frame.raw),
            Cow::Owned(data) => self.data(&data),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.more.is_empty() {
            self.more.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.more.extend_from_slice(bytes);
    }

    fn data(&mut self, data: &str) {
        let mut event = Vec::with_capacity(data.len() + 8);
        encode_data(&mut event, data);
        self.bytes(&event);
    }

    fn into_screened(self) -> Screened {
        Screened(if self.more.is_empty() { self.first } else { self.more.freeze() })
    }
}

#[cfg(test)]
mod tests;
