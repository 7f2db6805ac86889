//! Endpoints as rows: paths, fields and what becomes of each, and how texts that reach a model's prompt are found.
//!
//! Router and worker read a body by its row (see `scan`). Adding an endpoint is adding a row and a module that reads
//! and writes its JSON.

mod chat;
mod completions;
mod embeddings;
mod fields;
mod reference;
pub(super) mod row;

pub use chat::CHAT;
pub use completions::COMPLETIONS;
pub use embeddings::EMBEDDINGS;
pub(super) use fields::{MESSAGE, PART, STREAM_OPTIONS};
pub use reference::{fields as reference, openapi};
pub use row::{Answers, Endpoint, ErrorShape, Fate, Field, Kind, Replay, Setter, TextRole};

/// All endpoints that generate, embed or rank.
pub static ENDPOINTS: &[&Endpoint] = &[&CHAT, &COMPLETIONS, &EMBEDDINGS];
