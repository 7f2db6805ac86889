//! The nouns that cross from storage to kernels: number formats, parts of a model, generations of weights.
//!
//! This room knows no file, no model family and no kernel.

mod format;
mod part;
mod step;

pub use format::{Float, Format, Q8_0_BYTES, Q8_0_NUMBERS};
pub use part::{Location, Part};
pub use step::Generation;
