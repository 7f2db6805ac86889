//! `doctor`: this machine, and whether a model will run on it, why not, its needs and its likely speed.

use crate::cli::DoctorArgs;
use crate::config::Config;
use crate::out;
use crate::progress::size;
use crate::serve::url;
use loader::Loader;
use serde::Serialize;
use std::fmt::Write;
use telemetry::metrics::Registry;
use worker::doctor::{Machine, Needs, Unfit};

/// The answer about a model.
#[derive(Serialize)]
struct Answer {
    machine: Machine,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    needs: Option<Needs>,
    /// True if the model runs here, or none was asked about.
    runs: bool,
    /// The reason why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Looks at this machine, and at a model's headers; true if nothing stands against it.
pub(crate) async fn doctor(config: &Config, args: &DoctorArgs) -> anyhow::Result<bool> {
    let machine = Machine::look(&config.worker);
    let mut answer = Answer { machine, model: args.model.clone(), needs: None, runs: true, reason: None };
    if let Some(model) = &args.model {
        match needs(config, model, &answer.machine).await? {
            Ok(needs) => {
                answer.reason = answer.machine.lacks(&needs).map(|(least, memory)| {
                    format!(
                        "its weights, activations and a short context need {}, and this machine has {} of memory; take \
                         a model of fewer or shorter numbers",
                        size(least),
                        size(memory)
                    )
                });
                answer.needs = Some(needs);
            }
            Err(unfit) => answer.reason = Some(wire::Chain(&unfit).to_string()),
        }
        answer.runs = answer.reason.is_none();
    }
    out::line(if args.json { serde_json::to_string(&answer)? } else { shown(&answer) })?;
    Ok(answer.runs)
}

/// The needs of a model, or the reason why it runs nowhere.
async fn needs(config: &Config, model: &str, machine: &Machine) -> anyhow::Result<Result<Needs, Unfit>> {
    if model == models::demo::NAME {
        return Ok(Needs::of_demo(&config.worker, machine));
    }
    let loader = Loader::new(&config.loader, loader::remote::Env::from_process(), &Registry::new())?;
    let mut probe = loader.probe(&url(model)?).await?;
    Ok(Needs::of(&mut probe, &config.worker, machine))
}

fn shown(answer: &Answer) -> String {
    let Answer { machine, model, needs, runs: _, reason } = answer;
    let mut text = format!(
        "this machine: {} threads, {}, {} of memory, which they read at {}/s",
        machine.threads,
        machine.instruction_set,
        machine.memory_bytes.map_or_else(|| "an unknown amount".to_owned(), size),
        size(machine.read_bytes_per_s as u64),
    );
    let Some(model) = model else { return text };
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing to a text does not fail.
        let _ = write!(text, "\n{words}");
    };
    if let Some(needs) = needs {
        let formats: Vec<String> =
            needs.bytes_by_format.iter().map(|(format, bytes)| format!("{} of {format}", size(*bytes))).collect();
        let (count, unit) = match needs.parameters as f64 {
            few if few < 1e9 => (few / 1e6, "million"),
            many => (many / 1e9, "billion"),
        };
        line(format_args!("{model}: {}, {count:.2} {unit} parameters", needs.architecture));
        line(format_args!("  weights      {} ({})", size(needs.weights_bytes), formats.join(", ")));
        line(format_args!("  activations  {}", size(needs.activations_bytes)));
        let context = needs.kv_bytes_per_token * needs.context_tokens as u64;
        let (token, tokens) = (size(needs.kv_bytes_per_token), needs.context_tokens);
        line(format_args!("  context      {token} a token; {} for all {tokens}", size(context)));
        let (read, rate) = (size(needs.bytes_per_token), needs.tokens_per_s);
        line(format_args!("  decoding     reads {read} a token: at most {rate:.0} tokens/s of one short sequence"));
    }
    match reason {
        None => line(format_args!("  runs here")),
        Some(reason) => line(format_args!("  does not run here: {reason}")),
    }
    text
}
