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

pub use args::{LoadArgs, Slo, UsageError, Words};
pub use client::Clock;
pub use event::{Outcome, RequestEvent};
pub use metrics::{Distribution, Goodput, Summary, summarise};
pub use report::LoadReport;
pub use schedule::{Arrivals, arrival_times};

use anyhow::{Context, bail};
use bytes::Bytes;
use client::Target;
use std::path::Path;

/// Runs the load test and returns its report; with `--out`, also writes the report's files.
/// Prints nothing but progress, and that only where stderr is a terminal.
///
/// # Errors
/// `UsageError` for arguments that cannot be honoured (exit code 2); otherwise a server that does
/// not answer the warm-up, or files that cannot be written.
pub async fn run(args: LoadArgs) -> anyhow::Result<LoadReport> {
    let base_url = args.base_url()?;
    let schedule_ns = args.schedule()?;
    let prompts = prompts::choose(&args)?;
    let target = Target::new(&base_url, args.api_key.as_deref(), args.timeout, !args.no_stream, args.max_in_flight)?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => target.first_model().await?,
    };
    let bodies = prompts::encode(&prompts, &model, &args)?;
    warm_up(&target, &bodies, args.warm_up).await?;
    let events = pace::run(target, bodies, schedule_ns, args.max_in_flight).await?;
    let report = LoadReport::new(&args, base_url, model, &events);
    if let Some(folder) = &args.out {
        write_files(folder, &report, &events)?;
    }
    Ok(report)
}

/// `run`, then the table (or one JSON object) on stdout; returns the exit code: 0 when the run is
/// valid and few enough requests failed, 1 otherwise, 2 for a usage error.
///
/// # Errors
/// As `run`, except for usage errors, which are printed.
pub async fn command(args: LoadArgs) -> anyhow::Result<u8> {
    let json = args.json;
    let report = match run(args).await {
        Ok(report) => report,
        Err(error) if error.is::<UsageError>() => {
            eprintln!("error: {error:#}");
            return Ok(2);
        }
        Err(error) => return Err(error),
    };
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(report.exit_code())
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

fn write_files(folder: &Path, report: &LoadReport, events: &[RequestEvent]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut lines = String::new();
    for event in events {
        lines.push_str(&serde_json::to_string(event)?);
        lines.push('\n');
    }
    let files = [
        ("events.jsonl", lines),
        ("summary.json", serde_json::to_string_pretty(report)? + "\n"),
        ("report.html", html::page(report, events)),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
