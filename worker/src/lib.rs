//! Weights and tokens in, tokens out: models, kernels, engine, and an OpenAI server of its own.
//!
//! This room does not know the router, tenants or quotas.

pub mod backend;
pub mod config;
pub mod demo;
pub mod engine;
pub mod gguf;
mod kernels;
pub mod lifecycle;
pub mod memory;
pub mod model;
pub mod progress;
pub mod sampler;
pub mod server;
pub mod synth;
pub mod template;
pub mod tokenizer;
