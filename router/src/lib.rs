//! The front door: tenancy, limits, screening, picking, dispatch and relay.
//!
//! A request is identified, read, admitted, sent to one worker and its answer relayed through one
//! screen; `serve.rs` is that sentence. The router knows no model, no tokenizer and no weights: a
//! worker is an OpenAI server, ours or another's. What may be asked and said is decided in
//! `policy`; this room obeys.

mod access;
mod account;
mod app;
mod begin;
mod breaker;
mod budget;
mod check;
mod config;
mod connections;
mod core;
mod cost;
mod dispatch;
mod explain;
mod fleet;
mod health;
mod hold;
mod ledger;
mod load;
mod membership;
mod meter;
mod observed;
mod offload;
mod outcome;
mod pair;
mod pick;
mod prefix;
mod probe;
mod relay;
mod reload;
mod reload_status;
mod ring;
mod screened;
mod serve;
mod strikes;
mod support;
mod ticket;
mod upstream;
mod view;
mod worker;

pub use app::Router;
pub use check::{RouterError, check};
pub use config::{HealthConfig, PickBy, PickConfig, RetryConfig, RouterConfig, UsageConfig};
pub use screened::pass_stream;
