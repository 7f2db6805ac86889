//! How a process of ours listens for HTTP: bounds against slow and many clients, request ids,
//! OpenAI-shaped errors for what never reaches a handler, and a drain that loses nothing.
//!
//! Router and worker both stand on it. It knows no route and no request's meaning.
//!
//! `axum::serve` (0.8) sets no timer, which leaves hyper's header timeout without effect; this is
//! why the connection loop is here.

mod drain;
mod layers;
mod request;
mod server;

pub use drain::Drain;
pub use layers::{RequestId, common_layers};
pub use request::{error_response, key_headers, read_json_body, require_loopback};
pub use server::{ListenConfig, ListenError, Listener, Peer};
