//! How an answer ends: stop strings however they are cut, stop tokens, end of sequence, lengths.

use crate::client::events;
use crate::worker_process::{Running, chat, start};
use serde_json::{Value, json};

const SEED: u64 = 11;

/// The model's answer without a stop: the text, and each token's text.
async fn plain(worker: &Running) -> (String, Vec<String>) {
    let answer = worker
        .chat(json!({"seed": SEED, "max_tokens": 30, "temperature": 1, "logprobs": true, "ignore_eos": true}))
        .await;
    let choice = &answer["choices"][0];
    let tokens = choice["logprobs"]["content"].as_array().expect("one per token");
    let tokens = tokens.iter().map(|entry| entry["token"].as_str().expect("text").to_owned()).collect();
    (choice["message"]["content"].as_str().expect("text").to_owned(), tokens)
}

/// The texts of a stream, chunk by chunk, and its finish reason.
async fn stream(worker: &Running, fields: Value) -> (Vec<String>, String) {
    let mut request = chat(fields);
    request["stream"] = json!(true);
    let reply = worker.post("/v1/chat/completions", &request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let (mut texts, mut reason) = (Vec::new(), String::new());
    for event in events(&reply.body).iter().filter(|event| event.data != "[DONE]") {
        let chunk: Value = serde_json::from_str(&event.data).expect("JSON");
        texts.extend(chunk.pointer("/choices/0/delta/content").and_then(Value::as_str).map(str::to_owned));
        reason.extend(chunk.pointer("/choices/0/finish_reason").and_then(Value::as_str));
    }
    (texts, reason)
}

#[tokio::test]
async fn a_stop_string_across_tokens_never_leaks() {
    let worker = start(json!({})).await;
    let (text, tokens) = plain(&worker).await;
    let mut requests = 1.0;
    // Every string that begins inside one token and ends inside the next.
    let mut at = 0;
    let mut tried = 0;
    for pair in tokens.windows(2) {
        let (left, right) = (&pair[0], &pair[1]);
        let end = at + left.len();
        at = end;
        if !left.is_ascii() || !right.is_ascii() || left.is_empty() || right.is_empty() || !text.is_char_boundary(end) {
            continue;
        }
        let Some(stop) = text.get(end - 1..end + 1) else { continue };
        let expected = &text[..text.find(stop).expect("it is there")];
        let fields =
            json!({"seed": SEED, "max_tokens": 30, "temperature": 1, "ignore_eos": true, "stop": [stop, "\u{1}never"]});
        let (texts, reason) = stream(&worker, fields.clone()).await;
        assert_eq!((texts.concat().as_str(), reason.as_str()), (expected, "stop"), "{stop:?}");
        let whole = worker.chat(fields).await;
        assert_eq!(whole["choices"][0]["message"]["content"], expected, "{stop:?}");
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        tried += 1;
        requests += 2.0;
        // A text cut by a stop string is a success, not an abandoned request.
        worker.until("vllm:request_success_total", |count| count == requests).await;
    }
    assert!(tried >= 5, "only {tried} stops were tried");
}

#[tokio::test]
async fn a_stop_string_that_almost_comes_is_text_after_all() {
    let worker = start(json!({})).await;
    let (text, _) = plain(&worker).await;
    // The whole answer and one character more: held back to the very end, then released.
    let tail: String = text.chars().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect();
    let fields =
        json!({"seed": SEED, "max_tokens": 30, "temperature": 1, "ignore_eos": true, "stop": format!("{tail}\u{1}")});
    let (texts, reason) = stream(&worker, fields).await;
    assert_eq!((texts.concat(), reason.as_str()), (text, "length"));
}

#[tokio::test]
async fn a_stop_token_ends_the_text_and_is_not_part_of_it() {
    let worker = start(json!({})).await;
    // Bias makes one token certain: with it as a stop token nothing is said.
    let certain = json!({"41": 100});
    let fields = json!({"logit_bias": certain, "temperature": 0, "stop_token_ids": [41], "max_tokens": 9});
    let answer = worker.chat(fields).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["choices"][0]["message"]["content"], "");
    let fields =
        json!({"logit_bias": certain, "temperature": 0, "stop_token_ids": [41], "max_tokens": 9, "min_tokens": 4});
    let later = worker.chat(fields).await;
    let count = later["usage"]["completion_tokens"].as_u64().expect("a count");
    assert!(count >= 5, "four tokens, then the stop token: {later}");
    assert_eq!(later["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn the_end_of_sequence_ends_unless_it_is_to_be_ignored() {
    let worker = start(json!({})).await;
    // `<|im_end|>` of the demo's vocabulary, made certain.
    let certain = json!({"2047": 100});
    let answer = worker.chat(json!({"logit_bias": certain, "temperature": 0, "max_tokens": 6})).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    assert_eq!(answer["choices"][0]["message"]["content"], "");
    let answer =
        worker.chat(json!({"logit_bias": certain, "temperature": 0, "max_tokens": 6, "ignore_eos": true})).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn streams_never_show_half_a_character() {
    let worker = start(json!({})).await;
    // Random bytes-level tokens spell broken UTF-8 often; the stream must equal the whole text all the same.
    for seed in 0..8 {
        let fields = json!({"seed": seed, "temperature": 2, "max_tokens": 60, "ignore_eos": true});
        let (texts, _) = stream(&worker, fields.clone()).await;
        let whole = worker.chat(fields).await;
        assert_eq!(whole["choices"][0]["message"]["content"], texts.concat(), "seed {seed}");
    }
}
