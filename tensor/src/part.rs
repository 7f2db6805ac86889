//! The parts of a model in the order in which a step needs them, and which of them a step is at.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// What of a model a step needs at a time.
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

/// The codes of parts in [`Whereabouts`]; layer n is n + 3.
const NOWHERE: u64 = 0;
const EMBEDDINGS: u64 = 1;
const HEAD: u64 = 2;
const LAYERS: u64 = 3;

/// Which part of the model a step is at: written by the thread that computes, read by those who
/// watch it, at the cost of one store a part.
#[derive(Debug, Default)]
pub struct Whereabouts(AtomicU64);

impl Whereabouts {
    /// A step begins with a part, or ends (`None`).
    pub fn enter(&self, part: Option<Part>) {
        let code = match part {
            None => NOWHERE,
            Some(Part::Embeddings) => EMBEDDINGS,
            Some(Part::Head) => HEAD,
            Some(Part::Layer(number)) => LAYERS + number as u64,
        };
        self.0.store(code, Ordering::Relaxed);
    }

    /// The part it is at.
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
    fn where_a_step_is_is_told_as_it_was_said() {
        let whereabouts = Whereabouts::default();
        for part in [None, Some(Part::Embeddings), Some(Part::Layer(0)), Some(Part::Layer(79)), Some(Part::Head)] {
            whereabouts.enter(part);
            assert_eq!(whereabouts.part(), part);
        }
    }
}
