//! The names of members that nobody knows, in a form that a response's header can carry whatever a client wrote.

use super::unescape::unescape;
use std::fmt::{Display, Formatter, Result, Write};

/// The most names kept.
const NAMES_MAX: usize = 32;
/// The most bytes of one, its path included.
const NAME_BYTES_MAX: usize = 64;
/// The end of a name that was cut.
const CUT: &str = "...";

/// The object that holds a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Top,
    /// `stream_options`.
    Options,
    Message(u32),
    Part(u32, u32),
}

impl Display for Place {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        match self {
            Self::Top => Ok(()),
            Self::Options => out.write_str("stream_options."),
            Self::Message(message) => write!(out, "messages[{message}]."),
            Self::Part(message, part) => write!(out, "messages[{message}].content[{part}]."),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Unknown {
    names: Vec<String>,
}

impl Unknown {
    /// Adds a member's name, as it stands between its quotes.
    pub(super) fn add(&mut self, place: Place, raw: &[u8]) {
        if self.names.len() == NAMES_MAX {
            return;
        }
        // A byte takes at most six as an escape of JSON.
        let raw = &raw[..raw.len().min(6 * NAME_BYTES_MAX)];
        let mut name = place.to_string();
        for byte in unescape(raw).bytes() {
            let length = name.len();
            if byte.is_ascii_graphic() && !matches!(byte, b',' | b'%' | b'"' | b'\\' | b';') {
                name.push(byte.into());
            } else {
                // Writing to a string does not fail.
                _ = write!(name, "%{byte:02X}");
            }
            if name.len() > NAME_BYTES_MAX - CUT.len() {
                name.truncate(length);
                name.push_str(CUT);
                break;
            }
        }
        if !self.names.contains(&name) {
            self.names.push(name);
        }
    }

    pub(super) fn into_names(self) -> Vec<String> {
        self.names
    }
}
