//! Whole and streamed answers have OpenAI's shapes and say the same.

use crate::client::events;
use crate::worker_process::{Running, chat, completion, start};
use serde_json::{Value, json};

/// The chunks of a stream that ends in order.
async fn chunks(worker: &Running, path: &str, request: Value) -> Vec<Value> {
    let reply = worker.post(path, &request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")));
    let mut data: Vec<String> = events(&reply.body).into_iter().map(|event| event.data).collect();
    assert_eq!(data.pop().as_deref(), Some("[DONE]"));
    data.iter().map(|data| serde_json::from_str(data).expect("a chunk is JSON")).collect()
}

/// The text a stream's chunks add up to, for one choice.
fn streamed(chunks: &[Value], index: u64, pointer: &str) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().expect("choices"));
    choices.filter(|choice| choice["index"] == index).filter_map(|choice| choice.pointer(pointer)?.as_str()).collect()
}

#[tokio::test]
async fn a_chat_answer_has_openais_shape() {
    let worker = start(json!({})).await;
    let answer = worker.chat(json!({"max_tokens": 5, "seed": 1, "ignore_eos": true})).await;
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")), "{answer}");
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "demo");
    let choice = &answer["choices"][0];
    assert_eq!(choice["index"], 0);
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["finish_reason"], "length");
    assert!(choice["logprobs"].is_null());
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 5);
    let sum = usage["prompt_tokens"].as_u64().expect("a count") + 5;
    assert_eq!(usage["total_tokens"], sum);
}

#[tokio::test]
async fn a_chat_stream_says_what_the_whole_answer_says() {
    let worker = start(json!({})).await;
    let fields = json!({"max_tokens": 40, "seed": 7, "ignore_eos": true});
    let whole = worker.chat(fields.clone()).await;
    let mut request = chat(fields);
    request["stream"] = json!(true);
    let plain = chunks(&worker, "/v1/chat/completions", request.clone()).await;
    assert!(plain.iter().all(|chunk| chunk.get("usage").is_none()), "nobody asked for usage");
    request["stream_options"] = json!({"include_usage": true});
    let chunks = chunks(&worker, "/v1/chat/completions", request).await;

    let first = &chunks[0]["choices"][0]["delta"];
    assert_eq!(first["role"], "assistant");
    let roles = chunks.iter().filter(|chunk| chunk.pointer("/choices/0/delta/role").is_some()).count();
    assert_eq!(roles, 1, "the role comes once");
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["created"] == chunks[0]["created"]));
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
    let (last, others) = chunks.split_last().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"], whole["usage"]);
    assert!(others.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)), "null on all others");
    let finishes: Vec<&Value> = others.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    assert_eq!(finishes.last().copied(), Some(&json!("length")));
    assert!(finishes[..finishes.len() - 1].iter().all(|reason| reason.is_null()));
    let text = whole["choices"][0]["message"]["content"].as_str().expect("text");
    assert_eq!(streamed(&chunks, 0, "/delta/content"), text);
    assert_eq!(streamed(&plain, 0, "/delta/content"), text);
}

#[tokio::test]
async fn choices_are_numbered_and_choice_i_draws_with_seed_plus_i() {
    let worker = start(json!({})).await;
    let answer =
        worker.chat(json!({"n": 3, "seed": 20, "max_tokens": 12, "temperature": 1.5, "ignore_eos": true})).await;
    let choices = answer["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), 3);
    assert_eq!(answer["usage"]["completion_tokens"], 36);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        let seed = 20 + index;
        let alone = worker.chat(json!({"seed": seed, "max_tokens": 12, "temperature": 1.5, "ignore_eos": true})).await;
        assert_eq!(choice["message"], alone["choices"][0]["message"], "choice {index}");
    }
    assert_ne!(choices[0]["message"], choices[1]["message"]);
    let mut request = chat(json!({"n": 3, "seed": 20, "max_tokens": 12, "temperature": 1.5, "ignore_eos": true}));
    request["stream"] = json!(true);
    let chunks = chunks(&worker, "/v1/chat/completions", request).await;
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(streamed(&chunks, index as u64, "/delta/content"), choice["message"]["content"], "choice {index}");
    }
}

#[tokio::test]
async fn without_a_seed_answers_differ_and_greedy_ones_do_not() {
    let worker = start(json!({})).await;
    let hot = json!({"max_tokens": 30, "temperature": 2.0, "ignore_eos": true});
    let (first, second) = (worker.chat(hot.clone()).await, worker.chat(hot).await);
    assert_ne!(first["choices"], second["choices"]);
    let greedy = json!({"max_tokens": 30, "temperature": 0, "ignore_eos": true});
    let (first, second) = (worker.chat(greedy.clone()).await, worker.chat(greedy).await);
    assert_eq!(first["choices"], second["choices"]);
}

#[tokio::test]
async fn chat_log_probabilities_name_each_token() {
    let worker = start(json!({})).await;
    let fields = json!({"max_tokens": 8, "temperature": 0, "logprobs": true, "top_logprobs": 3, "ignore_eos": true});
    let answer = worker.chat(fields.clone()).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().expect("one per token");
    assert_eq!(content.len(), 8);
    let mut bytes = Vec::new();
    for entry in content {
        let top = entry["top_logprobs"].as_array().expect("rivals");
        assert_eq!(top.len(), 3);
        // Greedy: the token is the likeliest of all.
        assert_eq!(top[0]["token"], entry["token"]);
        assert_eq!(top[0]["logprob"], entry["logprob"]);
        assert!(entry["logprob"].as_f64().is_some_and(|logprob| logprob <= 0.0), "{entry}");
        let falling: Vec<f64> = top.iter().filter_map(|rival| rival["logprob"].as_f64()).collect();
        assert!(falling.is_sorted_by(|left, right| left >= right), "{falling:?}");
        let own = entry["bytes"].as_array().expect("bytes");
        bytes.extend(own.iter().map(|byte| u8::try_from(byte.as_u64().expect("a number")).expect("a byte")));
    }
    assert_eq!(answer["choices"][0]["message"]["content"], String::from_utf8_lossy(&bytes).as_ref());
    let mut request = chat(fields);
    request["stream"] = json!(true);
    let chunks = chunks(&worker, "/v1/chat/completions", request).await;
    let streamed: Vec<Value> = chunks
        .iter()
        .filter_map(|chunk| chunk.pointer("/choices/0/logprobs/content")?.as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(&streamed, content, "streamed log probabilities are the same");
}

#[tokio::test]
async fn completions_take_several_prompts_and_number_choices_prompt_by_prompt() {
    let worker = start(json!({})).await;
    let fields = json!({"prompt": ["one", "two"], "n": 2, "seed": 3, "max_tokens": 6, "ignore_eos": true});
    let answer = worker.complete(fields).await;
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")), "{answer}");
    assert_eq!(answer["object"], "text_completion");
    let choices = answer["choices"].as_array().expect("choices");
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64()).collect::<Vec<_>>(), [0, 1, 2, 3].map(Some));
    assert_eq!(answer["usage"]["completion_tokens"], 24);
    for (prompt, first) in [("one", 0), ("two", 2)] {
        let seed = 3 + first;
        let alone = worker.complete(json!({"prompt": prompt, "seed": seed, "max_tokens": 6, "ignore_eos": true})).await;
        assert_eq!(choices[first]["text"], alone["choices"][0]["text"], "{prompt}");
    }
}

#[tokio::test]
async fn completions_stream_what_they_answer_whole() {
    let worker = start(json!({})).await;
    let fields = json!({"max_tokens": 25, "seed": 4, "ignore_eos": true, "logprobs": 1, "echo": true});
    let whole = worker.complete(fields.clone()).await;
    let mut request = completion(fields);
    request["stream"] = json!(true);
    let chunks = chunks(&worker, "/v1/completions", request).await;
    assert!(chunks.iter().all(|chunk| chunk["object"] == "text_completion"));
    assert_eq!(streamed(&chunks, 0, "/text"), whole["choices"][0]["text"]);
    let tokens = |pointer: &str, value: &Value| value.pointer(pointer).and_then(Value::as_array).cloned();
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let joined: Vec<Value> =
            chunks.iter().filter_map(|chunk| tokens(&format!("/choices/0/logprobs/{list}"), chunk)).flatten().collect();
        assert_eq!(Some(joined), tokens(&format!("/choices/0/logprobs/{list}"), &whole), "{list}");
    }
}

#[tokio::test]
async fn an_echo_begins_with_the_prompt_and_its_log_probabilities() {
    let worker = start(json!({})).await;
    let prompt = "The forebay holds the water above the turbines.";
    let fields = json!({"prompt": prompt, "echo": true, "logprobs": 2, "max_tokens": 4, "seed": 1, "ignore_eos": true});
    let answer = worker.complete(fields).await;
    let choice = &answer["choices"][0];
    let text = choice["text"].as_str().expect("text");
    assert!(text.starts_with(prompt), "{text}");
    let list = |name: &str| choice["logprobs"][name].as_array().expect("a list").clone();
    let tokens = list("tokens");
    let total = usize::try_from(answer["usage"]["total_tokens"].as_u64().expect("a count")).expect("small");
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(list(name).len(), total, "{name}");
    }
    assert!(list("token_logprobs")[0].is_null() && list("top_logprobs")[0].is_null());
    assert!(list("token_logprobs")[1..].iter().all(Value::is_number));
    let offsets: Vec<u64> = list("text_offset").iter().filter_map(Value::as_u64).collect();
    assert!(offsets.is_sorted() && offsets[0] == 0, "{offsets:?}");
    // ASCII throughout the prompt, so the second token begins where the first one's text ends.
    assert_eq!(offsets[1], tokens[0].as_str().expect("text").len() as u64);

    let alone = worker.complete(json!({"prompt": prompt, "echo": true, "logprobs": 2, "max_tokens": 0})).await;
    assert_eq!(alone["choices"][0]["text"], prompt);
    assert_eq!(alone["usage"]["completion_tokens"], 0);
    let scored = alone["choices"][0]["logprobs"]["token_logprobs"].as_array().expect("a list");
    assert_eq!(scored[..], list("token_logprobs")[..scored.len()], "the prompt's scores do not depend on what follows");
}

#[tokio::test]
async fn a_prompt_may_be_token_ids() {
    let worker = start(json!({})).await;
    let answer = worker.complete(json!({"prompt": [5, 6, 7], "max_tokens": 3, "seed": 1, "ignore_eos": true})).await;
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    let two =
        worker.complete(json!({"prompt": [[5, 6, 7], [8]], "max_tokens": 3, "seed": 1, "ignore_eos": true})).await;
    assert_eq!(two["choices"].as_array().map(Vec::len), Some(2));
    assert_eq!(two["choices"][0]["text"], answer["choices"][0]["text"]);
    let reply = worker.post("/v1/completions", &completion(json!({"prompt": [5, 4_000_000]}))).await;
    assert_eq!((reply.status, reply.json()["error"]["param"].clone()), (400, json!("prompt")), "{}", reply.text());
}

#[tokio::test]
async fn models_are_listed_and_shown() {
    let worker = start(json!({})).await;
    let list = worker.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "demo");
    assert_eq!(list["data"][0]["object"], "model");
    let one = worker.get("/v1/models/demo").await;
    assert_eq!((one.status, one.json()), (200, list["data"][0].clone()));
    assert_eq!(worker.get("/v1/models/nobody").await.status, 404);
}

#[tokio::test]
async fn same_seed_same_text_in_any_company() {
    let worker = start(json!({"max_num_batched_tokens": 24, "max_num_seqs": 6})).await;
    let request = |seed: u64| {
        json!({"seed": seed, "max_tokens": 20, "temperature": 1.3, "ignore_eos": true,
               "messages": [{"role": "user", "content": "word ".repeat(1 + usize::try_from(seed).expect("small") * 7)}]})
    };
    let mut alone = Vec::new();
    for seed in 0..10 {
        alone.push(worker.chat(request(seed)).await["choices"].clone());
    }
    let together = futures_util::future::join_all((0..10).map(|seed| worker.chat(request(seed)))).await;
    for (seed, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert_eq!(alone, &together["choices"], "seed {seed}");
    }
}

#[tokio::test]
async fn a_prompt_as_long_as_the_model_allows_can_be_scored() {
    // Four blocks of 16 positions: the prompt fills the cache to the last one.
    let worker = start(json!({"max_model_len": 64, "kv_cache_memory_bytes": 4 * 64})).await;
    let ids: Vec<u32> = (100..164).collect();
    let answer = worker.complete(json!({"prompt": ids, "echo": true, "logprobs": 1, "max_tokens": 0})).await;
    assert_eq!(answer["choices"][0]["logprobs"]["token_logprobs"].as_array().map(Vec::len), Some(64));
    let ids: Vec<u32> = (100..163).collect();
    let answer = worker.complete(json!({"prompt": ids, "max_tokens": 1, "ignore_eos": true})).await;
    assert_eq!(answer["usage"]["total_tokens"], 64);
}

#[tokio::test]
async fn a_request_of_many_sequences_is_answered_whole() {
    let worker = start(json!({"max_num_seqs": 8, "queue_max": 1024, "request_sequences_max": 1024})).await;
    let prompts: Vec<String> = (0..64).map(|index| format!("prompt {index}")).collect();
    let fields = json!({"prompt": prompts, "n": 16, "max_tokens": 3, "ignore_eos": true, "seed": 1, "echo": true, "logprobs": 0});
    let answer = worker.complete(fields).await;
    assert_eq!(answer["choices"].as_array().map(Vec::len), Some(1024));
    assert_eq!(answer["usage"]["completion_tokens"], 3 * 1024);
}
