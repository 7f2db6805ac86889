//! Standard error, shared by the log and the progress that a terminal shows: they never share a line.

use parking_lot::Mutex;
use std::io::{self, IsTerminal, Write, stderr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Back to the line's beginning, and erase it.
const ERASE: &[u8] = b"\r\x1b[2K";

/// The line that is shown below everything else; empty where there is none.
static SHOWN: Mutex<String> = Mutex::new(String::new());
static IS_RICH: LazyLock<bool> = LazyLock::new(|| stderr().is_terminal() && !is_dumb());

/// True while something on the terminal has begun a line and not ended it.
static IS_MID_LINE: AtomicBool = AtomicBool::new(false);

/// Says that a command writes a line piece by piece, such as an answer: what is logged meanwhile begins a new one.
pub fn set_mid_line(is_mid_line: bool) {
    IS_MID_LINE.store(is_mid_line, Ordering::Relaxed);
}

/// Returns true if standard error is a terminal that can change a line.
#[must_use]
pub fn is_rich() -> bool {
    *IS_RICH
}

/// Returns true if colours are wanted: on a terminal that is not dumb, and without `NO_COLOR`.
#[must_use]
pub fn has_colours() -> bool {
    is_rich() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Shows a line below everything else, in place of the one before. On a terminal that cannot, nothing is shown.
pub fn show(line: &str) {
    if is_rich() {
        let mut shown = SHOWN.lock();
        line.clone_into(&mut shown);
        put(&[ERASE, shown.as_bytes()].concat());
    }
}

/// Takes that line away.
pub fn clear() {
    let mut shown = SHOWN.lock();
    if !shown.is_empty() {
        shown.clear();
        put(ERASE);
    }
}

/// Writes whole lines above the one that is shown.
pub fn write(lines: &[u8]) {
    let shown = SHOWN.lock();
    if is_rich() && IS_MID_LINE.swap(false, Ordering::Relaxed) {
        put(&[b"\n", lines].concat());
    } else if shown.is_empty() {
        put(lines);
    } else {
        put(&[ERASE, lines, shown.as_bytes()].concat());
    }
}

/// Writes at once, so that other processes' lines are not cut. Standard error is where failures are told: one of its
/// own can be told nowhere.
fn put(bytes: &[u8]) {
    let mut out = stderr().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// The log's writer. Passwords in URLs do not get through.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    /// Each call is one event: `tracing_subscriber` formats it whole.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        write(crate::mask(&String::from_utf8_lossy(event)).as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
