//! The bodies of rules.

use super::set::Set;

/// Alternatives, each a sequence.
pub(super) type Choice = Vec<Vec<Part>>;

/// A part of a sequence, and how often it comes.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) atom: Atom,
    pub(super) least: u32,
    pub(super) most: Option<u32>,
}

#[derive(Debug)]
pub(super) enum Atom {
    Text(String),
    /// One character of these.
    Character(Set),
    Rule(usize),
    Group(Choice),
}
