//! Weights and tokens in, tokens out: models, kernels, engine, and an OpenAI server of its own.
//!
//! This room does not know the router, tenants or quotas.

pub mod backend;
mod kernels;
pub mod memory;
pub mod model;
pub mod synth;
pub mod template;
pub mod tokenizer;
