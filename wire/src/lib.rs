//! The nouns that cross a process or crate boundary: OpenAI JSON, server-sent events, worker
//! status, header names.
//!
//! This room does no I/O, starts no task and reads no clock. It knows neither axum nor tokio, so
//! that the router, the worker, the harness and a fuzzer can all speak the same words.

pub mod headers;
pub mod openai;
pub mod sse;
pub mod status;
