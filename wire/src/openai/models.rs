//! `GET /v1/models`.

use serde::{Deserialize, Serialize};

/// The list of models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// Always `list`.
    pub object: String,
    /// The models.
    pub data: Vec<Model>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The name requests use.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// Who runs it.
    pub owned_by: String,
    /// The longest sequence in tokens (vLLM's extra field).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u32>,
}

impl ModelList {
    /// A list of `data`.
    #[must_use]
    pub fn new(data: Vec<Model>) -> Self {
        Self { object: "list".into(), data }
    }
}

impl Model {
    /// A model of ours.
    #[must_use]
    pub fn new(id: impl Into<String>, created_unix_s: u64, max_model_len: Option<u32>) -> Self {
        Self {
            id: id.into(),
            object: "model".into(),
            created: created_unix_s,
            owned_by: "forebay".into(),
            max_model_len,
        }
    }
}
