//! Sends an object's bytes at the pace of the moment, breaks off where it was told to, and books
//! every byte the kernel took. It knows no request.

use super::content::Body;
use super::pacer::Pacer;
use super::reply::{Break, Transfer};
use super::state::State;
use super::wire::Wire;
use std::io::{self, Write};

/// How much an unpaced connection sends between two looks at the faults.
const PIECE_BYTES: u64 = 1 << 20;
/// How much of a generated object is computed at once: it stays in the cache until it is sent.
const COMPUTED_BYTES: u64 = 128 << 10;

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Keep,
    Close,
    Reset,
}

/// Sends a transfer.
///
/// # Errors
/// The other side is gone, or the file has shrunk; the connection cannot go on.
pub(super) fn send(state: &State, wire: &mut Wire, pacer: &mut Pacer, transfer: &Transfer) -> io::Result<After> {
    let mut at = transfer.range.start;
    let mut breaks = transfer.breaks;
    let mut flips = transfer.flips.iter().filter(|flip| transfer.range.contains(&flip.0)).peekable();
    loop {
        if state.is_stopping() {
            return Ok(After::Close);
        }
        if let Some((place, how)) = breaks
            && at == place
        {
            state.books.fault(&transfer.name, how.kind());
            breaks = None;
            match how {
                Break::Reset => return Ok(After::Reset),
                Break::Short => return Ok(After::Close),
                Break::Stall(time) => wire.wait_or_gone(time),
            }
        }
        if at >= transfer.range.end {
            return Ok(After::Keep);
        }
        let faults = state.active();
        let flip = flips.next_if(|flip| flip.0 == at).copied();
        let end = if flip.is_some() { at + 1 } else { at + piece_bytes(&faults.faults, &transfer.object.body) };
        let stops = [Some(transfer.range.end), breaks.map(|stop| stop.0), flips.peek().map(|flip| flip.0)];
        let end = stops.into_iter().flatten().filter(|stop| *stop > at).fold(end, u64::min);
        state.pace(pacer, end - at, &faults.faults);
        send_piece(wire, transfer, at, end, flip)?;
        if flip.is_some() {
            state.books.fault(&transfer.name, "flip");
        }
        state.books.sent(&transfer.name, at..end);
        at = end;
    }
}

fn piece_bytes(faults: &super::faults::Faults, body: &Body) -> u64 {
    let rates = [faults.connection_bytes_per_second, faults.total_bytes_per_second];
    let paced = rates.into_iter().flatten().map(Pacer::piece_bytes).min().unwrap_or(PIECE_BYTES);
    if matches!(body, Body::Generated(_)) { paced.min(COMPUTED_BYTES) } else { paced }
}

/// Sends the bytes `[at, end)`, the first of them with a bit flipped if so told.
fn send_piece(wire: &mut Wire, transfer: &Transfer, at: u64, end: u64, flip: Option<(u64, u8)>) -> io::Result<()> {
    let count = usize::try_from(end - at).map_err(io::Error::other)?;
    if let Some((_, bit)) = flip {
        let mut byte = [0];
        transfer.object.body.read(at, &mut byte)?;
        return wire.write_all(&[byte[0] ^ (1 << bit)]);
    }
    match &transfer.object.body {
        Body::File(file) => wire.send_file(file, at, end - at),
        Body::Memory(bytes) => {
            let start = usize::try_from(at).map_err(io::Error::other)?;
            let part = bytes.get(start..start + count).ok_or(io::ErrorKind::UnexpectedEof)?;
            wire.write_all(part)
        }
        Body::Generated(generated) => {
            let mut piece = vec![0; count];
            generated.fill(at, &mut piece);
            wire.write_all(&piece)
        }
    }
}
