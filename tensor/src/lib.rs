//! The nouns that cross from storage to kernels: number formats, stored tensors, parts of a model, generations of weights.
//!
//! This room knows no file, no model family and no kernel.

mod format;
mod part;
mod step;
mod view;
mod weight;

pub use format::{Block, Format};
pub use part::{Location, Part};
pub use step::Generation;
pub use view::{ArrivalError, Storage, View};
pub use weight::{Packing, Rows, Slot, Weight};
