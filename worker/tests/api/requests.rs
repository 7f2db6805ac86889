//! Requests at the edge of what is one: habits of other servers' clients, bounds, and answers' log probabilities.

use crate::client::events;
use crate::worker_process::{Running, chat, completion, start};
use serde_json::{Value, json};

#[tokio::test]
async fn habits_of_other_servers_clients_are_taken() {
    let worker = start(json!({})).await;
    let mut unnamed = chat(json!({"max_tokens": 2}));
    unnamed.as_object_mut().expect("an object").remove("model");
    assert_eq!(worker.post("/v1/chat/completions", &unnamed).await.json()["model"], "demo");
    for fields in [
        json!({"max_tokens": 2.0, "n": 1e0}),
        json!({"max_tokens": 2, "seed": -1}),
        json!({"max_tokens": 2, "min_tokens": 1, "stop_token_ids": [4_294_967_295_u32, 128_009]}),
        json!({"max_tokens": 2, "metadata": {"a": "b"}, "store": true, "parallel_tool_calls": true}),
    ] {
        let reply = worker.post("/v1/chat/completions", &chat(fields.clone())).await;
        assert_eq!(reply.status, 200, "{fields}: {}", reply.text());
        assert_eq!(reply.header("x-forebay-ignored"), None, "{fields}");
    }
    let body = format!("\u{feff}{}", chat(json!({"max_tokens": 2})));
    assert_eq!(worker.open("POST", "/v1/chat/completions", body.as_bytes()).await.finish().await.status, 200);
    assert!(worker.get("/version").await.json()["version"].is_string());
    assert_eq!(worker.get("/v1/models/org/name").await.json()["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn a_model_answers_to_all_its_names() {
    let worker = start(json!({"served_model_name": ["org/name", "gpt-4"]})).await;
    for name in ["demo", "org/name", "gpt-4"] {
        assert_eq!(worker.chat(json!({"model": name, "max_tokens": 1})).await["model"], name);
        assert_eq!(worker.get(&format!("/v1/models/{name}")).await.json()["id"], name);
    }
    let list = worker.get("/v1/models").await.json();
    let names: Vec<_> = list["data"].as_array().expect("a list").iter().map(|model| model["id"].clone()).collect();
    assert_eq!(names, ["demo", "org/name", "gpt-4"]);
    let status = worker.get("/status").await.json();
    assert_eq!(status["models"][0]["aliases"], json!(["org/name", "gpt-4"]));
    assert_eq!(worker.post("/v1/chat/completions", &chat(json!({"model": "name"}))).await.status, 404);
}

#[tokio::test]
async fn without_a_seed_or_with_minus_one_answers_differ() {
    let worker = start(json!({})).await;
    let fields = json!({"seed": -1, "max_tokens": 30, "temperature": 2, "ignore_eos": true});
    let (one, two) = (worker.chat(fields.clone()).await, worker.chat(fields).await);
    assert_ne!(one["choices"], two["choices"]);
}

/// With `max_tokens: 0` any prompt fitted, and was never answered.
#[tokio::test]
async fn a_prompt_beyond_the_model_is_refused_however_little_is_to_follow() {
    let worker = start(json!({"max_model_len": 64})).await;
    let ids: Vec<u32> = vec![100; 65];
    for (path, request) in [
        ("/v1/completions", completion(json!({"prompt": ids, "max_tokens": 0}))),
        ("/v1/completions", completion(json!({"prompt": ids, "max_tokens": 0, "echo": true, "logprobs": 1}))),
        ("/v1/completions", completion(json!({"prompt": [[1], ids], "max_tokens": 0}))),
        ("/v1/completions", completion(json!({"prompt": ids, "max_tokens": 1}))),
        (
            "/v1/chat/completions",
            chat(json!({"messages": [{"role": "user", "content": "word ".repeat(99)}], "max_tokens": 0})),
        ),
    ] {
        let error = worker.post(path, &request).await.json()["error"].clone();
        assert_eq!(error["code"], "context_length_exceeded", "{error}");
        assert!(error["message"].as_str().expect("text").contains("maximum context length is 64 tokens"), "{error}");
    }
    let fits = worker.complete(json!({"prompt": &ids[1..], "max_tokens": 0})).await;
    assert_eq!(fits["usage"]["prompt_tokens"], 64);
}

#[tokio::test]
async fn odd_and_long_names_are_ignored_in_a_bounded_header() {
    let worker = start(json!({})).await;
    let mut request = chat(json!({"max_tokens": 1, "a\nb": 1, "c": 2, "ü,\u{0}": 3}));
    request["n".repeat(600_000)] = json!(4);
    request["messages"][0]["name"] = json!("me");
    let reply = worker.post("/v1/chat/completions", &request).await;
    assert_eq!(reply.status, 200);
    let ignored = reply.header("x-forebay-ignored").expect("named");
    for name in ["a%0Ab", "c", "%C3%BC%2C%00", "messages[0].name"] {
        assert!(ignored.split(", ").any(|other| other == name), "{name} in {ignored}");
    }
    let many: Vec<(String, Value)> =
        (0..1000).map(|index| (format!("{index}\n{}", "x".repeat(90)), json!(0))).collect();
    request.as_object_mut().expect("an object").extend(many);
    let head: usize =
        worker.post("/v1/chat/completions", &request).await.headers.iter().map(|(_, value)| value.len()).sum();
    assert!(head < 4096, "{head} bytes of headers");
}

#[tokio::test]
async fn sequences_of_one_request_are_bounded_before_anything_is_built() {
    let worker = start(json!({"request_sequences_max": 8})).await;
    let fields = json!({"prompt": ["a", "b", "c"], "max_tokens": 1});
    assert_eq!(worker.complete(fields.clone()).await["choices"].as_array().map(Vec::len), Some(3));
    let mut request = completion(fields);
    request["n"] = json!(3);
    let reply = worker.post("/v1/completions", &request).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("n")), "{}", reply.text());
}

#[tokio::test]
async fn log_probabilities_that_would_not_fit_an_answer_are_refused_or_streamed() {
    let worker = start(json!({"answer_bytes_max": 20_000})).await;
    let fields =
        json!({"logprobs": 20, "max_tokens": 50, "ignore_eos": true, "echo": true, "prompt": "word ".repeat(40)});
    let reply = worker.post("/v1/completions", &completion(fields.clone())).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("logprobs")), "{}", reply.text());
    let mut request = completion(fields);
    request["stream"] = json!(true);
    let reply = worker.post("/v1/completions", &request).await;
    let reported = |data: &str| {
        let chunk: Value = serde_json::from_str(data).expect("JSON");
        chunk.pointer("/choices/0/logprobs/tokens").and_then(Value::as_array).map_or(0, Vec::len)
    };
    let counts: Vec<usize> =
        events(&reply.body).iter().filter(|event| event.data != "[DONE]").map(|event| reported(&event.data)).collect();
    assert!(counts.iter().all(|count| *count <= 32), "an event holds {counts:?} reports");
    assert!(counts.iter().sum::<usize>() > 80, "{counts:?}");
}

#[tokio::test]
async fn a_stream_that_waits_sends_comments() {
    let worker = start(json!({"comment_interval_ms": 20, "scripted_step_ms": 300})).await;
    let reply = worker.post("/v1/chat/completions", &chat(json!({"stream": true, "max_tokens": 2}))).await;
    let text = reply.text();
    assert!(text.starts_with(":\n\n"), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(events(&reply.body).len() >= 3, "{text}");
}

/// The texts and offsets of a completion's tokens, and its text.
async fn tokens(worker: &Running, fields: Value) -> (Vec<String>, Vec<usize>, String) {
    let answer = worker.complete(fields).await;
    let choice = &answer["choices"][0];
    let texts = choice["logprobs"]["tokens"].as_array().expect("a list");
    let texts = texts.iter().map(|text| text.as_str().expect("text").to_owned()).collect();
    let offsets = choice["logprobs"]["text_offset"].as_array().expect("a list");
    let offsets = offsets.iter().map(|at| usize::try_from(at.as_u64().expect("a number")).expect("small")).collect();
    (texts, offsets, choice["text"].as_str().expect("text").to_owned())
}

#[tokio::test]
async fn offsets_index_the_text_that_is_returned() {
    let worker = start(json!({})).await;
    // Special tokens written out are tokens of the prompt, and token ids may be any.
    let special: Vec<u32> = (0..8).chain([100, 200, 300]).collect();
    for prompt in [json!("The forebay <|im_end|> holds"), json!("é€ water"), json!(special)] {
        let fields =
            json!({"prompt": prompt, "echo": true, "logprobs": 1, "max_tokens": 12, "seed": 3, "ignore_eos": true});
        let (texts, offsets, text) = tokens(&worker, fields).await;
        let characters: Vec<char> = text.chars().collect();
        assert!(offsets.is_sorted() && offsets.iter().all(|at| *at <= characters.len()), "{offsets:?}");
        for (token, at) in texts.iter().zip(&offsets).filter(|(token, _)| !token.starts_with("bytes:")) {
            let there: String = characters[*at..].iter().take(token.chars().count()).collect();
            let is_special = token.starts_with("<|") || token.starts_with("</") || token.starts_with('<');
            assert!(is_special || there == *token, "{token:?} at {at} of {text:?} where {there:?} is");
        }
    }
}

#[tokio::test]
async fn nothing_of_a_stop_string_is_reported() {
    let worker = start(json!({})).await;
    let fields = json!({"max_tokens": 30, "seed": 11, "ignore_eos": true, "logprobs": 1});
    let (_, _, text) = tokens(&worker, fields.clone()).await;
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).skip(1).step_by(3).collect();
    let mut tried = 0;
    for &at in &places {
        let Some(stop) = text.get(at..).map(|tail| tail.chars().take(3).collect::<String>()) else { continue };
        let mut request = fields.clone();
        request["stop"] = json!([stop]);
        let (texts, _, cut) = tokens(&worker, request).await;
        assert_eq!(cut, text[..text.find(&stop).expect("it is there")], "{stop:?}");
        if texts.iter().all(|token| !token.starts_with("bytes:")) {
            assert_eq!(texts.concat(), cut, "{stop:?}");
            tried += 1;
        }
    }
    assert!(tried > 3, "{tried} stop strings of {text:?}");
}

#[tokio::test]
async fn the_sampled_token_is_always_among_the_likeliest() {
    let worker = start(json!({})).await;
    for count in [0, 1, 5] {
        let fields = json!({"max_tokens": 20, "seed": 2, "temperature": 2, "ignore_eos": true, "logprobs": count});
        let answer = worker.complete(fields).await;
        let logprobs = &answer["choices"][0]["logprobs"];
        let list = |name: &str| logprobs[name].as_array().expect("a list").clone();
        for ((token, own), top) in list("tokens").iter().zip(list("token_logprobs")).zip(list("top_logprobs")) {
            assert_eq!(top[token.as_str().expect("text")], own, "{token} in {top}");
            assert!((count.max(1)..=count + 1).contains(&top.as_object().expect("a map").len()), "{top}");
        }
    }
}
