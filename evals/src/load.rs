//! `forebay eval load`: an open-loop load test of a chat completions endpoint.
//!
//! Requests leave on a schedule that does not wait for answers, so a server that freezes cannot
//! hide the time during which nobody could be served (coordinated omission). What is reported is
//! a pure function of the event log: `schedule` and `prompts` say what to send, `pace` sends on
//! time, `client` and `answer` turn each exchange into one `RequestEvent`, `metrics` reads them.

mod answer;
mod args;
mod client;
mod event;
mod html;
mod metrics;
mod pace;
mod prompts;
mod report;
mod schedule;

pub use args::{LoadArgs, Slo, UsageError, Words, base_url};
pub use client::Clock;
pub use event::{Outcome, RequestEvent};
pub use metrics::{Distribution, Goodput, Summary, summarise};
pub use report::LoadReport;
pub use schedule::Arrivals;

use anyhow::{Context, bail};
use bytes::Bytes;
use client::Target;
use std::io::Write;
use std::path::Path;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The files of a run's folder.
const FILES: [&str; 3] = ["events.jsonl", "summary.json", "report.html"];

/// Runs the load test and returns its report; with `--out`, also writes the report's files. Ctrl-C, SIGTERM and a
/// terminal that closes break it off: what was measured by then is reported. So it is where the files cannot be written,
/// and the report says that they were not. Prints nothing but progress, and that only where stderr is a terminal.
///
/// # Errors
/// `UsageError` for arguments that cannot be honoured (exit code 2); otherwise a server that does
/// not answer the warm-up, or a folder that cannot be made.
pub async fn run(args: LoadArgs) -> anyhow::Result<LoadReport> {
    run_until(args, Interrupts::watch()?.next()).await
}

/// As [`run`], broken off when `interrupted` is over.
///
/// # Errors
/// As [`run`].
pub async fn run_until(args: LoadArgs, interrupted: impl Future<Output = ()>) -> anyhow::Result<LoadReport> {
    let base_url = args.base_url()?;
    let schedule_ns = args.schedule()?;
    let prompts = prompts::choose(&args)?;
    if let Some(folder) = &args.out {
        prepare(folder)?;
    }
    let target = Target::new(&base_url, &args)?;
    let mut interrupted = std::pin::pin!(interrupted);
    let getting_ready = async {
        let model = match &args.model {
            Some(model) => model.clone(),
            None => target.first_model().await?,
        };
        let bodies = prompts::encode(&prompts, &model, &args)?;
        warm_up(&target, &bodies, args.warm_up).await?;
        anyhow::Ok((model, bodies))
    };
    let (model, bodies) = tokio::select! {
        ready = getting_ready => ready?,
        () = &mut interrupted => bail!("interrupted while warming up: nothing was measured"),
    };
    let run = pace::run(target.clone(), bodies, schedule_ns, args.max_in_flight, interrupted).await?;
    let mut report = LoadReport::new(&args, base_url, model, &run);
    if let Some(folder) = &args.out {
        report.unwritten = write_files(folder, &report, &run.events).err().map(|error| format!("{error:#}"));
    }
    Ok(report)
}

/// The signals that break a run off.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Interrupts {
    fn watch() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("watching for signals");
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hang_up: watch(SignalKind::hangup())?,
        })
    }

    async fn next(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// `run`, and what is to be printed of it: the table, or one JSON object; with the exit code: 0 when the run is
/// valid and few enough requests failed, 1 otherwise.
///
/// # Errors
/// As `run`.
pub async fn command(args: LoadArgs) -> anyhow::Result<(u8, String)> {
    let json = args.json;
    let report = run(args).await?;
    let text = if json { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
    Ok((report.exit_code(), text))
}

/// Sends a few requests one after the other, so that connections, caches and lazy set-up on either
/// side are not measured, and so that a server that is not there is reported once.
async fn warm_up(target: &Target, bodies: &[Bytes], requests: u32) -> anyhow::Result<()> {
    for (number, body) in bodies.iter().cycle().take(requests as usize).enumerate() {
        let event = target.send(Clock::start(), number as u64, 0, body.clone()).await;
        if event.outcome != Outcome::Ok {
            bail!(
                "warming up: request {} of {requests} ended as {}: {} (use --warm-up 0 to measure a server that fails)",
                number + 1,
                event.outcome,
                event.detail.unwrap_or_default(),
            );
        }
    }
    Ok(())
}

/// Makes the folder of a run, before anything is measured.
fn prepare(folder: &Path) -> anyhow::Result<()> {
    if FILES.iter().any(|name| folder.join(name).exists()) {
        let shown = folder.display();
        return Err(UsageError(format!(
            "--out {shown}: that folder holds a run already; name another, or move it away"
        ))
        .into());
    }
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))
}

fn write_files(folder: &Path, report: &LoadReport, events: &[RequestEvent]) -> anyhow::Result<()> {
    let mut lines = String::new();
    for event in events {
        lines.push_str(&serde_json::to_string(event)?);
        lines.push('\n');
    }
    let texts = [lines, serde_json::to_string_pretty(report)? + "\n", html::page(report, events)];
    for (name, text) in FILES.into_iter().zip(texts) {
        let path = folder.join(name);
        let mut file = std::fs::File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
        file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
