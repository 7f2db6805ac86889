//! Seeded fakes for tests, and (under `tests/`) the house rules as tests.
//!
//! Nothing here is shipped: the crate is a development dependency only.

pub mod faulty_worker;
pub mod openai_server;
pub mod origin;
