//! Devices: what computes a step, what samples from it, and how much memory that takes.
//!
//! This room knows tensors and steps. It knows no request, no text and no file of a model.

mod arrival;
pub mod backend;
pub mod candle;
pub mod cpu;
mod cuda;
mod error;
mod kernels;
mod kind;
pub mod memory;
mod prepared;
mod results;
mod routing;
pub mod sampler;
pub mod scripted;
mod step;
mod table;

pub use cuda::DeviceError;
pub use kind::{BuildError, Built, Kind, KvCacheDtype, Model, Quantization, Rows, Sizes};
pub use table::{BackendKind, DeviceChoice, KindOptions};
