//! The nouns that cross a process or crate boundary: OpenAI JSON, server-sent events, worker
//! status, header names, digests, manifests, and what is known of a model before it is loaded.
//!
//! This room does no I/O, starts no task and reads no clock. It knows neither axum nor tokio, so
//! that the router, the worker, the harness and a fuzzer can all speak the same words.

#![warn(clippy::disallowed_methods)]

mod chain;
pub mod digest;
pub mod evidence;
pub mod extent;
pub mod fleet;
pub mod headers;
pub mod manifest;
pub mod openai;
pub mod peers;
pub mod proof;
pub mod sse;
pub mod status;

pub use chain::Chain;
pub use extent::EXTENT_BYTES;
