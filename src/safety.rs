//! The screen of this program, as `forebay eval safety` tries it: policy decides, the router's gate passes.

use crate::out;
use anyhow::Context;
use bytes::Bytes;
use evals::safety::{RULES, SafetyArgs, SafetyReport, Subject};
use policy::{Admitted, Facts, Identified, Moment, Policy, Presented};
use std::process::ExitCode;
use std::time::Duration;
use wire::openai::scan::{Limits, scan};
use wire::openai::{CHAT, COMPLETIONS, Endpoint};

/// A request that asks for nothing in particular.
const REQUEST: &str = r#"{"messages":[]}"#;
/// The choices of an answer under trial.
const CHOICES: usize = 2;

/// Runs the hunt and prints its report.
///
/// # Errors
/// The rules cannot be compiled.
pub(crate) fn command(args: &SafetyArgs) -> anyhow::Result<ExitCode> {
    let report = hunt(args)?;
    if args.json {
        out::line(serde_json::to_string(&report)?)?;
    } else {
        out::write(report.to_string().as_bytes())?;
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn hunt(args: &SafetyArgs) -> anyhow::Result<SafetyReport> {
    let config = serde_json::from_value(serde_json::json!({"deny_list": {"phrases": RULES}}))?;
    let policy = Policy::new(&config)?;
    let who = policy.identify(Presented::Nothing, None, Moment(Duration::ZERO))?;
    let admits = |endpoint, body: &str| admit(&policy, &who, endpoint, body);
    admits(&CHAT, REQUEST).context("deciding over a request without a prompt")?;
    let stream = |pieces: Vec<Bytes>| match admits(&CHAT, REQUEST) {
        Some(admitted) => router::pass_stream(admitted, CHOICES, pieces),
        None => Bytes::new(),
    };
    let refuses = |path: &str, body: &str| {
        let endpoint = if CHAT.paths.contains(&path) { &CHAT } else { &COMPLETIONS };
        admits(endpoint, body).is_none()
    };
    Ok(evals::safety::run(args, &Subject { stream: &stream, refuses: &refuses }))
}

fn admit(policy: &Policy, who: &Identified, endpoint: &'static Endpoint, body: &str) -> Option<Admitted> {
    let scan = scan(body.as_bytes(), endpoint, &Limits::default()).ok()?;
    policy.decide(&Facts { who, endpoint, body: body.as_bytes(), scan: &scan }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaks_and_nothing_is_blocked_by_mistake() {
        let args = SafetyArgs { trials: 20_000, seed: 7, threads: None, json: false };
        let report = hunt(&args).expect("runs");
        assert!(report.is_clean() && report.trials_per_cell > 3, "{report}");
    }
}
