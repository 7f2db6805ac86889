//! The `forebay` command: it wires the rooms together and holds no logic of its own.

mod bundle;
mod cache;
mod chat;
mod cli;
mod config;
mod config_docs;
mod model;
mod progress;
mod run;
mod serve;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match run::run(cli) {
        Ok(code) => code,
        Err(error) => {
            // The chain once, cause by cause; usage errors were answered by clap with status 2.
            eprintln!("forebay: {error:#}");
            ExitCode::FAILURE
        }
    }
}
