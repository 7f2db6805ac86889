//! A decoder's tensors as the kernels take them: matrices in place or quantized once, vectors widened
//! once.

use super::Quantization;
use crate::kernels::linear::{Matrix, Projection, Then, widen};
use crate::kernels::stored::{Q8_0_NUMBERS, quantize};
use crate::kernels::tier::Instructions;
use crate::model::{Format, Linear, Weight};

/// A tensor, ready to compute with.
pub(super) enum Operand {
    /// Stays where it is mapped.
    Matrix(Weight),
    /// Our own copy of a matrix, (outputs, inputs).
    Quantized {
        /// Rows of Q8_0.
        bytes: Vec<u8>,
        outputs: usize,
        inputs: usize,
    },
    /// A norm or a bias: a few kilobytes of f32.
    Vector(Vec<f32>),
}

/// How operands are made of tensors.
#[derive(Clone, Copy)]
pub(super) struct Preparation {
    /// The instructions to do it with.
    pub(super) on: Instructions,
    /// What becomes of matrices; they stay in place if none.
    pub(super) quantization: Option<Quantization>,
}

impl Preparation {
    /// The same, but matrices stay in place.
    pub(super) fn in_place(self) -> Self {
        Self { quantization: None, ..self }
    }

    /// An operand of a tensor whose bytes have arrived. A matrix whose rows are not whole blocks, or
    /// are blocks already, stays in place.
    pub(super) fn prepare(self, weight: &Weight) -> Operand {
        let (format, bytes) = (weight.format(), weight.bytes());
        if let &[outputs, inputs] = weight.shape() {
            let may_be = inputs.is_multiple_of(Q8_0_NUMBERS) && format != Format::Q8_0;
            return match self.quantization {
                Some(Quantization::Q8_0) if may_be => self.quantized(format, bytes, outputs, inputs),
                _ => Operand::Matrix(weight.clone()),
            };
        }
        let mut vector = vec![0.0; weight.shape().iter().product()];
        widen(self.on, bytes, format, &mut vector);
        Operand::Vector(vector)
    }

    fn quantized(self, format: Format, from: &[u8], outputs: usize, inputs: usize) -> Operand {
        let mut bytes = Vec::with_capacity(outputs * Format::Q8_0.row_bytes(inputs));
        let mut row = vec![0.0; inputs];
        for stored in from.chunks(format.row_bytes(inputs).max(1)) {
            widen(self.on, stored, format, &mut row);
            quantize(self.on, &row, &mut bytes);
        }
        Operand::Quantized { bytes, outputs, inputs }
    }
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
            Self::Quantized { outputs, inputs, .. } => unreachable!("a matrix of {outputs} × {inputs}"),
        }
    }
}

/// A matrix as kernels take it.
///
/// # Panics
/// It is a vector: a bug of this file's callers.
pub(super) fn matrix(operand: &Operand) -> Matrix<'_> {
    match operand {
        Operand::Matrix(weight) => Matrix::new(weight.bytes(), weight.format(), weight.shape()[0], weight.shape()[1]),
        Operand::Quantized { bytes, outputs, inputs } => Matrix::new(bytes, Format::Q8_0, *outputs, *inputs),
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
