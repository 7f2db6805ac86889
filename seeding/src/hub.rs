//! The hub's read protocol in front of this machine's cache, so that engines which know nothing of us start from it.
//!
//! An engine is given `HF_ENDPOINT=http://127.0.0.1:8083`. What it asks for is asked of the hub with the caller's own
//! token first (`upstream`, `rights`); its bytes come from the cache, which a miss fills (`fills`). With the hub away,
//! what is cached and was allowed still answers (`notes`). Models that the operator names are also plain files over
//! ranged HTTP. `docs/node.md` is the page for operators.

mod answer;
mod app;
mod caller;
mod config;
mod content;
mod error;
mod fills;
mod find;
mod granted;
mod meters;
mod node;
mod notes;
pub mod path;
mod plain;
pub mod range;
mod refusal;
mod rights;
mod status;
mod upstream;

pub use app::app;
pub use config::NodeConfig;
pub use error::NodeError;
pub use node::Node;
pub use plain::Named;
