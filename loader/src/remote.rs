//! Far storage over the network, and the disk read as if it were far.
//!
//! `http` is the client that all of them share: it receives bodies straight into their
//! destination. `https`, `hub`, `local` and, with requests that `object_store` signs, `azure`, `s3`
//! and `gcs` are sources on top of it; `open` picks one by the model's URL. What a model's bytes mean,
//! and when to try again, is not known here.

mod azure;
mod env;
mod gcs;
pub mod http;
mod https;
mod hub;
mod local;
mod name;
mod open;
mod s3;
mod signed;

pub use env::Env;
pub use https::HttpsSource;
pub use hub::HubSource;
pub use local::LocalSource;
pub use open::open;
