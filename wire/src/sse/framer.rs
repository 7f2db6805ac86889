//! Events together with the bytes they were: for whoever passes a stream on and changes little.
//!
//! Joined, the bytes of all frames are the bytes of the stream. A frame ends where an event ends,
//! so that nothing put between two frames lands inside an event.

use super::{Decoder, Event, SseError};
use bytes::{Bytes, BytesMut};

/// An event or what stood between two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The bytes as they came.
    pub raw: Bytes,
    /// The event; `None` for comments, empty lines, and events without data.
    pub event: Option<Event>,
    /// True if the bytes hold what is not in the event: comments, ids, fields nobody knows.
    pub has_more: bool,
}

/// Cuts a stream into frames.
#[derive(Debug)]
pub struct Framer {
    decoder: Decoder,
    limit_bytes: usize,
    /// Bytes of a frame that is not complete.
    pending: BytesMut,
    /// Lines end with CR LF, so a CR at the end of a read is only half of a line's end.
    has_crlf: bool,
    /// Such a CR, which `decoder` has not seen.
    holds_cr: bool,
    /// The last byte that `decoder` has seen is a CR.
    after_cr: bool,
}

impl Framer {
    /// A framer that refuses events of more than `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            decoder: Decoder::new(limit_bytes),
            limit_bytes,
            pending: BytesMut::new(),
            has_crlf: false,
            holds_cr: false,
            after_cr: false,
        }
    }

    /// Takes the next bytes and appends the frames they complete to `frames`.
    ///
    /// # Errors
    /// An oversized event or a line that is not UTF-8; the stream is unusable afterwards. Frames
    /// that were complete before are in `frames`.
    pub fn push(&mut self, data: Bytes, frames: &mut Vec<Frame>) -> Result<(), SseError> {
        let data = if std::mem::take(&mut self.holds_cr) { [b"\r", &data[..]].concat().into() } else { data };
        let mut begun = 0;
        let mut at = 0;
        while at < data.len() {
            let end = line_end(&data, at);
            let line = &data[at..end];
            if line.ends_with(b"\r") && end == data.len() && self.has_crlf {
                self.holds_cr = true;
                self.line(&line[..line.len() - 1])?;
                break;
            }
            let event = self.line(line)?;
            at = end;
            if self.decoder.is_between_events() {
                frames.push(self.frame(data.slice(begun..at), event));
                begun = at;
            }
        }
        // The held CR comes back with the next bytes.
        let rest = &data[begun..data.len() - usize::from(self.holds_cr)];
        self.pending.extend_from_slice(rest);
        // Lines that carry no data are not counted by the decoder; twice the limit is enough.
        if self.pending.len() / 2 > self.limit_bytes {
            return Err(SseError::TooLarge { limit_bytes: self.limit_bytes });
        }
        Ok(())
    }

    /// Says that the stream ended: the last event where only its empty line is missing, with the
    /// bytes that came of it.
    ///
    /// # Errors
    /// As `push`.
    pub fn finish(&mut self) -> Result<Option<Frame>, SseError> {
        if std::mem::take(&mut self.holds_cr) {
            self.pending.extend_from_slice(b"\r");
        }
        let event = self.decoder.finish()?;
        Ok(event.map(|event| self.frame(Bytes::new(), Some(event))))
    }

    /// Hands one line, with its end where that has come, to the decoder.
    fn line(&mut self, line: &[u8]) -> Result<Option<Event>, SseError> {
        if line.is_empty() {
            return Ok(None);
        }
        self.has_crlf |= line.ends_with(b"\r\n") || (self.after_cr && line == b"\n");
        self.after_cr = line.ends_with(b"\r");
        let mut event = None;
        self.decoder.push(line, |found| event = Some(found))?;
        Ok(event)
    }

    fn frame(&mut self, end: Bytes, event: Option<Event>) -> Frame {
        let raw = if self.pending.is_empty() {
            end
        } else {
            self.pending.extend_from_slice(&end);
            self.pending.split().freeze()
        };
        Frame { raw, event, has_more: std::mem::take(&mut self.decoder.has_more) }
    }
}

/// Where the line that begins at `at` ends, its CR, LF or CR LF included; the end of `data` where it goes on.
fn line_end(data: &[u8], at: usize) -> usize {
    match data[at..].iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        None => data.len(),
        Some(length) => {
            let end = at + length + 1;
            end + usize::from(data[end - 1] == b'\r' && data.get(end) == Some(&b'\n'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(pieces: &[&[u8]], limit_bytes: usize) -> Result<Vec<Frame>, SseError> {
        let mut framer = Framer::new(limit_bytes);
        let mut frames = Vec::new();
        for piece in pieces {
            framer.push(Bytes::copy_from_slice(piece), &mut frames)?;
        }
        frames.extend(framer.finish()?);
        Ok(frames)
    }

    fn shown(pieces: &[&str]) -> Vec<(String, Option<String>)> {
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        let show =
            |frame: Frame| (String::from_utf8(frame.raw.to_vec()).expect("text"), frame.event.map(|event| event.data));
        frames(&pieces, 64).expect("decodes").into_iter().map(show).collect()
    }

    #[test]
    fn a_frame_is_a_whole_event_or_a_comment() {
        let of = |raw: &str, data: Option<&str>| (raw.to_owned(), data.map(str::to_owned));
        assert_eq!(
            shown(&["data: a\n", "\ndata: b", "\n\n: ping\nda", "ta: c\r\n\r\n"]),
            [
                of("data: a\n\n", Some("a")),
                of("data: b\n\n", Some("b")),
                of(": ping\n", None),
                of("data: c\r\n\r\n", Some("c"))
            ]
        );
        assert_eq!(shown(&["event: error\n", "data: x\n\n"]), [of("event: error\ndata: x\n\n", Some("x"))]);
    }

    #[test]
    fn the_end_of_the_stream_ends_its_last_event() {
        for end in ["", "\n", "\r", "\r\n"] {
            let last = shown(&["data: a\n\ndata: [DO", "NE]", end]).pop().expect("an event");
            assert_eq!(last, (format!("data: [DONE]{end}"), Some("[DONE]".into())), "{end:?}");
        }
        assert_eq!(shown(&["data: a\n\n"]).len(), 1);
    }

    #[test]
    fn a_cr_lf_is_not_torn_apart() {
        let cut = shown(&["data: a\r\n\r", "\ndata: b\r\n\r\n"]);
        assert_eq!(cut.iter().map(|(raw, _)| raw.as_str()).collect::<Vec<_>>(), ["data: a\r\n\r\n", "data: b\r\n\r\n"]);
        // Where lines end with CR alone nothing is waited for.
        let mut framer = Framer::new(64);
        let mut frames = Vec::new();
        framer.push(Bytes::from("data: a\r\r"), &mut frames).expect("decodes");
        assert_eq!(frames.len(), 1);
    }

    #[test]
    fn what_is_not_in_the_event_is_told() {
        for (raw, has_more) in [
            ("data: a\n\n", false),
            ("event: x\ndata: a\r\n\n", false),
            ("data: a\n: secret\n\n", true),
            ("id: secret\ndata: a\n\n", true),
            ("database: secret\ndata: a\n\n", true),
            ("data\ndata: a\n\n", false),
        ] {
            assert_eq!(frames(&[raw.as_bytes()], 64).expect("decodes")[0].has_more, has_more, "{raw:?}");
        }
    }

    #[test]
    fn a_flood_of_lines_without_data_is_bounded() {
        let flood = vec![b"id: 123\n".as_slice(); 100];
        assert_eq!(frames(&flood, 64), Err(SseError::TooLarge { limit_bytes: 64 }));
    }

    proptest! {
        #[test]
        fn frames_do_not_depend_on_cuts_and_keep_every_byte(
            texts in prop::collection::vec("[a-zé☃:]{0,9}", 0..6),
            forms in prop::collection::vec(prop::sample::select(vec!["data: ", "data:", ": ", "event: x\ndata: "]), 6),
            end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
        ) {
            let whole: String = texts.iter().zip(&forms).map(|(text, form)| format!("{form}{text}{end}{end}")).collect();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            at.extend([0, whole.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &whole.as_bytes()[pair[0]..pair[1]]).collect();
            let cut = frames(&pieces, 64).expect("decodes");
            let joined: Vec<u8> = cut.iter().flat_map(|frame| frame.raw.to_vec()).collect();
            prop_assert_eq!(joined, whole.as_bytes());
            let events = |frames: Vec<Frame>| frames.into_iter().filter_map(|frame| frame.event).collect::<Vec<_>>();
            prop_assert_eq!(events(cut), events(frames(&[whole.as_bytes()], 64).expect("decodes")));
        }
    }
}
