//! The harness: measures a server the way its clients see it.
//!
//! It speaks HTTP like any client and knows `wire`'s words, nothing else of ours: what it reports
//! of Forebay it reports of any OpenAI-compatible server.

pub mod load;
