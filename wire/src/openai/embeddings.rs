//! `POST /v1/embeddings`: the request as the engine's side knows it, and the answer.

use super::draft::Draft;
pub use super::draft::Encoding;
use super::endpoint::Endpoint;
use super::error::ApiError;
use super::generate::fill;
use super::prompt::Prompt;
use super::sampling::Sampling;
use super::scan::Scan;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// A request for embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct Embed {
    /// The model asked for; `None` where the request names none.
    pub model: Option<String>,
    /// The texts, at least one.
    pub inputs: Vec<Prompt>,
    /// The form of the numbers in the answer.
    pub encoding: Encoding,
    /// The first numbers of each embedding, so many; all if none.
    pub dimensions: Option<u32>,
    /// True if texts get the special tokens that the model's own have.
    pub add_special_tokens: bool,
    /// The most tokens of an input: of a longer one those at its beginning are kept.
    pub truncate_prompt_tokens: Option<u32>,
    /// Its priority, and whose prefixes it shares; nothing is sampled.
    pub sampling: Sampling,
}

/// Reads a request from the fields that the scan of its body found.
///
/// # Errors
/// 400, naming the field that is missing, out of range or not supported.
pub fn parse_embed(body: &[u8], scan: &Scan, endpoint: &Endpoint) -> Result<Embed, ApiError> {
    let Draft {
        model,
        prompts,
        encoding,
        dimensions,
        has_no_special_tokens,
        truncate_prompt_tokens,
        mut sampling,
        tier_priority,
        ..
    } = fill(body, scan)?;
    if sampling.priority == 0 {
        sampling.tier_priority = tier_priority;
    }
    let name = endpoint.prompt;
    let inputs = prompts.ok_or_else(|| ApiError::invalid(name, format!("`{name}` is required")))?;
    Ok(Embed {
        model,
        inputs,
        encoding,
        dimensions,
        add_special_tokens: !has_no_special_tokens,
        truncate_prompt_tokens,
        sampling,
    })
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<One<'a>>,
    model: &'a str,
    usage: Tokens,
}

#[derive(Serialize)]
struct One<'a> {
    object: &'static str,
    index: usize,
    embedding: Numbers<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Numbers<'a> {
    List(&'a [f32]),
    Text(String),
}

#[derive(Serialize)]
struct Tokens {
    prompt_tokens: u32,
    total_tokens: u32,
}

/// An answer, as JSON.
#[must_use]
pub fn answer(model: &str, vectors: &[Vec<f32>], encoding: Encoding, prompt_tokens: u32) -> Vec<u8> {
    let numbers = |vector: &'_ [f32]| match encoding {
        Encoding::Float => None,
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            Some(STANDARD.encode(bytes))
        }
    };
    let data = vectors.iter().enumerate().map(|(index, vector)| One {
        object: "embedding",
        index,
        embedding: numbers(vector).map_or(Numbers::List(vector), Numbers::Text),
    });
    let usage = Tokens { prompt_tokens, total_tokens: prompt_tokens };
    let list = List { object: "list", data: data.collect(), model, usage };
    // Texts and finite numbers always serialise.
    serde_json::to_vec(&list).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::EMBEDDINGS;
    use crate::openai::scan::{Limits, scan};
    use serde_json::{Value, json};

    fn read(body: &Value) -> Result<Embed, ApiError> {
        let body = body.to_string().into_bytes();
        parse_embed(&body, &scan(&body, &EMBEDDINGS, &Limits::default())?, &EMBEDDINGS)
    }

    fn refusal(body: &Value) -> (String, String) {
        let error = read(body).expect_err("refused");
        (error.param.clone().unwrap_or_default(), error.message)
    }

    #[test]
    fn every_form_of_input_is_read() {
        let inputs = |input: Value| read(&json!({"model": "m", "input": input})).expect("a request").inputs;
        let text = |text: &str| Prompt::Text(text.into());
        assert_eq!(inputs(json!("a")), [text("a")]);
        assert_eq!(inputs(json!(["a", "b"])), [text("a"), text("b")]);
        assert_eq!(inputs(json!([1, 2])), [Prompt::Tokens(vec![1, 2])]);
        assert_eq!(inputs(json!([[1], [2, 3]])), [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
        assert_eq!(inputs(json!(vec!["x"; 2048])).len(), 2048);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, param) in [
            (json!({"model": "m"}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": [[]]}), "input"),
            (json!({"input": ["a", 1]}), "input[1]"),
            (json!({"input": {"text": "a"}}), "input"),
            (json!({"input": "a", "encoding_format": "int8"}), "encoding_format"),
            (json!({"input": "a", "dimensions": 0}), "dimensions"),
            (json!({"input": "a", "dimensions": -3}), "dimensions"),
            (json!({"input": "a", "truncate_prompt_tokens": 0}), "truncate_prompt_tokens"),
            (json!({"input": "a", "messages": [{"role": "user", "content": "b"}]}), "messages"),
            (json!({"input": "a", "input_type": "query"}), "input_type"),
        ] {
            assert_eq!(refusal(&body).0, param, "{body}");
        }
        assert!(read(&json!({"input": vec!["x"; 2049]})).is_err());
    }

    #[test]
    fn an_answer_has_its_numbers_in_either_form() {
        let vectors = [vec![0.25, -1.5], vec![1.0, 0.0]];
        let float: Value = serde_json::from_slice(&answer("m", &vectors, Encoding::Float, 7)).expect("JSON");
        assert_eq!(float["data"][0], json!({"object": "embedding", "index": 0, "embedding": [0.25, -1.5]}));
        assert_eq!(float["usage"], json!({"prompt_tokens": 7, "total_tokens": 7}));
        let base64: Value = serde_json::from_slice(&answer("m", &vectors, Encoding::Base64, 7)).expect("JSON");
        assert_eq!(base64["data"][0]["embedding"], "AACAPgAAwL8=");
        assert_eq!(base64["data"][1]["index"], 1);
    }
}
