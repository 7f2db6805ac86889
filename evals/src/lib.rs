//! The harness: measures a server the way its clients see it.
//!
//! It speaks HTTP like any client and knows `wire`'s words, nothing else of ours: what it reports
//! of Forebay it reports of any OpenAI-compatible server. `safety` is handed a screen as a value, and knows it as bytes in
//! and bytes out.

pub mod load;
pub mod safety;
