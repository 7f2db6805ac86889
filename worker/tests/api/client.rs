//! A plain HTTP/1.1 client for tests: it sees what is on the wire, and can leave in the middle.
//!
//! It knows no OpenAI type: bodies come back as JSON values, streams as events.

use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::sse::{Decoder, Event};

/// How long anything may take before a test gives up; far above what it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An answer's head, and its body so far.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("the body is UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|cause| panic!("{cause} in {}", self.text()))
    }
}

/// A request that has been sent, its head read, its body yet to come.
pub(crate) struct Open {
    pub(crate) reply: Reply,
    socket: TcpStream,
    raw: Vec<u8>,
    is_chunked: bool,
    is_over: bool,
}

/// Sends a request and reads the answer's head.
pub(crate) async fn open(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Open {
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if headers.iter().all(|(name, _)| *name != "host") {
        head.push_str("host: 127.0.0.1\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    socket.write_all(head.as_bytes()).await.expect("sends the head");
    // A server that refuses an oversized body need not read all of it.
    let _ = socket.write_all(body).await;
    let mut raw = Vec::new();
    let end = loop {
        if let Some(end) = find(&raw, b"\r\n\r\n") {
            break end;
        }
        let read = tokio::time::timeout(PATIENCE, socket.read_buf(&mut raw)).await.expect("a head in time");
        assert!(read.expect("reads") > 0, "the connection ended within the head");
    };
    let head = String::from_utf8(raw[..end].to_vec()).expect("an ASCII head");
    raw.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let is_chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let reply = Reply { status: status.expect("a status"), headers, body: Vec::new() };
    Open { reply, socket, raw, is_chunked, is_over: false }
}

impl Open {
    /// Reads once; false at the end of the body.
    pub(crate) async fn more(&mut self) -> bool {
        if self.is_over {
            return false;
        }
        let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.raw)).await.expect("bytes in time");
        let is_end = read.unwrap_or(0) == 0;
        self.decode();
        self.is_over |= is_end;
        !self.is_over
    }

    /// Reads to the end of the body.
    pub(crate) async fn finish(mut self) -> Reply {
        self.decode();
        while self.more().await {}
        self.reply
    }

    fn decode(&mut self) {
        if !self.is_chunked {
            self.reply.body.append(&mut self.raw);
            return;
        }
        while let Some(line) = find(&self.raw, b"\r\n") {
            let size = std::str::from_utf8(&self.raw[..line]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
            let size = size.expect("a chunk's size");
            if self.raw.len() < line + 2 + size + 2 {
                return;
            }
            self.reply.body.extend_from_slice(&self.raw[line + 2..line + 2 + size]);
            self.raw.drain(..line + 2 + size + 2);
            self.is_over |= size == 0;
        }
    }

    /// The complete events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        events(&self.reply.body)
    }
}

/// The events of a body.
pub(crate) fn events(body: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    Decoder::new(1 << 20).push(body, |event| events.push(event)).expect("an event stream");
    events
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
