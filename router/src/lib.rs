//! The front door: tenancy, limits, screening, picking, dispatch and relay.
//!
//! A request is identified, read, admitted, sent to one worker and its answer relayed through one
//! screen; `serve.rs` is that sentence. The router knows no model, no tokenizer and no weights: a
//! worker is an OpenAI server, ours or another's. What may be asked and said is decided in
//! `policy`; this room obeys.

mod app;
mod budget;
mod config;
mod core;
mod dispatch;
mod fleet;
mod health;
mod meter;
mod pick;
mod relay;
mod screened;
mod serve;
mod support;
mod upstream;
mod worker;

pub use app::{Router, RouterError, serve};
pub use config::{HealthConfig, RetryConfig, RouterConfig};
