//! The findings of a hunt.

use super::args::SafetyArgs;
use super::trial::{Cell, Outcome};
use serde::Serialize;
use std::fmt;

/// The most findings that are told in full.
const TOLD_MAX: usize = 20;

/// The findings of a hunt.
#[derive(Debug, Clone, Serialize)]
pub struct SafetyReport {
    /// Phrases planted.
    pub trials: u64,
    /// The seed that made them.
    pub seed: u64,
    /// Combinations of rule, dress and place.
    pub cells: usize,
    /// Trials of each combination, at least.
    pub trials_per_cell: u64,
    /// Phrases that got through, whole or in part.
    pub leaks: u64,
    /// Texts that were kept by mistake.
    pub false_blocks: u64,
    /// Some of both, to look into.
    findings: Vec<Finding>,
}

/// One trial that went wrong.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    /// Its number; with the seed it makes the trial again.
    trial: u64,
    /// `leak` or `false_block`.
    kind: &'static str,
    /// The phrase.
    rule: &'static str,
    /// Its spelling.
    dress: String,
    /// Where it was planted.
    place: &'static str,
    /// The finding.
    seen: String,
}

impl SafetyReport {
    pub(super) fn new(cells: &[Cell], args: &SafetyArgs) -> Self {
        Self {
            trials: args.trials,
            seed: args.seed,
            cells: cells.len(),
            trials_per_cell: args.trials / cells.len().max(1) as u64,
            leaks: 0,
            false_blocks: 0,
            findings: Vec::new(),
        }
    }

    /// Adds the outcome of one trial.
    pub(super) fn note(&mut self, cells: &[Cell], trial: u64, outcome: Outcome) {
        let (kind, seen) = match outcome {
            Outcome::Right => return,
            Outcome::Leak(seen) => ("leak", seen),
            Outcome::FalseBlock(seen) => ("false_block", seen),
        };
        *(if kind == "leak" { &mut self.leaks } else { &mut self.false_blocks }) += 1;
        if self.findings.len() < TOLD_MAX {
            let Cell { rule, dress, place } = cells[(trial % cells.len() as u64) as usize];
            self.findings.push(Finding { trial, kind, rule, dress: format!("{dress:?}"), place: place.name, seen });
        }
    }

    /// True if all trials went as they must.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.leaks == 0 && self.false_blocks == 0
    }
}

impl fmt::Display for SafetyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trials, seed, cells, trials_per_cell, leaks, false_blocks, findings } = self;
        writeln!(f, "{trials} trials of seed {seed}: {cells} combinations, {trials_per_cell} of each at least")?;
        writeln!(f, "{leaks} leaks, {false_blocks} false blocks")?;
        for Finding { trial, kind, rule, dress, place, seen } in findings {
            writeln!(f, "{kind} in trial {trial}: {rule:?} as {dress}, {place}: {seen}")?;
        }
        Ok(())
    }
}
