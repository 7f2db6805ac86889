//! Weights and tokens in, tokens out: models, kernels, engine, and an OpenAI server of its own.
//!
//! This room does not know the router, tenants or quotas.

pub mod backend;
pub mod synth;
