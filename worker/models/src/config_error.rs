//! Errors of `config.json`: the field, and what it has to hold.

use thiserror::Error;

/// No published config comes near: a bound for memory, not for taste.
pub(super) const CONFIG_BYTES_MAX: usize = 4 << 20;

/// Errors of reading a `config.json`.
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
        /// Its value, shortened.
        found: String,
        /// The values it may have.
        expected: String,
    },
    /// It asks for something that no interpreter here computes.
    #[error("reading config.json: {what} `{name}` is not supported; supported: {supported}")]
    Unsupported {
        /// The kind of feature.
        what: &'static str,
        /// Its name in the config.
        name: String,
        /// The supported names.
        supported: String,
    },
    /// It has a field whose meaning is not known, and which may change the arithmetic.
    #[error(
        "reading config.json: `{field}` is {found}, and what it changes is not known here; if it changes nothing, remove it"
    )]
    Unknown {
        /// The field, with its path.
        field: String,
        /// Its value, shortened.
        found: String,
    },
    /// A rotation has a field that its kind does not have.
    #[error(
        "reading config.json: `{field}` means nothing for a rotation of the type `{kind}`; remove it, or give its own `rope_type`"
    )]
    OfRotation {
        /// The field, with its path.
        field: String,
        /// The kind of the rotation.
        kind: String,
    },
}
