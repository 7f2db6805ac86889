//! Errors of a model's text files.

/// Errors of reading a model's text files.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file is not JSON.
    #[error("{file} is not valid JSON")]
    Json {
        /// The file's name in the model directory.
        file: &'static str,
        /// The place and the reason.
        #[source]
        source: serde_json::Error,
    },
    /// A field of a file has an unexpected shape.
    #[error("{file}: `{field}` must be {expected}")]
    Field {
        /// The file's name in the model directory.
        file: &'static str,
        /// The field.
        field: &'static str,
        /// The expected value.
        expected: &'static str,
    },
    /// `tokenizer.json` is JSON, but no tokenizer.
    #[error("tokenizer.json describes no tokenizer we can use: {0}")]
    Tokenizer(String),
    /// Two files give one token two ids.
    #[error("{file}: the token `{token}` has the id {listed}, and {found} in tokenizer.json")]
    Id {
        /// The file's name in the model directory.
        file: &'static str,
        /// The token, shortened.
        token: String,
        /// Its id there.
        listed: u32,
        /// The id that it has or would get.
        found: u32,
    },
    /// A text could not be turned into tokens.
    #[error("this text has no tokens in the model's vocabulary: {0}")]
    Encode(String),
}
