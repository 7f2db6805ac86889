//! Waiting for the weights of a part of a model.

use std::time::Duration;

use crate::error::StepError;
use tensor::{Part, Weight};

/// Duration of a wait for weights before asking whether anybody still wants the step: a tenth of
/// what a person notices.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Blocks until every weight of a part has arrived, and asks `wanted` now and then whether the
/// step is still wanted.
pub(crate) fn wait(part: Part, weights: &[&Weight], wanted: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError> {
    for weight in weights {
        loop {
            let arrived = weight.view().wait_for(ASK_EVERY).map_err(|source| StepError::Weights {
                part,
                tensor: weight.name().to_owned(),
                object: source.object,
                source: source.source,
            })?;
            if arrived {
                break;
            }
            if !wanted(part) {
                return Err(StepError::Unwanted { part });
            }
        }
    }
    Ok(())
}
