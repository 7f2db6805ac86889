//! How far models are loaded, on standard error: one line that changes where a terminal shows it,
//! a plain line every tenth elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::sync::watch;
use wire::status::ModelPhase;
use worker::progress::ModelProgress;

/// The least time between two changes of the line; faster is not read.
const CHANGES: Duration = Duration::from_millis(200);
/// Carriage return, erase the line.
const REWRITE: &str = "\r\x1b[2K";

/// Shows the progress until every model is there or one cannot be served.
pub(crate) async fn show(mut progress: watch::Receiver<Vec<ModelProgress>>) {
    let is_terminal = std::io::stderr().is_terminal();
    let mut shown = None;
    loop {
        let models = progress.borrow_and_update().clone();
        let loading = models.iter().find(|model| model.phase == ModelPhase::Loading && model.bytes_total > 0);
        match loading {
            Some(model) if is_terminal => {
                eprint!("{REWRITE}{}", line(model));
                shown = Some(tenth(model));
            }
            Some(model) if shown != Some(tenth(model)) => {
                eprintln!("{}", line(model));
                shown = Some(tenth(model));
            }
            _ => {}
        }
        let is_over = models.iter().all(|model| model.is_ready() || model.phase == ModelPhase::Failed);
        if is_over || progress.changed().await.is_err() {
            break;
        }
        if is_terminal {
            tokio::time::sleep(CHANGES).await;
        }
    }
    if is_terminal && shown.is_some() {
        eprint!("{REWRITE}");
        // Nothing depends on it.
        let _ = std::io::stderr().flush();
    }
}

fn tenth(model: &ModelProgress) -> u64 {
    model.bytes_loaded * 10 / model.bytes_total.max(1)
}

/// `NAME: 42 % of 1.2 GB, 7 s to go`.
fn line(model: &ModelProgress) -> String {
    let percent = model.bytes_loaded * 100 / model.bytes_total.max(1);
    let eta = model.eta.map_or_else(String::new, |eta| format!(", {} s to go", eta.as_secs_f64().ceil()));
    format!("{}: {percent} % of {}{eta}", model.id, bytes(model.bytes_total))
}

#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn bytes(count: u64) -> String {
    match count {
        1_000_000_000.. => format!("{:.1} GB", count as f64 / 1e9),
        1_000_000.. => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{count} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_of_how_much_and_for_how_long() {
        let mut model = ModelProgress {
            id: "qwen".into(),
            phase: ModelPhase::Loading,
            bytes_loaded: 500_000_000,
            bytes_total: 1_200_000_000,
            eta: Some(Duration::from_millis(6_200)),
            ready_after: None,
            quantization: None,
            error: None,
        };
        assert_eq!(line(&model), "qwen: 41 % of 1.2 GB, 7 s to go");
        assert_eq!(tenth(&model), 4);
        (model.eta, model.bytes_total, model.bytes_loaded) = (None, 900, 0);
        assert_eq!(line(&model), "qwen: 0 % of 900 bytes");
    }
}
