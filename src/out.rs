//! Output of commands: results on standard output, remarks on standard error. Neither a closed pipe nor a full disk
//! makes it panic.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};
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

/// Writes a line to standard output.
///
/// # Errors
/// As `write`.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Writes a line to standard error, above the progress that is shown there. Nobody waits for a remark, so one that
/// cannot be written is lost.
pub(crate) fn remark(text: impl Display) {
    telemetry::terminal::write(format!("{}\n", telemetry::mask(&text.to_string())).as_bytes());
    let _ = stderr().flush();
}
