//! Devices: what computes a step, what samples from it, and how much memory that takes.
//!
//! This room knows tensors and steps. It knows no request, no text and no file.

mod arrival;
pub mod backend;
pub mod candle;
pub mod cpu;
mod kernels;
pub mod memory;
pub mod sampler;
pub mod scripted;
