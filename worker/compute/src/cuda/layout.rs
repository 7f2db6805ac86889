//! Where a model's tensors lie on a device, and in which order their rows: pure.
//!
//! Matrices that read the same rows lie as one, so that one kernel computes them: queries, keys and values one after the
//! other, gate and up in turns of eight rows. It knows no device.

use tensor::{
    Activation, Added, Attention, Body, Branch, Decoder, Dense, Format, Head, Linear, Norm, Normed, Pairs, Part,
    Rotation, Sees, Weight,
};
use thiserror::Error;

/// Inputs of a stored matrix are whole multiples of this, zeros beyond the model's own.
pub(crate) const INPUTS_UNIT: usize = 64;
/// Outputs that a fragment has.
const OUTPUTS_UNIT: usize = 16;
/// Rows of gate, then as many of up.
const TURN: usize = 8;
/// Numbers of Q8_0 that share a scale.
const Q8_NUMBERS: usize = 32;
/// Where a tensor begins.
const ALIGNMENT: u64 = 256;
/// Query heads that may share a key head.
const GROUP_MAX: usize = 16;
/// Numbers of a head that kernels exist for.
pub(crate) const HEAD_ROOMS: [usize; 4] = [32, 64, 128, 256];

/// A model that kernels do not compute.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub(crate) enum Unsupported {
    /// A format without kernels.
    #[error("a GPU computes BF16 and Q8_0, and tensor `{tensor}` is {found}; serve it with device = \"cpu\"")]
    Format {
        /// The tensor.
        tensor: String,
        /// Its format.
        found: Format,
    },
    /// Matrices that lie as one and differ.
    #[error(
        "a GPU computes `{tensor}` as one with matrices of another format or width; serve it with device = \"cpu\""
    )]
    Mixed {
        /// One of them.
        tensor: String,
    },
    /// Arithmetic without kernels.
    #[error("a GPU does not compute {what}; serve it with device = \"cpu\"")]
    Feature {
        /// Its name.
        what: &'static str,
    },
    /// A shape without kernels.
    #[error("a GPU does not compute {what} of {found}; serve it with device = \"cpu\"")]
    Shape {
        /// Of what.
        what: &'static str,
        /// The size.
        found: usize,
    },
}

/// How a matrix's numbers lie on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    Bf16,
    Q8,
}

/// A matrix on the device, by its place among the model's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub(crate) at: u64,
    pub(crate) numbers: Numbers,
    /// Rows, without those that fill up a fragment.
    pub(crate) outputs: usize,
    /// Numbers of a row, with the zeros at its end.
    pub(crate) inputs: usize,
}

/// A vector of f32 on the device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Vector {
    pub(crate) at: u64,
}

/// A norm on the device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NormAt {
    pub(crate) weight: Vector,
    pub(crate) eps: f32,
}

/// A matrix and its bias.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LinearAt {
    pub(crate) matrix: Matrix,
    pub(crate) bias: Option<Vector>,
}

/// A branch as kernels compute it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BranchAt {
    pub(crate) before: NormAt,
    pub(crate) body: BodyAt,
}

/// The body of a branch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum BodyAt {
    Attention(AttentionAt),
    /// Gate and up as one, then down.
    Dense {
        gated: LinearAt,
        down: LinearAt,
    },
}

/// Attention, its three first matrices as one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttentionAt {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dim: usize,
    pub(crate) projections: LinearAt,
    pub(crate) query_norm: Option<NormAt>,
    pub(crate) key_norm: Option<NormAt>,
    pub(crate) output: LinearAt,
    pub(crate) rotation: usize,
    pub(crate) are_neighbours: bool,
    pub(crate) scale: f32,
    /// Positions that a row sees; all if 0.
    pub(crate) window: usize,
}

impl AttentionAt {
    /// Numbers kept for a head.
    pub(crate) fn room(&self) -> usize {
        head_room(self.dim).unwrap_or(self.dim)
    }
}

/// The numbers kept for a head of `dim`; none if it is wider than any kernel.
pub(crate) fn head_room(dim: usize) -> Option<usize> {
    HEAD_ROOMS.into_iter().find(|&room| room >= dim)
}

/// A tensor to upload, and its place.
#[derive(Debug, Clone)]
pub(crate) enum Upload {
    Matrix {
        to: Matrix,
        rows: Stack,
    },
    /// Vectors as f32; zeros, so many, where there is none.
    Vector {
        to: Vector,
        parts: Vec<(Option<Weight>, usize)>,
        are_in_turns: bool,
    },
}

/// Stored matrices that lie as one.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    parts: Vec<Weight>,
    are_in_turns: bool,
}

/// A model's tensors on a device.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) embeddings: Matrix,
    pub(crate) layers: Vec<Vec<BranchAt>>,
    pub(crate) norm: NormAt,
    pub(crate) head: Matrix,
    /// Of each part, in the order of [`Layout::parts`].
    uploads: Vec<Vec<Upload>>,
    /// All of them together.
    pub(crate) bytes: u64,
}

impl Matrix {
    /// Rows with those that fill up a fragment.
    fn rows(&self) -> usize {
        self.outputs.next_multiple_of(OUTPUTS_UNIT)
    }

    /// Bytes of a row's numbers.
    pub(crate) fn row_bytes(&self) -> usize {
        match self.numbers {
            Numbers::Bf16 => self.inputs * 2,
            Numbers::Q8 => self.inputs,
        }
    }

    /// Bytes of a row's scales.
    pub(crate) fn scale_bytes(&self) -> usize {
        match self.numbers {
            Numbers::Bf16 => 0,
            Numbers::Q8 => self.inputs / Q8_NUMBERS * 2,
        }
    }

    /// Where its scales begin, behind its numbers.
    pub(crate) fn scales_at(&self) -> u64 {
        (self.at + (self.rows() * self.row_bytes()) as u64).next_multiple_of(ALIGNMENT)
    }

    fn end(&self) -> u64 {
        self.scales_at() + (self.rows() * self.scale_bytes()) as u64
    }
}

impl Stack {
    /// Which stored row lies at a row of the device's matrix: none is zeros.
    fn source(&self, row: usize) -> Option<(&Weight, usize)> {
        if self.are_in_turns {
            let (turn, place) = (row / (2 * TURN), row % (2 * TURN));
            let part = &self.parts[place / TURN];
            let own = turn * TURN + place % TURN;
            return (own < part.shape()[0]).then_some((part, own));
        }
        let mut left = row;
        for part in &self.parts {
            if left < part.shape()[0] {
                return Some((part, left));
            }
            left -= part.shape()[0];
        }
        None
    }

    /// Writes rows `from..` of the device's matrix, as many as `numbers` has room for. All have arrived.
    pub(crate) fn write(&self, to: &Matrix, from: usize, numbers: &mut [u8], scales: &mut [u8]) {
        numbers.fill(0);
        scales.fill(0);
        let scale_bytes = to.scale_bytes();
        for (index, out) in numbers.chunks_exact_mut(to.row_bytes()).enumerate() {
            let Some((weight, row)) = self.source(from + index) else { continue };
            let stored = weight.bytes();
            let bytes = stored.len() / weight.shape()[0];
            let stored = &stored[row * bytes..][..bytes];
            match to.numbers {
                Numbers::Bf16 => out[..bytes].copy_from_slice(stored),
                Numbers::Q8 => take_apart(stored, out, &mut scales[index * scale_bytes..][..scale_bytes]),
            }
        }
    }

    /// Every stored tensor.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.parts.iter()
    }
}

/// Takes a row of Q8_0 apart: scales by themselves, and of every 64 numbers a lane's eight of both halves together, as
/// the kernels' `q8_place` says.
fn take_apart(stored: &[u8], numbers: &mut [u8], scales: &mut [u8]) {
    for (index, block) in stored.chunks_exact(2 + Q8_NUMBERS).enumerate() {
        scales[index * 2..][..2].copy_from_slice(&block[..2]);
        let (begin, half) = (index / 2 * INPUTS_UNIT, index % 2);
        for (lane, eight) in block[2..].chunks_exact(8).enumerate() {
            numbers[begin + lane * 16 + half * 8..][..8].copy_from_slice(eight);
        }
    }
}

impl Upload {
    /// Every stored tensor that it is made of.
    pub(crate) fn weights(&self) -> Vec<&Weight> {
        match self {
            Self::Matrix { rows, .. } => rows.weights().collect(),
            Self::Vector { parts, .. } => parts.iter().filter_map(|(weight, _)| weight.as_ref()).collect(),
        }
    }
}

/// Puts one part's vectors in the order that the rows of their matrices have.
pub(crate) fn in_order(parts: &[Vec<f32>], are_in_turns: bool) -> Vec<f32> {
    if !are_in_turns {
        return parts.concat();
    }
    let width = parts.iter().map(Vec::len).max().unwrap_or(0).next_multiple_of(INPUTS_UNIT);
    let padded = |part: &Vec<f32>| part.iter().copied().chain(std::iter::repeat(0.0)).take(width).collect::<Vec<f32>>();
    let padded: Vec<Vec<f32>> = parts.iter().map(padded).collect();
    (0..width / TURN)
        .flat_map(|turn| padded.iter().flat_map(move |part| part[turn * TURN..][..TURN].to_vec()))
        .collect()
}

impl Layout {
    /// Lays a model out.
    ///
    /// # Errors
    /// The first tensor or size that kernels do not compute.
    pub(crate) fn of(decoder: &Decoder) -> Result<Self, Unsupported> {
        Writer::default().decoder(decoder)
    }

    /// Its parts, in the order of steps.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let layers = (0..self.layers.len()).map(Part::Layer);
        [Part::Embeddings].into_iter().chain(layers).chain([Part::Head]).collect()
    }

    /// The uploads of a part.
    pub(crate) fn uploads(&self, index: usize) -> &[Upload] {
        &self.uploads[index]
    }
}

/// Refuses arithmetic that a model has and no kernel.
fn refuse(has: bool, what: &'static str) -> Result<(), Unsupported> {
    if has { Err(Unsupported::Feature { what }) } else { Ok(()) }
}

/// Gives each tensor its place.
#[derive(Default)]
struct Writer {
    at: u64,
    uploads: Vec<Upload>,
}

impl Writer {
    fn decoder(mut self, decoder: &Decoder) -> Result<Layout, Unsupported> {
        let Decoder {
            vocab_size: _,
            hidden_size: _,
            max_position: _,
            embeddings,
            embedding_scale,
            added: Added { positions, types, norm: embedding_norm },
            rotations,
            distances,
            layers,
            norm,
            head,
            logit_cap,
        } = decoder;
        refuse(*embedding_scale != 1.0, "scaled embeddings")?;
        refuse(logit_cap.is_some(), "soft caps of logits")?;
        let has_added = positions.is_some() || types.is_some() || embedding_norm.is_some();
        refuse(has_added || distances.is_some() || decoder.is_encoder(), "encoders")?;
        let divided = |rotation: &Rotation<Weight>| rotation.divisors.is_some();
        refuse(rotations.iter().any(divided), "divisors of rotations")?;
        let turned = |body: &Attention<Weight>| body.rotation.map(|index| rotations[index].width);
        let partly = |body: &Attention<Weight>| turned(body) != Some(body.head_dim);
        refuse(decoder.attentions().any(partly), "heads that are not rotated whole")?;
        let mut uploads = Vec::new();
        let embeddings = self.matrix(&[embeddings], false)?;
        uploads.push(std::mem::take(&mut self.uploads));
        let mut at = Vec::new();
        for layer in layers {
            at.push(layer.branches.iter().map(|branch| self.branch(branch)).collect::<Result<Vec<_>, _>>()?);
            uploads.push(std::mem::take(&mut self.uploads));
        }
        let norm = self.some_norm(norm.as_ref())?;
        let head = match head {
            Head::Tied => embeddings,
            Head::Own(head) => self.matrix(&[head], false)?,
            Head::Nothing | Head::Classes(_) => {
                return Err(Unsupported::Feature { what: "models that make no logits" });
            }
        };
        uploads.push(std::mem::take(&mut self.uploads));
        Ok(Layout { embeddings, layers: at, norm, head, uploads, bytes: self.at })
    }

    fn branch(&mut self, Branch { before, body, after, joined }: &Branch<Weight>) -> Result<BranchAt, Unsupported> {
        refuse(after.is_some() || joined.is_some(), "norms of a branch's result")?;
        let before = self.some_norm(before.as_ref())?;
        let body = match body {
            Body::Attention(attention) => BodyAt::Attention(self.attention(attention)?),
            Body::Dense(Dense { width: _, activation, gate, up, down }) => {
                refuse(*activation != Activation::Silu, "gates by another function than SiLU")?;
                let Some(gate) = gate else {
                    return Err(Unsupported::Feature { what: "feed-forward parts without a gate" });
                };
                BodyAt::Dense { gated: self.linear(&[gate, up], true)?, down: self.linear(&[down], false)? }
            }
            Body::Experts(_) => return Err(Unsupported::Feature { what: "routed experts" }),
        };
        Ok(BranchAt { before, body })
    }

    fn attention(&mut self, body: &Attention<Weight>) -> Result<AttentionAt, Unsupported> {
        let Attention { heads, kv_heads, head_dim, query, key, value, query_norm, key_norm, output, .. } = body;
        refuse(body.soft_cap.is_some(), "soft caps of scores")?;
        refuse(body.growth.is_some(), "queries that grow with their position")?;
        if head_room(*head_dim).is_none() || !head_dim.is_multiple_of(8) {
            return Err(Unsupported::Shape { what: "heads", found: *head_dim });
        }
        if heads / kv_heads > GROUP_MAX {
            return Err(Unsupported::Shape { what: "query heads to a key head", found: heads / kv_heads });
        }
        Ok(AttentionAt {
            heads: *heads,
            kv_heads: *kv_heads,
            dim: *head_dim,
            projections: self.linear(&[query, key, value], false)?,
            query_norm: query_norm.as_ref().map(|norm| self.norm(norm)).transpose()?,
            key_norm: key_norm.as_ref().map(|norm| self.norm(norm)).transpose()?,
            output: self.linear(&[output], false)?,
            // `decoder` refuses heads without one.
            rotation: body.rotation.unwrap_or_default(),
            are_neighbours: body.pairs == Pairs::Neighbours,
            scale: body.scale,
            window: match body.sees {
                Sees::All => 0,
                Sees::Window(positions) => positions,
                Sees::BothWays | Sees::Around(_) => return Err(Unsupported::Feature { what: "encoders" }),
            },
        })
    }

    fn linear(&mut self, parts: &[&Linear<Weight>], are_in_turns: bool) -> Result<LinearAt, Unsupported> {
        let weights: Vec<&Weight> = parts.iter().map(|part| &part.weight).collect();
        let matrix = self.matrix(&weights, are_in_turns)?;
        let has_bias = parts.iter().any(|part| part.bias.is_some());
        let biases = parts.iter().map(|part| (part.bias.clone(), part.weight.shape()[0])).collect();
        Ok(LinearAt { matrix, bias: has_bias.then(|| self.vector(biases, are_in_turns)) })
    }

    fn matrix(&mut self, parts: &[&Weight], are_in_turns: bool) -> Result<Matrix, Unsupported> {
        let first = parts[0];
        let numbers = match first.format() {
            Format::Bf16 => Numbers::Bf16,
            Format::Q8_0 => Numbers::Q8,
            found => return Err(Unsupported::Format { tensor: first.name().to_owned(), found }),
        };
        let inputs = first.shape()[1];
        let differs = |part: &&&Weight| part.format() != first.format() || part.shape()[1] != inputs;
        if let Some(part) = parts.iter().find(differs) {
            return Err(Unsupported::Mixed { tensor: part.name().to_owned() });
        }
        if !inputs.is_multiple_of(8) {
            return Err(Unsupported::Shape { what: "rows", found: inputs });
        }
        let widths = parts.iter().map(|part| part.shape()[0]);
        // Half as many outputs as rows are inputs of the next matrix, whose padding they fill with zeros.
        let outputs =
            if are_in_turns { 2 * widths.max().unwrap_or(0).next_multiple_of(INPUTS_UNIT) } else { widths.sum() };
        let matrix = Matrix { at: self.begin(), numbers, outputs, inputs: inputs.next_multiple_of(INPUTS_UNIT) };
        self.at = matrix.end();
        let rows = Stack { parts: parts.iter().map(|&part| part.clone()).collect(), are_in_turns };
        self.uploads.push(Upload::Matrix { to: matrix, rows });
        Ok(matrix)
    }

    fn some_norm(&mut self, norm: Option<&Norm<Weight>>) -> Result<NormAt, Unsupported> {
        norm.map_or(Err(Unsupported::Feature { what: "branches without a norm" }), |norm| self.norm(norm))
    }

    fn norm(&mut self, Norm { of, weight, bias, eps }: &Norm<Weight>) -> Result<NormAt, Unsupported> {
        refuse(*of != Normed::Row || bias.is_some(), "layer norms")?;
        let width = weight.shape()[0];
        Ok(NormAt { weight: self.vector(vec![(Some(weight.clone()), width)], false), eps: *eps })
    }

    fn vector(&mut self, parts: Vec<(Option<Weight>, usize)>, are_in_turns: bool) -> Vector {
        let to = Vector { at: self.begin() };
        // In turns both have room up to the next unit.
        let widths =
            parts.iter().map(|(_, width)| if are_in_turns { width.next_multiple_of(INPUTS_UNIT) } else { *width });
        self.at += widths.sum::<usize>() as u64 * size_of::<f32>() as u64;
        self.uploads.push(Upload::Vector { to, parts, are_in_turns });
        to
    }

    fn begin(&mut self) -> u64 {
        self.at = self.at.next_multiple_of(ALIGNMENT);
        self.at
    }
}
