//! Far storage over the network, and the disk read as if it were far.
//!
//! `http` is the client that all of them share: it receives bodies straight into their
//! destination. `https`, `hub` and `local` are sources on top of it. What a model's bytes mean,
//! and when to try again, is not known here.

mod env;
pub mod http;
mod https;
mod local;
mod name;
mod open;

pub use env::Env;
pub use https::HttpsSource;
pub use local::LocalSource;
pub use open::open;
