//! A decoder's tensors as the kernels take them: matrices in place, vectors widened once.

use crate::kernels::linear::{Matrix, Projection, Then, widen};
use crate::kernels::tier::Instructions;
use crate::model::{Linear, Weight};

/// A tensor, ready to compute with.
pub(super) enum Operand {
    /// Stays where it is mapped.
    Matrix(Weight),
    /// A norm or a bias: a few kilobytes of f32.
    Vector(Vec<f32>),
}

/// Widens a vector; a matrix stays in place. Its bytes have arrived.
pub(super) fn prepare(weight: &Weight, on: Instructions) -> Operand {
    if weight.shape().len() > 1 {
        return Operand::Matrix(weight.clone());
    }
    let mut vector = vec![0.0; weight.shape().iter().product()];
    widen(on, weight.bytes(), weight.float(), &mut vector);
    Operand::Vector(vector)
}

impl Operand {
    /// A norm's or a bias's numbers.
    ///
    /// # Panics
    /// It is a matrix: a bug of this file's callers.
    pub(super) fn vector(&self) -> &[f32] {
        match self {
            Self::Vector(vector) => vector,
            Self::Matrix(weight) => unreachable!("`{}` is a matrix", weight.name()),
        }
    }
}

/// A matrix as kernels take it.
///
/// # Panics
/// It is a vector: a bug of this file's callers.
pub(super) fn matrix(operand: &Operand) -> Matrix<'_> {
    match operand {
        Operand::Matrix(weight) => Matrix::new(weight.bytes(), weight.float(), weight.shape()[0], weight.shape()[1]),
        Operand::Vector(vector) => unreachable!("a vector of {} numbers is no matrix", vector.len()),
    }
}

/// A matrix and its bias.
pub(super) fn parts(linear: &Linear<Operand>) -> (Matrix<'_>, Option<&[f32]>) {
    (matrix(&linear.weight), linear.bias.as_ref().map(Operand::vector))
}

/// A matrix, its bias and where its outputs go.
pub(super) fn projection<'a>(linear: &'a Linear<Operand>, out: &'a mut [f32], then: Then) -> Projection<'a> {
    let (matrix, bias) = parts(linear);
    Projection { matrix, bias, out, then }
}
