//! A decoder's operands, built part by part as its weights arrive.
//!
//! A part is built once, before the first step that needs it; from then on it costs nothing. What
//! has arrived when the backend is built is built then.

use std::sync::Arc;

use super::operand::{Operand, Preparation};
use crate::backend::StepError;
use crate::backend::part::{self, Part};
use crate::model::{Config, Decoder, Float, Layer, Weight};

/// One model's operands.
pub(super) struct Staged {
    source: Arc<Decoder>,
    embeddings: Option<Operand>,
    layers: Vec<Option<Layer<Operand>>>,
    tail: Option<Tail>,
}

/// What makes logits of the stream.
struct Tail {
    norm: Operand,
    head: Operand,
}

impl Staged {
    /// Builds what has arrived.
    pub(super) fn new(source: Arc<Decoder>, how: Preparation) -> Self {
        let layers = source.layers.iter().map(|_| None).collect();
        let mut staged = Self { source, embeddings: None, layers, tail: None };
        let layers = (0..staged.layers.len()).map(Part::Layer);
        for part in [Part::Embeddings].into_iter().chain(layers).chain([Part::Head]) {
            if staged.weights(part).iter().all(|weight| weight.tensor().is_ready()) {
                staged.build(part, how);
            }
        }
        staged
    }

    /// Waits for a part's weights where it has not been built, and builds it. `goes_on` is asked
    /// now and then whether the step is still wanted.
    ///
    /// # Errors
    /// The weights will not come, or nobody wants the step any more.
    pub(super) fn need(
        &mut self,
        part: Part,
        how: Preparation,
        goes_on: &mut dyn FnMut(Part) -> bool,
    ) -> Result<(), StepError> {
        if self.has(part) {
            return Ok(());
        }
        part::wait(part, &self.weights(part), goes_on)?;
        self.build(part, how);
        Ok(())
    }

    /// Sizes and switches.
    pub(super) fn config(&self) -> &Config {
        &self.source.config
    }

    /// The format of most of it.
    pub(super) fn stored(&self) -> Float {
        super::stored(&self.source)
    }

    /// The embedding table, which a step has needed.
    pub(super) fn embeddings(&self) -> &Operand {
        self.embeddings.as_ref().expect("a step needs its parts first")
    }

    /// A layer, which a step has needed.
    pub(super) fn layer(&self, number: usize) -> &Layer<Operand> {
        self.layers[number].as_ref().expect("a step needs its parts first")
    }

    /// The final norm, which a step has needed.
    pub(super) fn norm(&self) -> &Operand {
        &self.tail().norm
    }

    /// The matrix that makes logits, which a step has needed.
    pub(super) fn head(&self) -> &Operand {
        &self.tail().head
    }

    fn tail(&self) -> &Tail {
        self.tail.as_ref().expect("a step needs its parts first")
    }

    fn has(&self, part: Part) -> bool {
        match part {
            Part::Embeddings => self.embeddings.is_some(),
            Part::Layer(number) => self.layers[number].is_some(),
            Part::Head => self.tail.is_some(),
        }
    }

    fn weights(&self, part: Part) -> Vec<&Weight> {
        match part {
            Part::Embeddings => vec![&self.source.embeddings],
            Part::Layer(number) => self.source.layers[number].tensors(),
            Part::Head => vec![&self.source.norm, self.source.head()],
        }
    }

    fn build(&mut self, part: Part, how: Preparation) {
        let mut make = |weight: &Weight| how.prepare(weight);
        match part {
            // A step reads a few rows of it.
            Part::Embeddings => self.embeddings = Some(how.in_place().prepare(&self.source.embeddings)),
            Part::Layer(number) => self.layers[number] = Some(self.source.layers[number].map(&mut make)),
            Part::Head => self.tail = Some(Tail { norm: make(&self.source.norm), head: make(self.source.head()) }),
        }
    }
}
