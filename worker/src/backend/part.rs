//! The parts of a model in the order in which a step needs them, and waiting for one of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::StepError;
use crate::model::Weight;

/// How long to wait for weights before asking whether anybody still wants the step: a tenth of
/// what a person notices.
const ASK_EVERY: Duration = Duration::from_millis(20);

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

/// Blocks until every weight of a part has arrived, and asks `goes_on` now and then whether the
/// step is still wanted.
pub(super) fn wait(part: Part, weights: &[&Weight], goes_on: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError> {
    for weight in weights {
        loop {
            let arrived = weight.tensor().wait_for(ASK_EVERY).map_err(|source| StepError::Weights {
                part,
                tensor: weight.name().to_owned(),
                object: weight.tensor().region().name().to_owned(),
                source: Arc::clone(&source),
            })?;
            if arrived {
                break;
            }
            if !goes_on(part) {
                return Err(StepError::Unwanted { part });
            }
        }
    }
    Ok(())
}
