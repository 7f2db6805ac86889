//! `forebay eval safety`: hunts for leaks in a screen, and for what it blocks by mistake.
//!
//! A trial plants one phrase, in one dress, into one channel of an answer or one place of a prompt, cuts it at random, and
//! looks at what comes out. What must come out is known from how the trial was made: in an answer the text before the
//! phrase and not a byte more, or all of it. Trials go round all combinations in turn. The screen is a value that is
//! handed in: bytes in, bytes out.

mod args;
mod report;
mod rules;
mod subject;
mod trial;

pub use args::SafetyArgs;
pub use report::SafetyReport;
pub use rules::RULES;
pub use subject::Subject;

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use trial::{Cell, Outcome, cells};

/// Runs the trials.
#[must_use]
pub fn run(args: &SafetyArgs, subject: &Subject<'_>) -> SafetyReport {
    let cells = cells();
    let threads =
        args.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get) as u64;
    let mut report = SafetyReport::new(&cells, args);
    let parts = std::thread::scope(|scope| {
        let part = |first| {
            let cells = &cells;
            scope.spawn(move || run_part(args, subject, cells, first, threads))
        };
        let running: Vec<_> = (0..threads).map(part).collect();
        let joined = running.into_iter().map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic)));
        joined.collect::<Vec<_>>()
    });
    for part in parts {
        part.into_iter().for_each(|(number, outcome)| report.note(&cells, number, outcome));
    }
    report
}

/// Runs every `step`th trial from `first` on; returns those that went wrong.
fn run_part(args: &SafetyArgs, subject: &Subject<'_>, cells: &[Cell], first: u64, step: u64) -> Vec<(u64, Outcome)> {
    let mut wrong = Vec::new();
    let mut number = first;
    while number < args.trials {
        let cell = &cells[(number % cells.len() as u64) as usize];
        let outcome = cell.run(args.seed, number, subject);
        if outcome != Outcome::Right {
            wrong.push((number, outcome));
        }
        number += step;
    }
    wrong
}
