//! Output of commands: results on standard output, remarks on standard error. Neither a closed pipe nor a full disk
//! makes it panic.

use crate::visible::visible;
use std::borrow::Cow;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// The reader of standard output has left, as `| head` does: it has had what it wanted.
#[derive(Debug, Error)]
#[error("standard output was closed")]
pub(crate) struct Closed;

/// The state behind `has_written`.
static HAS_WRITTEN: AtomicBool = AtomicBool::new(false);

/// Returns true if anything was written to standard output.
pub(crate) fn has_written() -> bool {
    HAS_WRITTEN.load(Ordering::Relaxed)
}

/// Writes bytes to standard output.
///
/// # Errors
/// `Closed` where nobody reads; otherwise what the system says.
pub(crate) fn write(bytes: &[u8]) -> anyhow::Result<()> {
    HAS_WRITTEN.store(true, Ordering::Relaxed);
    let mut out = stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|cause| match cause.kind() {
        ErrorKind::BrokenPipe => anyhow::Error::new(Closed),
        _ => anyhow::Error::new(cause).context("writing to standard output"),
    })
}

/// Writes text to standard output; on a terminal, text that could drive it is shown as text.
///
/// # Errors
/// As `write`.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    write(shown(text, stdout().is_terminal()).as_bytes())
}

/// Writes a line to standard output, as `text` does.
///
/// # Errors
/// As `write`.
pub(crate) fn line(line: impl Display) -> anyhow::Result<()> {
    text(&format!("{line}\n"))
}

/// Writes a line to standard error, above the progress that is shown there. Nobody waits for a remark, so one that
/// cannot be written is lost. It may quote a server: on a terminal it is shown as text.
pub(crate) fn remark(text: impl Display) {
    let text = text.to_string();
    let text = shown(&text, stderr().is_terminal());
    telemetry::terminal::write(format!("{}\n", telemetry::mask(&text)).as_bytes());
    let _ = stderr().flush();
}

fn shown(text: &str, is_terminal: bool) -> Cow<'_, str> {
    if is_terminal { visible(text).into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_driven_by_nobody_and_a_pipe_gets_every_byte() {
        let text = "a model \u{1b}]0;named\u{7} so\r\n";
        assert_eq!(shown(text, true), "a model ␛]0;named␇ so␍\n");
        assert_eq!(shown(text, false), text);
    }
}
