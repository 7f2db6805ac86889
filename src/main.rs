//! The `forebay` command: it wires the rooms together and holds no logic of its own.

mod bundle;
mod cache;
mod chat;
mod cli;
mod config;
mod config_docs;
mod doctor;
mod fleet;
mod follow;
mod instead;
mod model;
mod node;
mod out;
mod peers;
mod policy_bundle;
mod progress;
mod run;
mod safety;
mod secrets;
mod serve;
mod signals;
mod visible;

use clap::Parser;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

/// The exit code of arguments that mean nothing.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Known before the arguments are understood, since they may not be.
    let wants_json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    match cli::Cli::try_parse_from(arguments) {
        Ok(cli) => run::run(cli).unwrap_or_else(|error| failed(&error, wants_json)),
        Err(answer) if !answer.use_stderr() => help(&answer.render()),
        Err(error) => {
            if wants_json {
                say_as_json(&first_line(&error));
            }
            // Nothing better can be done where it cannot be printed.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE))
        }
    }
}

/// Prints help or the version, in colours where a person reads.
fn help(text: &clap::builder::StyledStr) -> ExitCode {
    let text = if std::io::stdout().is_terminal() { text.ansi().to_string() } else { text.to_string() };
    out::write(text.as_bytes()).map_or_else(|error| failed(&error, false), |()| ExitCode::SUCCESS)
}

/// Says why a command failed: once, cause by cause, on standard error, and with `--json` on standard output as well.
fn failed(error: &anyhow::Error, wants_json: bool) -> ExitCode {
    if error.is::<out::Closed>() {
        return ExitCode::SUCCESS;
    }
    let told = wire::Chain(error.as_ref()).to_string();
    // A result that was reported is the command's one object.
    if wants_json && !out::has_written() {
        say_as_json(&told);
    }
    out::remark(format_args!("forebay: {told}"));
    if error.is::<evals::load::UsageError>() {
        return ExitCode::from(USAGE);
    }
    ExitCode::from(error.downcast_ref::<signals::Ended>().map_or(1, signals::Ended::exit_code))
}

fn say_as_json(message: &str) {
    // The exit code tells of the failure where this cannot.
    let _ = out::line(serde_json::json!({"error": {"message": telemetry::mask(message)}}));
}

/// A usage error without the usage.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}
