//! One way to be observed: metric names as data, Prometheus text, structured logs, OTLP traces and
//! the W3C context that ties the hops of a request together.
//!
//! This room knows no request and no model, and never sees content.

mod def;
mod mask;
pub mod metrics;
pub mod names;
pub mod process;
pub mod terminal;
pub mod trace;

pub use mask::mask;
