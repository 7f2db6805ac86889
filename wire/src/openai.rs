//! OpenAI's JSON: the only place that knows it.
//!
//! Endpoints are rows (`endpoint`). A request is scanned once (`scan`) and read into typed values whose illegal
//! states are gone (`generate`); an error names the field and the fix. Fields that nobody knows are listed, not
//! refused. Responses leave out what is absent rather than sending `null` where strict clients (Vercel's AI SDK)
//! refuse it.

pub mod channels;
pub mod chat;
mod complaint;
pub mod completion;
mod counting;
mod draft;
pub mod embeddings;
pub mod endpoint;
pub mod error;
pub mod filter;
pub mod generate;
mod given;
pub mod logprobs;
mod message;
pub mod models;
pub mod prompt;
pub mod sampling;
pub mod scan;
pub mod splice;
pub mod structure;
pub mod tokens;
pub mod tools;
pub mod usage;
mod value;

pub use counting::ask_for_usage;
pub use embeddings::{Embed, parse_embed};
pub use endpoint::{CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, Endpoint};
pub use error::{ApiError, ErrorKind};
pub use generate::{Generate, parse};
pub use message::{ChatMessage, template_messages};
pub use prompt::Prompt;
pub use sampling::Sampling;
pub use scan::{Scan, Span, TextSpan, scan};
pub use usage::{PromptTokensDetails, Usage};
