//! OpenAI's JSON: the only place that knows it.
//!
//! Requests are parsed once into typed values whose illegal states are gone; an error names the
//! field and the fix. Fields nobody knows are listed, not refused. Responses leave out what is
//! absent rather than sending `null` where strict clients (Vercel's AI SDK) refuse it.

pub mod channels;
pub mod chat;
pub mod completion;
pub mod endpoint;
pub mod error;
mod fields;
pub mod models;
pub mod parse;
pub mod sampling;
pub mod scan;
pub mod splice;
pub mod usage;

pub use chat::{ChatMessage, ChatRequest};
pub use completion::CompletionRequest;
pub use endpoint::{CHAT, COMPLETIONS, ENDPOINTS, Endpoint};
pub use error::{ApiError, ErrorKind};
pub use parse::{Parsed, Peek};
pub use sampling::Sampling;
pub use scan::{Scan, Span, TextSpan, scan};
pub use usage::{PromptTokensDetails, Usage};
