//! Models as data: what a published directory says of one, and the text that goes in and comes out.
//!
//! This room knows files by what is in them. It computes nothing, and knows no kernel, request or engine.

#![warn(clippy::disallowed_methods)]

mod bind;
pub mod calls;
pub mod config;
mod config_error;
pub mod demo;
mod describe;
pub mod embedding;
pub mod family;
mod fields;
pub mod gguf;
pub mod grammar;
mod known;
mod split;
pub mod synth;
pub mod template;
pub mod thoughts;
pub mod tokenizer;
pub mod tokenizer_json;

pub use bind::{BindError, bind, fit};
pub use config::Config;
pub use config_error::ConfigError;
pub use describe::describe;
pub use split::{SplitError, order, slices};
