//! A decoder's operands, built part by part as its weights arrive.
//!
//! A part is built once, before the first step that needs it; from then on it costs nothing.
//! Whoever needs it first builds it: the steps themselves, or the threads of [`Staged::complete`],
//! where building is work (quantizing) and not to be done in a step.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use parking_lot::Mutex;

use super::operand::{Operand, Preparation, Quantized};
use super::options::{self, CpuError, CpuOptions, instructions};
use crate::arrival;
use crate::backend::{QuantizationLoss, StepError};
use tensor::{Added, Classes, Decoder, Distances, Format, Head, Layer, Norm, Part, Rotation, Weight};

/// One model's operands.
pub struct Staged {
    source: Arc<Decoder>,
    how: Preparation,
    start: OnceLock<Start>,
    layers: Vec<OnceLock<Layer<Operand>>>,
    tail: OnceLock<Tail>,
}

/// The embedding table, what goes with it, and the frequencies of rotations.
struct Start {
    embeddings: Operand,
    added: Added<Operand>,
    distances: Option<Distances<Operand>>,
    /// Of each of the decoder's rotations, (width / 2).
    frequencies: Vec<Vec<f32>>,
}

/// The final norm and the head.
struct Tail {
    norm: Option<Norm<Operand>>,
    /// The matrix that makes logits.
    logits: Option<Operand>,
    classes: Option<Classes<Operand>>,
}

/// Copies of matrices by their tensor's name and their first row in it, each with the place of the bytes that it was
/// made of.
type Copies<'a> = BTreeMap<(&'a str, usize), (&'a [u8], &'a Arc<Quantized>)>;

/// The key of a matrix among [`Copies`].
fn key(weight: &Weight) -> (&str, usize) {
    (weight.name(), weight.slot().rows.map_or(0, |rows| rows.first))
}

impl Staged {
    /// Nothing is built yet. Of the options it takes `instruction_set` and `quantization`.
    ///
    /// # Errors
    /// The machine lacks the instructions.
    pub fn of(source: Arc<Decoder>, options: &CpuOptions) -> Result<Self, CpuError> {
        let (on, quantization) = (instructions(options)?, options.quantization);
        Ok(Self::new(source, Preparation { on, quantization }))
    }

    pub(super) fn new(source: Arc<Decoder>, how: Preparation) -> Self {
        let layers = source.layers.iter().map(|_| OnceLock::new()).collect();
        Self { source, how, start: OnceLock::new(), layers, tail: OnceLock::new() }
    }

    /// Builds what has arrived.
    pub(super) fn build_arrived(&self) {
        for part in self.parts() {
            if self.weights(part).iter().all(|weight| weight.view().is_ready()) {
                self.build(part, &Copies::new());
            }
        }
    }

    /// Waits for a part's weights where it has not been built, and builds it. `wanted` is asked
    /// now and then whether the step is still wanted.
    ///
    /// # Errors
    /// The weights will not come, or nobody wants the step any more.
    pub(super) fn need(&self, part: Part, wanted: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError> {
        self.need_with(part, &Copies::new(), wanted)
    }

    fn need_with(
        &self,
        part: Part,
        copies: &Copies<'_>,
        wanted: &mut dyn FnMut(Part) -> bool,
    ) -> Result<(), StepError> {
        if self.has(part) {
            return Ok(());
        }
        arrival::wait(part, &self.weights(part), wanted)?;
        self.build(part, copies);
        Ok(())
    }

    /// Builds every part in execution order as it arrives, on `threads` threads, this one among them. Copies of
    /// matrices that `base` has made of the same bytes are shared with it. `wanted` is asked some ten times a second.
    /// Blocks until all of it is built.
    ///
    /// # Errors
    /// The weights will not come, or `wanted` said no.
    pub fn complete(
        &self,
        threads: usize,
        base: Option<&Self>,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), StepError> {
        let parts: Vec<Part> = self.parts().collect();
        let copies = base.map(Self::copies).unwrap_or_default();
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            while let Some(&part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let is_wanted = if wanted() { Ok(()) } else { Err(StepError::Unwanted { part }) };
                if let Err(error) = is_wanted.and_then(|()| self.need_with(part, &copies, &mut |_| wanted())) {
                    next.store(parts.len(), Ordering::Relaxed);
                    failure.lock().get_or_insert(error);
                    return;
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads.min(parts.len()) {
                // Where the system has no thread to give there are the others.
                drop(thread::Builder::new().name("quantize".into()).spawn_scoped(scope, work));
            }
            work();
        });
        failure.into_inner().map_or(Ok(()), Err)
    }

    /// Copies made by quantizing so far, and their loss.
    #[must_use]
    pub fn loss(&self) -> QuantizationLoss {
        let mut loss = QuantizationLoss::default();
        let mut sum = 0.0;
        for ((name, _), (_, copy)) in self.copies() {
            loss.matrices += 1;
            loss.bytes += copy.bytes.len() as u64;
            sum += copy.relative_error;
            if loss.worst.is_empty() || copy.relative_error > loss.max {
                (loss.max, loss.worst) = (copy.relative_error, name.to_owned());
            }
        }
        loss.mean = sum / loss.matrices.max(1) as f64;
        loss
    }

    /// The decoder that it is made of.
    pub(super) fn source(&self) -> &Decoder {
        &self.source
    }

    /// The way its operands are made.
    pub(super) fn how(&self) -> Preparation {
        self.how
    }

    /// The format of most of it.
    pub(super) fn stored(&self) -> Format {
        options::stored(&self.source)
    }

    /// The embedding table, which a step has needed.
    pub(super) fn embeddings(&self) -> &Operand {
        &self.start().embeddings
    }

    /// The additions to embeddings, which a step has needed.
    pub(super) fn added(&self) -> &Added<Operand> {
        &self.start().added
    }

    /// Embeddings of distances, which a step has needed.
    pub(super) fn distances(&self) -> Option<&Distances<Operand>> {
        self.start().distances.as_ref()
    }

    /// The frequencies of each of the decoder's rotations, (width / 2), which a step has needed.
    pub(super) fn frequencies(&self) -> &[Vec<f32>] {
        &self.start().frequencies
    }

    /// A layer, which a step has needed.
    pub(super) fn layer(&self, number: usize) -> &Layer<Operand> {
        self.layers[number].get().expect("a step needs its parts first")
    }

    /// The final norm, which a step has needed.
    pub(super) fn norm(&self) -> Option<&Norm<Operand>> {
        self.tail().norm.as_ref()
    }

    /// The matrix that makes logits, which a step has needed.
    pub(super) fn logits(&self) -> Option<&Operand> {
        self.tail().logits.as_ref()
    }

    /// The head that scores classes, which a step has needed.
    pub(super) fn classes(&self) -> Option<&Classes<Operand>> {
        self.tail().classes.as_ref()
    }

    fn start(&self) -> &Start {
        self.start.get().expect("a step needs its parts first")
    }

    fn tail(&self) -> &Tail {
        self.tail.get().expect("a step needs its parts first")
    }

    fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        let layers = (0..self.layers.len()).map(Part::Layer);
        [Part::Embeddings].into_iter().chain(layers).chain([Part::Head])
    }

    fn has(&self, part: Part) -> bool {
        match part {
            Part::Embeddings => self.start.get().is_some(),
            Part::Layer(number) => self.layers[number].get().is_some(),
            Part::Head => self.tail.get().is_some(),
        }
    }

    fn weights(&self, part: Part) -> Vec<&Weight> {
        match part {
            Part::Embeddings => self.source.first_tensors(),
            Part::Layer(number) => self.source.layers[number].tensors(),
            Part::Head => self.source.last_tensors(),
        }
    }

    /// The operands of a part in the order of its weights; none before it is built.
    fn operands(&self, part: Part) -> Vec<&Operand> {
        match part {
            Part::Embeddings => self.start.get().iter().map(|start| &start.embeddings).collect(),
            Part::Layer(number) => self.layers[number].get().map(Layer::tensors).unwrap_or_default(),
            Part::Head => self.tail.get().map(Tail::tensors).unwrap_or_default(),
        }
    }

    /// The copies made so far.
    fn copies(&self) -> Copies<'_> {
        let pairs = self.parts().flat_map(|part| self.weights(part).into_iter().zip(self.operands(part)));
        let copied = pairs.filter_map(|(weight, operand)| match operand {
            Operand::Quantized(copy) => Some((key(weight), (weight.bytes(), copy))),
            Operand::Matrix(_) | Operand::Vector(_) => None,
        });
        copied.collect()
    }

    fn frequencies_of(&self, Rotation { rope, width, divisors }: &Rotation<Weight>) -> Vec<f32> {
        let mut frequencies = vec![0.0; width / 2];
        rope.frequencies(&mut frequencies);
        if let Some(divisors) = divisors {
            let divisors = self.how.prepare(divisors);
            frequencies.iter_mut().zip(divisors.vector()).for_each(|(frequency, divisor)| *frequency /= divisor);
        }
        frequencies
    }

    /// Builds a part whose weights have arrived, or waits for who is at it.
    fn build(&self, part: Part, copies: &Copies<'_>) {
        let mut make = |weight: &Weight| match copies.get(&key(weight)) {
            Some((from, copy)) if std::ptr::eq(*from, weight.bytes()) => Operand::Quantized(Arc::clone(copy)),
            _ => self.how.prepare(weight),
        };
        let source = &self.source;
        match part {
            Part::Embeddings => {
                self.start.get_or_init(|| Start {
                    // A step reads a few rows of it.
                    embeddings: self.how.in_place().prepare(&source.embeddings),
                    added: infallible(source.added.try_map(&mut |weight| Ok(self.how.in_place().prepare(weight)))),
                    distances: source.distances.as_ref().map(|distances| {
                        infallible(distances.try_map(&mut |weight| Ok(self.how.in_place().prepare(weight))))
                    }),
                    frequencies: source.rotations.iter().map(|rotation| self.frequencies_of(rotation)).collect(),
                });
            }
            Part::Layer(number) => {
                self.layers[number].get_or_init(|| source.layers[number].map(&mut make));
            }
            Part::Head => {
                let mut make = |weight: &Weight| Ok(make(weight));
                self.tail.get_or_init(|| Tail {
                    norm: infallible(Norm::try_map_some(source.norm.as_ref(), &mut make)),
                    logits: infallible(source.logits().map(&mut make).transpose()),
                    classes: match &source.head {
                        Head::Classes(classes) => Some(infallible(classes.try_map(&mut make))),
                        Head::Tied | Head::Own(_) | Head::Nothing => None,
                    },
                });
            }
        }
    }
}

impl Tail {
    /// Its operands in the order of [`Decoder::last_tensors`].
    fn tensors(&self) -> Vec<&Operand> {
        let mut tensors = Vec::new();
        self.norm.iter().for_each(|norm| norm.add_tensors(&mut tensors));
        tensors.extend(&self.logits);
        self.classes.iter().for_each(|classes| classes.add_tensors(&mut tensors));
        tensors
    }
}

fn infallible<T>(made: Result<T, Infallible>) -> T {
    match made {
        Ok(made) => made,
    }
}

impl fmt::Debug for Staged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let built = self.parts().filter(|&part| self.has(part)).count();
        write!(formatter, "{built} of {} parts", self.layers.len() + 2)
    }
}

#[cfg(test)]
mod tests;
