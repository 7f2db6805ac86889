//! Weights and tokens in, tokens out: engine, lifecycle and an OpenAI server of its own.
//!
//! This room does not know the router, tenants or quotas; models and devices are rooms of their own below it.

pub mod config;
pub mod doctor;
pub mod engine;
pub mod lifecycle;
pub mod progress;
pub mod server;
mod structure;

#[cfg(test)]
#[path = "../compute/src/kernels/allocations.rs"]
mod allocations;
