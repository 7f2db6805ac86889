//! Seeded fakes for tests, and (under `tests/`) the house rules as tests.
//!
//! Nothing here is shipped: the crate is a development dependency only. Its one binary,
//! `forebay-origin`, puts [`origin`] on the command line for benchmarks; `docs/fault-origin.md` is
//! its manual.

pub mod api_server;
pub mod dns_server;
pub mod faulty_worker;
pub mod gguf;
pub mod openai_server;
pub mod origin;
pub mod peer;
