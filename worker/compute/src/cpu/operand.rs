//! A decoder's tensors as the kernels take them: matrices in place or quantized once, vectors widened
//! once, with what that lost.

use std::sync::Arc;

use crate::kernels::formats::widen;
use crate::kernels::linear::{Matrix, Projection, Then};
use crate::kernels::norm::RowNorm;
use crate::kernels::quantize::quantize;
use crate::kernels::stored::row_bytes;
use crate::kernels::tier::Instructions;
use crate::kind::Quantization;
use tensor::{Format, Linear, Norm, Packing, Weight};

/// A tensor, ready to compute with.
pub(super) enum Operand {
    /// Stays where it is mapped.
    Matrix(Weight),
    /// Our own copy of a matrix; revisions that have the same matrix share it.
    Quantized(Arc<Quantized>),
    /// A norm or a bias: a few kilobytes of f32.
    Vector(Vec<f32>),
}

/// A matrix of our own in blocks, (outputs, inputs).
pub(super) struct Quantized {
    /// Rows of blocks.
    pub(super) bytes: Vec<u8>,
    format: Format,
    outputs: usize,
    inputs: usize,
    /// √(Σ(w − q)² / Σw²) over its numbers w and what became of them, q; 1 where that is no number.
    pub(super) relative_error: f64,
}

/// The way from tensors to operands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Preparation {
    /// The instructions to do it with.
    pub(super) on: Instructions,
    /// The format that matrices are converted to; they stay in place if none.
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
        // Others come with the kernels that read their scales.
        let Packing::Plain = weight.packing();
        match (weight.shape(), copied(weight, self.quantization)) {
            (&[outputs, inputs], Some(format)) => {
                Operand::Quantized(Arc::new(self.quantized(weight, format, outputs, inputs)))
            }
            ([_, _], None) => Operand::Matrix(weight.clone()),
            (shape, _) => {
                let mut vector = vec![0.0; shape.iter().product()];
                widen(self.on, weight.bytes(), weight.format(), &mut vector);
                if weight.slot().less_one {
                    vector.iter_mut().for_each(|number| *number += 1.0);
                }
                Operand::Vector(vector)
            }
        }
    }

    fn quantized(self, weight: &Weight, format: Format, outputs: usize, inputs: usize) -> Quantized {
        let mut bytes = Vec::with_capacity(outputs * row_bytes(format, inputs));
        let (mut row, mut back) = (vec![0.0; inputs], vec![0.0; inputs]);
        let (mut lost, mut whole) = (0.0, 0.0);
        for stored in weight.bytes().chunks(row_bytes(weight.format(), inputs).max(1)) {
            widen(self.on, stored, weight.format(), &mut row);
            let at = bytes.len();
            quantize(self.on, format, &row, &mut bytes);
            widen(self.on, &bytes[at..], format, &mut back);
            let (of_row, of_whole) = squares(&row, &back);
            lost += of_row;
            whole += of_whole;
        }
        let share: f64 = if whole > 0.0 { lost / whole } else { 0.0 };
        let relative_error = if (lost + whole).is_finite() { share.sqrt() } else { 1.0 };
        Quantized { bytes, format, outputs, inputs, relative_error }
    }
}

/// The format of the copy that `quantization` makes of a tensor; none of one that stays in place.
fn copied(weight: &Weight, quantization: Option<Quantization>) -> Option<Format> {
    match weight.shape() {
        &[_, inputs] if !weight.format().is_blocks() => quantization?.of_rows(inputs),
        _ => None,
    }
}

/// Bytes of our own that `quantization` makes of a tensor: none of one that stays in place.
pub(super) fn copied_bytes(weight: &Weight, quantization: Option<Quantization>) -> usize {
    match (weight.shape(), copied(weight, quantization)) {
        (&[outputs, inputs], Some(format)) => outputs * row_bytes(format, inputs),
        _ => 0,
    }
}

/// Σ(w − q)² and Σw² of a row of whole blocks.
fn squares(row: &[f32], back: &[f32]) -> (f64, f64) {
    const LANES: usize = 16;
    let (mut lost, mut whole) = ([0_f32; LANES], [0_f32; LANES]);
    for (numbers, found) in row.as_chunks::<LANES>().0.iter().zip(back.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            let apart = numbers[lane] - found[lane];
            lost[lane] += apart * apart;
            whole[lane] += numbers[lane] * numbers[lane];
        }
    }
    let sum = |lanes: [f32; LANES]| lanes.into_iter().map(f64::from).sum();
    (sum(lost), sum(whole))
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
            Self::Quantized(own) => unreachable!("a matrix of {} × {}", own.outputs, own.inputs),
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
        Operand::Quantized(own) => Matrix::new(&own.bytes, own.format, own.outputs, own.inputs),
        Operand::Vector(vector) => unreachable!("a vector of {} numbers is no matrix", vector.len()),
    }
}

/// A matrix and its bias.
pub(super) fn parts(linear: &Linear<Operand>) -> (Matrix<'_>, Option<&[f32]>) {
    (matrix(&linear.weight), linear.bias.as_ref().map(Operand::vector))
}

/// A norm as kernels take it.
pub(super) fn row_norm(norm: &Norm<Operand>) -> RowNorm<'_> {
    let bias = norm.bias.as_ref().map(Operand::vector);
    RowNorm { of: norm.of, weight: norm.weight.vector(), bias, eps: norm.eps }
}

/// A matrix, its bias and where its outputs go.
pub(super) fn projection<'a>(linear: &'a Linear<Operand>, out: &'a mut [f32], then: Then) -> Projection<'a> {
    let (matrix, bias) = parts(linear);
    Projection { matrix, bias, out, then }
}
