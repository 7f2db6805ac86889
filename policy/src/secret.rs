//! A secret as configuration holds it: read, used, and never shown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// A secret: never shown, logged or written back.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("writeOnly" = true))]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The problem that keeps the secret from being a key that a header can carry; `None` if there is none.
    #[must_use]
    pub fn key_problem(&self) -> Option<&'static str> {
        crate::key::problem(&self.0)
    }

    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_written() {
        let secret: Secret = serde_json::from_str(r#""sk-hush""#).expect("valid");
        assert_eq!(secret.reveal(), "sk-hush");
        let shown = format!("{secret:?} {}", serde_json::to_string(&secret).expect("json"));
        assert!(!shown.contains("hush"), "{shown}");
    }
}
