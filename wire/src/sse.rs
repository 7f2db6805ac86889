//! Server-sent events (WHATWG HTML, section 9.2): the decoder that the harness and the chat client
//! use, the framer of the router, which keeps the bytes beside the events, and an encoder.
//!
//! Both take bytes however the network cut them and are bounded: an event larger than the limit is
//! an error, not a growing buffer.

mod framer;

pub use framer::{Frame, Framer};

use thiserror::Error;

/// The data that ends an OpenAI stream.
pub const DONE: &str = "[DONE]";

/// True if `data` ends an OpenAI stream: its clients look at how the data begins, and some servers
/// put white space around it.
#[must_use]
pub fn is_done(data: &str) -> bool {
    data.trim_start().starts_with(DONE)
}

/// A comment, which decoders skip and connections live by.
pub const COMMENT: &[u8] = b":\n\n";

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The `event:` field, empty where there was none.
    pub event: String,
    /// The `data:` lines, joined with a newline.
    pub data: String,
}

/// Errors of decoding a stream.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SseError {
    /// One event exceeds the limit.
    #[error("decoding an event stream: an event exceeds {limit_bytes} bytes")]
    TooLarge {
        /// The decoder's limit.
        limit_bytes: usize,
    },
    /// A line is not UTF-8.
    #[error("decoding an event stream: a line is not UTF-8")]
    NotUtf8,
}

/// An incremental decoder.
#[derive(Debug)]
pub struct Decoder {
    limit_bytes: usize,
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    /// A line of the event came, even one that is no data.
    has_lines: bool,
    /// A line came since this was last asked that is in no event: a comment, an id, an unknown field.
    has_more: bool,
    after_cr: bool,
    started: bool,
}

impl Decoder {
    /// A decoder that refuses events of more than `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            line: Vec::new(),
            event: Event::default(),
            has_data: false,
            has_lines: false,
            has_more: false,
            after_cr: false,
            started: false,
        }
    }

    /// Takes the next bytes and hands each event they complete to `on_event`.
    ///
    /// # Errors
    /// An oversized event or a line that is not UTF-8; the stream is unusable afterwards.
    pub fn push(&mut self, bytes: &[u8], mut on_event: impl FnMut(Event)) -> Result<(), SseError> {
        for &byte in bytes {
            let was_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if was_cr => {}
                b'\n' | b'\r' => self.end_line(&mut on_event)?,
                _ => {
                    if self.line.len() + self.event.data.len() >= self.limit_bytes {
                        return Err(SseError::TooLarge { limit_bytes: self.limit_bytes });
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(())
    }

    /// True if bytes of an unfinished event are held: at the end of a stream, a truncation.
    #[must_use]
    pub fn is_mid_event(&self) -> bool {
        self.has_data || !self.line.is_empty()
    }

    /// Says that the stream ended: the event that only lacked its empty line, as browsers drop and
    /// OpenAI's clients read it.
    ///
    /// # Errors
    /// As `push`.
    pub fn finish(&mut self) -> Result<Option<Event>, SseError> {
        let mut last = None;
        self.after_cr = false;
        self.push(b"\n\n", |event| last = Some(event))?;
        Ok(last)
    }

    /// True if no line of an event is held, complete or not.
    fn is_between_events(&self) -> bool {
        !self.has_lines && self.line.is_empty()
    }

    fn end_line(&mut self, on_event: &mut impl FnMut(Event)) -> Result<(), SseError> {
        let mut raw = self.line.as_slice();
        if !std::mem::replace(&mut self.started, true) {
            raw = raw.strip_prefix(b"\xef\xbb\xbf".as_slice()).unwrap_or(raw);
        }
        let line = std::str::from_utf8(raw).map_err(|_| SseError::NotUtf8)?;
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            self.has_lines = false;
            // An event without data is a no-op by the standard, its name forgotten.
            if std::mem::take(&mut self.has_data) {
                on_event(event);
            }
        } else {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            self.has_lines |= !field.is_empty();
            match field {
                "data" => {
                    if self.has_data {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                    self.has_data = true;
                }
                "event" => value.clone_into(&mut self.event.event),
                // Comments (an empty field), ids and retry hints mean nothing to us.
                _ => self.has_more = true,
            }
        }
        self.line.clear();
        Ok(())
    }
}

/// Appends one event with `data` to `out`, as many lines as it has.
///
/// Line ends that are none to the standard (U+0085, U+2028, U+2029) are written as JSON's escapes: clients that split
/// lines by Unicode's rules, as Python does, would cut the event at them.
pub fn encode_data(out: &mut Vec<u8>, data: &str) {
    for line in data.split(['\n', '\r']) {
        out.extend_from_slice(b"data: ");
        let mut rest = line;
        while let Some(at) = rest.find(['\u{85}', '\u{2028}', '\u{2029}']) {
            let (before, tail) = rest.split_at(at);
            let mut characters = tail.chars();
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(match characters.next() {
                Some('\u{85}') => br"\u0085",
                Some('\u{2028}') => br"\u2028",
                _ => br"\u2029",
            });
            rest = characters.as_str();
        }
        out.extend_from_slice(rest.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(chunks: &[&[u8]]) -> Result<Vec<Event>, SseError> {
        let mut decoder = Decoder::new(1 << 16);
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.push(chunk, |event| events.push(event))?;
        }
        Ok(events)
    }

    fn data(text: &str) -> Event {
        Event { event: String::new(), data: text.into() }
    }

    #[test]
    fn reads_lf_crlf_and_cr_line_ends() {
        let events = decode(&[b"data: a\n\ndata: b\r\n\r\ndata: c\r\r"]).expect("decodes");
        assert_eq!(events, [data("a"), data("b"), data("c")]);
    }

    #[test]
    fn joins_data_lines_and_skips_comments_and_empty_events() {
        let events = decode(&[b"\xef\xbb\xbf: hi\nevent: x\n\nevent: y\ndata:1\ndata: 2\nid: 3\n\n"]);
        let expected = Event { event: "y".into(), data: "1\n2".into() };
        assert_eq!(events.expect("decodes"), [expected]);
    }

    #[test]
    fn refuses_an_event_beyond_its_limit() {
        let mut decoder = Decoder::new(8);
        let result = decoder.push(b"data: 123456789", |_| ());
        assert_eq!(result, Err(SseError::TooLarge { limit_bytes: 8 }));
    }

    #[test]
    fn notices_a_truncated_event() {
        let mut decoder = Decoder::new(64);
        decoder.push(b"data: a\n", |_| ()).expect("decodes");
        assert!(decoder.is_mid_event());
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_how_the_bytes_were_cut(
            texts in prop::collection::vec("[a-zé:☃ ]{0,12}", 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut bytes = Vec::new();
            for text in &texts {
                encode_data(&mut bytes, text);
            }
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let expected: Vec<Event> = texts.iter().map(|text| data(text)).collect();
            prop_assert_eq!(decode(&chunks).expect("decodes"), expected);
        }
    }
}
