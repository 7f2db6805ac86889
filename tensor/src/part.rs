//! The parts of a model in the order in which a step needs them, and which of them a step is at.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A part of a model: what a step needs at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The embedding table.
    Embeddings,
    /// The layer of this number, the first being 0.
    Layer(usize),
    /// The final norm and the head.
    Head,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embeddings => formatter.write_str("the embeddings"),
            Self::Layer(number) => write!(formatter, "layer {number}"),
            Self::Head => formatter.write_str("the final norm and the head"),
        }
    }
}

/// The codes of parts in [`Location`]; layer n is n + 3.
const NOWHERE: u64 = 0;
const EMBEDDINGS: u64 = 1;
const HEAD: u64 = 2;
const LAYERS: u64 = 3;

/// The part of the model that a step is at: written by the thread that computes, read by those who
/// watch it, at the cost of one store a part.
#[derive(Debug, Default)]
pub struct Location(AtomicU64);

impl Location {
    /// Notes that a step begins a part, or ends (`None`).
    pub fn enter(&self, part: Option<Part>) {
        let code = match part {
            None => NOWHERE,
            Some(Part::Embeddings) => EMBEDDINGS,
            Some(Part::Head) => HEAD,
            Some(Part::Layer(number)) => LAYERS + number as u64,
        };
        self.0.store(code, Ordering::Relaxed);
    }

    /// The part that the step is at.
    #[must_use]
    pub fn part(&self) -> Option<Part> {
        match self.0.load(Ordering::Relaxed) {
            NOWHERE => None,
            EMBEDDINGS => Some(Part::Embeddings),
            HEAD => Some(Part::Head),
            // It was a usize.
            layer => Some(Part::Layer((layer - LAYERS) as usize)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_read_as_it_was_written() {
        let location = Location::default();
        for part in [None, Some(Part::Embeddings), Some(Part::Layer(0)), Some(Part::Layer(79)), Some(Part::Head)] {
            location.enter(part);
            assert_eq!(location.part(), part);
        }
    }
}
