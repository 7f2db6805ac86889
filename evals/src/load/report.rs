//! The report of a run: for people a table, for programs one JSON object.

use super::args::LoadArgs;
use super::metrics::{Distribution, Summary, summarise};
use super::pace::Run;
use super::schedule::Arrivals;
use serde::Serialize;
use std::fmt::{Display, Formatter, Result as FmtResult};

/// The fewest values whose 99th percentile, by nearest rank, is not their maximum.
const P99_VALUES_MIN: usize = 100;

/// The parameters of a run, and its numbers. Field names are stable: programs read them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadReport {
    /// This harness's release.
    pub harness: &'static str,
    /// The server's root.
    pub url: String,
    /// The model that was asked.
    pub model: String,
    /// Requests per second that were asked for.
    pub rate: f64,
    /// The process by which requests followed each other.
    pub arrivals: Arrivals,
    /// For how long requests were sent, in seconds.
    pub duration_s: f64,
    /// The seed of arrival times and prompts.
    pub seed: u64,
    /// True if answers were streamed.
    pub stream: bool,
    /// The most tokens of an answer.
    pub max_tokens: u32,
    /// The share of failures up to which the run passes.
    pub max_error_rate: f64,
    /// True if the run was broken off: then the numbers are of the requests that were over.
    pub interrupted: bool,
    /// True if the run may be believed: the harness sent on time and dropped nothing.
    pub valid: bool,
    /// True if the run is valid and few enough requests failed.
    pub passed: bool,
    /// The reason why the files of `--out` were not all written, if so.
    pub unwritten: Option<String>,
    /// The numbers.
    #[serde(flatten)]
    pub summary: Summary,
}

impl LoadReport {
    pub(super) fn new(args: &LoadArgs, url: String, model: String, run: &Run) -> Self {
        let mut summary = summarise(&run.events, args.rate, args.slo.as_ref());
        if run.is_interrupted {
            let over = run.events.len();
            summary.invalid.push(format!("the run was interrupted when {over} requests were over"));
        }
        let valid = summary.invalid.is_empty();
        Self {
            harness: concat!("forebay ", env!("CARGO_PKG_VERSION")),
            url,
            model,
            rate: args.rate,
            arrivals: args.arrivals,
            duration_s: args.duration.as_secs_f64(),
            seed: args.seed,
            stream: !args.no_stream,
            max_tokens: args.max_tokens,
            max_error_rate: args.max_error_rate,
            interrupted: run.is_interrupted,
            valid,
            passed: valid && summary.error_rate <= args.max_error_rate,
            unwritten: None,
            summary,
        }
    }

    /// 0 when the run passed and its files were written, 1 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.passed || self.unwritten.is_some())
    }

    /// The latencies, each with its name, most important first.
    pub(super) fn rows(&self) -> [(&'static str, Option<&Distribution>); 9] {
        let summary = &self.summary;
        [
            ("TTFT from schedule", summary.ttft_scheduled_ms.as_ref()),
            ("TTFT from send", summary.ttft_ms.as_ref()),
            ("ITL, pooled gaps", summary.itl_ms.as_ref()),
            ("TPOT", summary.tpot_ms.as_ref()),
            ("E2E from schedule", summary.e2e_scheduled_ms.as_ref()),
            ("E2E from send", summary.e2e_ms.as_ref()),
            ("first chunk", summary.ttfc_ms.as_ref()),
            ("headers", summary.ttfb_ms.as_ref()),
            ("send lag (harness)", summary.send_lag_ms.as_ref()),
        ]
    }

    /// The run in one line.
    pub(super) fn title(&self) -> String {
        let arrivals = match self.arrivals {
            Arrivals::Poisson => "Poisson arrivals",
            Arrivals::Constant => "evenly spaced",
        };
        let stream = if self.stream { "streamed" } else { "not streamed" };
        format!(
            "{} at {}: {} requests/s for {} s, {arrivals}, seed {}, {stream}",
            self.model, self.url, self.rate, self.duration_s, self.seed
        )
    }

    /// The verdict in one line.
    pub(super) fn verdict(&self) -> String {
        let share = self.summary.error_rate * 100.0;
        if !self.valid {
            return format!("INVALID: {}", self.summary.invalid.join("; "));
        }
        if self.passed {
            return format!("passed: {share:.2} % failed, at most {:.2} % allowed", self.max_error_rate * 100.0);
        }
        format!("FAILED: {share:.2} % of the requests failed, at most {:.2} % allowed", self.max_error_rate * 100.0)
    }
}

impl Display for LoadReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        let summary = &self.summary;
        writeln!(f, "{}\n", self.title())?;
        let heads = ["mean", "p50", "p90", "p99", "max", "count"];
        write!(f, "{:<20}", "milliseconds")?;
        for head in heads {
            write!(f, "{head:>11}")?;
        }
        writeln!(f)?;
        for (name, row) in self.rows() {
            let Some(row) = row else { continue };
            write!(f, "{name:<20}")?;
            for value in [row.mean, row.p50, row.p90, row.p99, row.max] {
                write!(f, "{value:>11.3}")?;
            }
            writeln!(f, "{:>11}", row.count)?;
        }
        if self.rows().iter().any(|(_, row)| row.is_some_and(|row| row.count < P99_VALUES_MIN)) {
            writeln!(f, "(p99 of fewer than {P99_VALUES_MIN} values is their maximum)")?;
        }
        writeln!(
            f,
            "\n{} of {} requests answered in {:.2} s: {:.2} requests/s, {:.1} output tokens/s",
            summary.ok, summary.attempted, summary.window_s, summary.requests_per_s, summary.output_tokens_per_s
        )?;
        if summary.empty_answers > 0 {
            writeln!(f, "{} answers held no text", summary.empty_answers)?;
        }
        if let Some(goodput) = &summary.goodput {
            let share = goodput.share * 100.0;
            writeln!(
                f,
                "goodput: {} met every limit ({share:.2} %), {:.2} requests/s",
                goodput.good, goodput.requests_per_s
            )?;
        }
        for (outcome, count) in summary.outcomes.iter().filter(|(outcome, _)| **outcome != "ok") {
            let example = summary.examples.get(outcome).map(|example| format!(", such as: {example}"));
            writeln!(f, "{count} × {outcome}{}", example.unwrap_or_default())?;
        }
        if let Some(reason) = &self.unwritten {
            writeln!(f, "NOT WRITTEN: {reason}")?;
        }
        writeln!(f, "{}", self.verdict())
    }
}
