//! Embeddings: of a decoder, here the scripted one, and of an encoder on our own kernels, against `transformers`.

use crate::worker_process::{Running, begin, start, storage};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use worker::lifecycle::ModelSource;

/// The encoder in the form that `sentence-transformers` publishes.
fn minilm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoders/minilm")
}

async fn encoder(settings: Value) -> Running {
    let source = format!("minilm={}", minilm().display()).parse::<ModelSource>().expect("a place");
    let mut all = json!({"backend": "cpu"});
    for (key, value) in settings.as_object().expect("an object") {
        all[key.as_str()] = value.clone();
    }
    let (worker, loaded) = begin(all, storage(), vec![source]).await;
    loaded.await.expect("loads");
    worker
}

/// The texts, their tokens, and what `transformers` makes of them.
fn expected() -> (Vec<String>, Vec<Vec<u32>>, Vec<Vec<f32>>) {
    let texts = std::fs::read(minilm().join("texts.json")).expect("texts.json");
    let texts: Value = serde_json::from_slice(&texts).expect("JSON");
    let strings =
        texts["texts"].as_array().expect("texts").iter().map(|text| text.as_str().expect("a text").to_owned());
    let tokens = serde_json::from_value(texts["tokens"].clone()).expect("ids");
    let file = std::fs::read(minilm().join("expected.safetensors")).expect("expected.safetensors");
    let file = SafeTensors::deserialize(&file).expect("safetensors");
    let vectors = file.tensor("embeddings").expect("embeddings");
    let numbers: Vec<f32> = vectors.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    (strings.collect(), tokens, numbers.chunks(vectors.shape()[1]).map(<[f32]>::to_vec).collect())
}

fn vectors(answer: &Value) -> Vec<Vec<f32>> {
    let data = answer["data"].as_array().unwrap_or_else(|| panic!("{answer}"));
    for (index, one) in data.iter().enumerate() {
        assert_eq!((&one["object"], &one["index"]), (&json!("embedding"), &json!(index)));
    }
    data.iter().map(|one| serde_json::from_value(one["embedding"].clone()).expect("numbers")).collect()
}

fn apart(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

async fn embed(worker: &Running, body: Value) -> Value {
    let reply = worker.post("/v1/embeddings", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[tokio::test]
async fn an_encoders_embeddings_are_those_of_transformers_in_any_company() {
    let worker = encoder(json!({})).await;
    let (texts, tokens, expected) = expected();
    let answer = embed(&worker, json!({"model": "minilm", "input": texts})).await;
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("minilm")));
    let count: usize = tokens.iter().map(Vec::len).sum();
    assert_eq!(answer["usage"], json!({"prompt_tokens": count, "total_tokens": count}));
    let found = vectors(&answer);
    for ((text, found), expected) in texts.iter().zip(&found).zip(&expected) {
        assert!(apart(found, expected) < 1e-5, "{text}: {}", apart(found, expected));
        let alone = vectors(&embed(&worker, json!({"input": text})).await);
        assert_eq!(alone[0], *found, "{text}");
    }
    assert_eq!(vectors(&embed(&worker, json!({"input": tokens})).await), found, "the same by ids");
    assert_eq!(vectors(&embed(&worker, json!({"input": tokens[0]})).await), found[..1]);
    let counted = texts.len() * 3 + 1;
    assert_eq!(worker.metric("forebay_worker_embeddings_total"), counted as f64);
    worker.until("forebay_worker_kv_usage_ratio", |used| used == 0.0).await;
}

#[tokio::test]
async fn base64_holds_the_same_numbers() {
    let worker = encoder(json!({})).await;
    let plain = vectors(&embed(&worker, json!({"input": ["a", "water"]})).await);
    let answer = embed(&worker, json!({"input": ["a", "water"], "encoding_format": "base64"})).await;
    for (one, plain) in answer["data"].as_array().expect("data").iter().zip(plain) {
        let text = one["embedding"].as_str().expect("base64");
        let bytes = bytes_of(text);
        let numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(numbers, plain);
    }
}

/// Base64 in plain arithmetic.
fn bytes_of(text: &str) -> Vec<u8> {
    let digit = |byte: u8| -> u32 {
        match byte {
            b'A'..=b'Z' => u32::from(byte - b'A'),
            b'a'..=b'z' => u32::from(byte - b'a') + 26,
            b'0'..=b'9' => u32::from(byte - b'0') + 52,
            b'+' => 62,
            b'/' => 63,
            other => panic!("{other} is no digit"),
        }
    };
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group.iter().fold(0, |bits, &byte| bits << 6 | digit(byte)) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

#[tokio::test]
async fn a_long_text_is_refused_or_cut_with_its_special_tokens() {
    let worker = encoder(json!({})).await;
    // The model was made for 32 tokens.
    let long = "water ".repeat(100);
    let reply = worker.post("/v1/embeddings", &json!({"input": ["a", long]})).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
    assert_eq!(reply.json()["error"]["param"], "input[1]");
    for (most, tokens) in [(-1, 32), (10, 10), (3, 3), (999, 32)] {
        let body = json!({"input": long, "truncate_prompt_tokens": most});
        let answer = embed(&worker, body).await;
        assert_eq!(answer["usage"]["prompt_tokens"], tokens, "{most}");
        // As many words as fit between the two special tokens.
        let short = embed(&worker, json!({"input": "water ".repeat(tokens - 2)})).await;
        assert_eq!(vectors(&answer), vectors(&short), "{most}");
    }
}

#[tokio::test]
async fn what_cannot_be_embedded_is_refused_by_name() {
    let worker = encoder(json!({})).await;
    for (body, param) in [
        (json!({}), json!("input")),
        (json!({"input": ""  , "add_special_tokens": false}), json!("input")),
        (json!({"input": ["a", ""], "add_special_tokens": false}), json!("input[1]")),
        (json!({"input": [[99_999]]}), json!("input")),
        (json!({"input": "a", "dimensions": 8}), json!("dimensions")),
        (json!({"input": "a", "encoding_format": "int8"}), json!("encoding_format")),
        (json!({"input": vec!["a"; 2049]}), json!("input[2048]")),
    ] {
        let reply = worker.post("/v1/embeddings", &body).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert_eq!(reply.json()["error"]["param"], param, "{}", reply.text());
    }
    let own = embed(&worker, json!({"input": "a", "dimensions": 48, "user": "u", "novelty": 1})).await;
    assert_eq!(vectors(&own)[0].len(), 48);
    assert_eq!(worker.post("/v1/embeddings", &json!({"model": "nobody", "input": "a"})).await.status, 404);
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "a"})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "a"}]})),
    ] {
        let reply = worker.post(path, &body).await;
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("model")), "{}", reply.text());
    }
    assert_eq!(worker.get("/v1/models").await.json()["data"][0]["id"], "minilm");
}

#[tokio::test]
async fn thousands_of_inputs_take_no_more_of_the_queue_than_others() {
    let settings = json!({"queue_max": 8, "request_sequences_max": 8, "max_num_seqs": 4, "max_num_batched_tokens": 64});
    let worker = encoder(settings).await;
    let texts: Vec<String> = (0..2048).map(|number| format!("text {number}")).collect();
    let body = json!({"model": "minilm", "input": texts});
    let is_over = AtomicBool::new(false);
    let all = async {
        let answer = embed(&worker, body).await;
        is_over.store(true, Ordering::Release);
        vectors(&answer)
    };
    let others = async {
        let mut answered = 0;
        while !is_over.load(Ordering::Acquire) {
            assert!(worker.metric("forebay_worker_waiting") <= 8.0);
            let reply = worker.post("/v1/embeddings", &json!({"input": "text 7"})).await;
            // A queue of eight may be full for a moment.
            assert!(matches!(reply.status, 200 | 503), "{}", reply.text());
            answered += usize::from(reply.status == 200);
        }
        answered
    };
    let (all, answered) = tokio::join!(all, others);
    assert_eq!(all.len(), 2048);
    assert!(answered > 0, "nobody else had a turn");
    assert_eq!(vectors(&embed(&worker, json!({"input": "text 2047"})).await)[0], all[2047]);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_sequences() {
    let worker = start(json!({"scripted_step_ms": 50})).await;
    let body = json!({"model": "demo", "input": vec!["a b c"; 500]}).to_string();
    let leaving = tokio::time::timeout(
        std::time::Duration::from_millis(200),
        worker.open("POST", "/v1/embeddings", body.as_bytes()),
    );
    assert!(leaving.await.is_err(), "it takes seconds");
    worker.until("forebay_worker_waiting", |waiting| waiting == 0.0).await;
    worker.until("forebay_worker_running", |running| running == 0.0).await;
    worker.until("forebay_worker_kv_usage_ratio", |used| used == 0.0).await;
}

#[tokio::test]
async fn a_decoder_gives_the_state_after_its_last_token_whatever_was_cached() {
    let worker = start(json!({"max_num_batched_tokens": 16, "max_num_seqs": 4})).await;
    let long = "The forebay holds the water. ".repeat(20);
    let first = vectors(&embed(&worker, json!({"input": long})).await);
    assert!((first[0].iter().map(|number| number * number).sum::<f32>() - 1.0).abs() < 1e-4, "of the length one");
    let again = embed(&worker, json!({"input": [long, "something else", long]})).await;
    let again = vectors(&again);
    assert_eq!((&again[0], &again[2]), (&first[0], &first[0]));
    assert_ne!(again[1], again[0]);
    assert!(worker.metric("forebay_worker_prefix_cache_hits_total") > 0.0, "the second one was cached");
}
