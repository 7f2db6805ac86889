//! Why a `config.json` is refused: the field, and what it has to hold.

use thiserror::Error;

/// No published config comes near: a bound for memory, not for taste.
pub(super) const CONFIG_BYTES_MAX: usize = 4 << 20;

/// Why a `config.json` is not a model we can run.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It is too long to be one.
    #[error("reading config.json: it has {bytes} bytes; at most {CONFIG_BYTES_MAX} are read")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// It is not JSON.
    #[error("reading config.json as JSON")]
    Json(#[source] serde_json::Error),
    /// It is JSON, but not an object.
    #[error("reading config.json: it is not a JSON object")]
    NotAnObject,
    /// A field is not what it has to be.
    #[error("reading config.json: `{field}` is {found}; expected {expected}")]
    Field {
        /// The field, with its path.
        field: String,
        /// What it holds, shortened.
        found: String,
        /// What it has to hold.
        expected: String,
    },
    /// It asks for something that no interpreter here computes.
    #[error("reading config.json: {what} `{name}` is not supported; supported: {supported}")]
    Unsupported {
        /// What kind of thing.
        what: &'static str,
        /// Its name in the config.
        name: String,
        /// What there is instead.
        supported: String,
    },
}
