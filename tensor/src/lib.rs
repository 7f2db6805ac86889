//! The nouns that cross from storage to kernels: number formats, stored tensors, decoders as data, parts of
//! a model, generations of weights.
//!
//! This room knows no file, no model family and no kernel.

#![warn(clippy::disallowed_methods)]

mod decoder;
mod encoding;
mod format;
mod part;
mod rope;
mod step;
mod view;
mod weight;

pub use decoder::{
    Activation, Added, Attention, Body, Branch, Classes, Decoder, Dense, Distances, Experts, Growth, HEAD_DIM_MAX,
    Head, Layer, Linear, Norm, Normed, Pairs, Positions, Rotation, Sees, Widths,
};
pub use format::{Block, Format};
pub use part::{Location, Part};
pub use rope::{Rope, RopeScaling, Yarn};
pub use step::Generation;
pub use view::{ArrivalError, Storage, View};
pub use weight::{Packing, Rows, Slot, Weight};
