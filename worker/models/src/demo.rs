//! The bundled model: compiled into the binary, read where the executable is mapped.

use loader::header::{self, Header, HeaderError};
use loader::{LoadError, Weights};

/// The name it is served under.
pub const NAME: &str = "demo";

/// `config.json`.
pub const CONFIG: &[u8] = include_bytes!("../../demo/config.json");
/// `generation_config.json`.
pub const GENERATION_CONFIG: &[u8] = include_bytes!("../../demo/generation_config.json");
/// `tokenizer.json`.
pub const TOKENIZER: &[u8] = include_bytes!("../../demo/tokenizer.json");
/// `tokenizer_config.json`.
pub const TOKENIZER_CONFIG: &[u8] = include_bytes!("../../demo/tokenizer_config.json");
/// `chat_template.jinja`.
pub const CHAT_TEMPLATE: &str = include_str!("../../demo/chat_template.jinja");

static WEIGHTS: &[u8] = include_bytes!("../../demo/model.safetensors");

/// Its weights, in place.
///
/// # Errors
/// A file that is no safetensors: a broken build.
pub fn weights() -> Result<Weights, LoadError> {
    Weights::embedded("the bundled demo model", WEIGHTS)
}

/// Its weights' header.
///
/// # Errors
/// As [`weights`].
pub fn header() -> Result<Header, HeaderError> {
    header::parse(WEIGHTS, WEIGHTS.len() as u64)
}
