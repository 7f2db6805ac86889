//! `GET /v1/models`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// The owner.
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

    /// Reads the models of a list as servers really send it: with a byte order mark, as a bare
    /// array, without `created` and `owned_by`, with numbers as floats. Only a name is needed;
    /// entries without one are left out. `None` if it is no list.
    #[must_use]
    pub fn read(json: &[u8]) -> Option<Vec<Model>> {
        let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
        let list: Value = serde_json::from_slice(json).ok()?;
        let data = list.as_array().or_else(|| list.get("data").or_else(|| list.get("models"))?.as_array())?;
        Some(data.iter().filter_map(Model::read).collect())
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

    fn read(entry: &Value) -> Option<Self> {
        let id = entry.get("id").or_else(|| entry.get("name"))?.as_str().filter(|id| !id.is_empty())?;
        let number = |name: &str| {
            let value = entry.get(name)?.as_f64().filter(|value| value.is_finite() && *value >= 0.0)?;
            // A float that is too large becomes the largest integer.
            Some(value as u64)
        };
        let length = ["max_model_len", "context_length", "context_window"].into_iter().find_map(number);
        let length = length.and_then(|length| u32::try_from(length).ok()).filter(|length| *length > 0);
        let mut model = Self::new(id, number("created").unwrap_or(0), length);
        if let Some(owner) = entry.get("owned_by").and_then(Value::as_str) {
            owner.clone_into(&mut model.owned_by);
        }
        Some(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(json: &str) -> Option<Vec<String>> {
        ModelList::read(json.as_bytes()).map(|models| models.into_iter().map(|model| model.id).collect())
    }

    #[test]
    fn lists_of_models_are_read_as_servers_send_them() {
        for (json, expected) in [
            (r#"{"object":"list","data":[{"id":"a","object":"model","created":1,"owned_by":"x"}]}"#, &["a"][..]),
            (r#"{"data":[{"id":"a"},{"id":"org/b","created":1.7e9,"owned_by":null}]}"#, &["a", "org/b"]),
            (r#"[{"id":"a","type":"chat"}]"#, &["a"]),
            (r#"{"models":[{"name":"a"}],"data":[{"id":"b"}]}"#, &["b"]),
            ("\u{feff}{\"data\":[{\"id\":\"a\"}]}", &["a"]),
            (r#"{"data":[{"object":"model"},{"id":7},{"id":""},"x"]}"#, &[]),
            (r#"{"data":[]}"#, &[]),
        ] {
            assert_eq!(ids(json).expect("a list"), expected, "{json}");
        }
        for json in ["", "{}", "<html>", r#"{"data":7}"#] {
            assert_eq!(ids(json), None, "{json}");
        }
        let model =
            &ModelList::read(br#"{"data":[{"id":"a","created":1.5,"max_model_len":64.0}]}"#).expect("a list")[0];
        assert_eq!((model.created, model.max_model_len), (1, Some(64)));
    }
}
