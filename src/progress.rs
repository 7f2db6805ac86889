//! Progress of long work on standard error: one line that changes where a terminal can show it, and elsewhere a plain
//! line now and then, if the work takes long.

use std::time::{Duration, Instant};
use telemetry::terminal;
use tokio::sync::watch;
use wire::status::ModelPhase;
use worker::progress::ModelProgress;

/// The least time between two changes of the line; faster is not read.
const CHANGES: Duration = Duration::from_millis(200);
/// The time between two plain lines. What is done sooner says nothing.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress that is being shown, until it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    every: Duration,
    last: Instant,
}

impl Progress {
    /// Shows nothing yet.
    pub(crate) fn begin() -> Self {
        Self { every: if terminal::is_rich() { CHANGES } else { LINE_EVERY }, last: Instant::now() }
    }

    /// Shows that `done` of `total` bytes are done, if it is time.
    pub(crate) fn show(&mut self, what: &str, done: u64, total: u64, eta_seconds: Option<f64>) {
        if total == 0 || self.last.elapsed() < self.every {
            return;
        }
        self.last = Instant::now();
        if terminal::is_rich() {
            terminal::show(&changing(what, done, total, eta_seconds));
        } else {
            terminal::write(format!("{}\n", plain(what, done, total, eta_seconds)).as_bytes());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        terminal::clear();
    }
}

/// Shows the progress of models until every one is there or one cannot be served.
pub(crate) async fn show(mut models: watch::Receiver<Vec<ModelProgress>>) {
    let mut progress = Progress::begin();
    loop {
        let now = models.borrow_and_update().clone();
        if let Some(model) = now.iter().find(|model| model.phase == ModelPhase::Loading) {
            let eta = model.eta.map(|eta| eta.as_secs_f64());
            progress.show(&model.id, model.bytes_loaded, model.bytes_total, eta);
        }
        let is_over = now.iter().all(|model| model.is_ready() || model.phase == ModelPhase::Failed);
        if is_over || models.changed().await.is_err() {
            return;
        }
    }
}

/// `NAME: 42 % of 1.2 GB, 7 s left`.
fn changing(what: &str, done: u64, total: u64, eta_seconds: Option<f64>) -> String {
    format!("{what}: {} % of {}{}", done.saturating_mul(100) / total.max(1), size(total), left(eta_seconds))
}

/// `NAME: 500.0 MB of 1.2 GB, 7 s left`.
fn plain(what: &str, done: u64, total: u64, eta_seconds: Option<f64>) -> String {
    format!("{what}: {} of {}{}", size(done), size(total), left(eta_seconds))
}

fn left(eta_seconds: Option<f64>) -> String {
    eta_seconds.map_or_else(String::new, |seconds| format!(", {} s left", seconds.ceil()))
}

/// A number of bytes, for people.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_of_how_much_and_for_how_long() {
        let (done, total) = (500_000_000, 1_200_000_000);
        assert_eq!(changing("qwen", done, total, Some(6.2)), "qwen: 41 % of 1.2 GB, 7 s left");
        assert_eq!(plain("qwen", done, total, Some(6.2)), "qwen: 500.0 MB of 1.2 GB, 7 s left");
        assert_eq!(changing("qwen", 0, 900, None), "qwen: 0 % of 900 B");
    }
}
