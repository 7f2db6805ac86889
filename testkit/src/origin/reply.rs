//! An answer before it is sent: a status, headers, and a body that is either text or a part of an
//! object with what shall go wrong on the way. It decides nothing.

use super::content::Object;
use std::ops::Range;
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Payload,
}

/// The part of a reply that follows its head.
#[derive(Debug)]
pub(super) enum Payload {
    Text(String),
    Object(Transfer),
    /// Nothing, though the head may promise this length (HEAD).
    Nothing(Option<u64>),
}

/// A part of an object on its way out.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) name: String,
    pub(super) object: Object,
    /// Places in the object, half-open.
    pub(super) range: Range<u64>,
    /// Bits to flip: place in the object and bit, in order.
    pub(super) flips: Vec<(u64, u8)>,
    /// Where and how it breaks off: a place in the object.
    pub(super) breaks: Option<(u64, Break)>,
}

/// How a body breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// Nothing comes for so long, or ever.
    Stall(Option<Duration>),
    Reset,
    Short,
}

impl Break {
    /// Its name in the account.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Stall(_) => "stall",
            Self::Reset => "reset",
            Self::Short => "short",
        }
    }
}

impl Reply {
    /// An answer of text.
    pub(super) fn text(status: u16, content_type: &str, text: String) -> Self {
        Self { status, headers: vec![("Content-Type", content_type.to_owned())], payload: Payload::Text(text) }
    }

    /// An answer of JSON.
    pub(super) fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::text(status, "application/json", value.to_string())
    }

    /// An answer without a body.
    pub(super) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), payload: Payload::Nothing((status != 304).then_some(0)) }
    }

    /// The same with a header more.
    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The bytes of the head.
    pub(super) fn head(&self, keep_alive: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            // A value made of a request's words must not open a new line.
            let value: String = value.chars().filter(|c| !c.is_control()).collect();
            head += &format!("{name}: {value}\r\n");
        }
        let length = match &self.payload {
            Payload::Text(text) => Some(text.len() as u64),
            Payload::Object(transfer) => Some(transfer.range.end - transfer.range.start),
            Payload::Nothing(length) => *length,
        };
        if let Some(length) = length {
            head += &format!("Content-Length: {length}\r\n");
        }
        head += if keep_alive { "Connection: keep-alive\r\n\r\n" } else { "Connection: close\r\n\r\n" };
        head.into_bytes()
    }
}

/// The reason phrase of a status (RFC 9110 §15, RFC 6585).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Other",
    }
}
