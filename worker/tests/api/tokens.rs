//! Text to tokens and back, and the small answers beside the endpoints that generate.

use crate::worker_process::{chat, start};
use serde_json::{Value, json};

#[tokio::test]
async fn a_prompt_and_a_conversation_are_the_tokens_that_a_request_has() {
    let worker = start(json!({})).await;
    let reply = worker.post("/tokenize", &json!({"prompt": "The forebay holds", "return_token_strs": true})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let found = reply.json();
    let tokens = found["tokens"].as_array().expect("tokens");
    assert_eq!(found["count"], tokens.len());
    let texts: String = found["token_strs"].as_array().expect("texts").iter().filter_map(Value::as_str).collect();
    assert_eq!(texts, "The forebay holds");
    let back = worker.post("/detokenize", &json!({"model": "demo", "tokens": tokens})).await.json();
    assert_eq!(back, json!({"prompt": "The forebay holds"}));
    let asked = chat(json!({"max_tokens": 1, "return_token_ids": true}));
    let answer = worker.post("/v1/chat/completions", &asked).await.json();
    let counted = worker.post("/tokenize", &chat(json!({}))).await.json();
    assert_eq!((&counted["tokens"], &counted["token_strs"]), (&answer["prompt_token_ids"], &Value::Null));
    assert_eq!(answer["choices"][0]["token_ids"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_request_is_rendered_as_it_would_be_answered() {
    let worker = start(json!({})).await;
    let asked = chat(json!({"max_tokens": 3, "return_token_ids": true, "seed": 7, "stop": ["x"]}));
    let answer = worker.post("/v1/chat/completions", &asked).await.json();
    let rendered = worker.post("/v1/chat/completions/render", &asked).await.json();
    assert_eq!(rendered["token_ids"], answer["prompt_token_ids"]);
    let sampling = &rendered["sampling_params"];
    assert_eq!(
        (&sampling["max_tokens"], &sampling["seed"], &sampling["stop"]),
        (&json!(3), &json!(7), &json!(["x"])),
        "{rendered}"
    );
    let prompts = json!({"prompt": [[4, 5], [1, 2, 3]]});
    let rendered = worker.post("/v1/completions/render", &prompts).await.json();
    assert_eq!(
        (&rendered[1]["token_ids"], &rendered[0]["sampling_params"]["max_tokens"]),
        (&json!([1, 2, 3]), &json!(16)),
        "{rendered}"
    );
    for body in [json!({"prompt": ""}), json!({"prompt": "a", "temperature": 9}), json!({"prompt": "a", "suffix": "b"})]
    {
        assert_eq!(worker.post("/v1/completions/render", &body).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn log_probabilities_of_a_prompt_are_those_of_its_echo() {
    let worker = start(json!({})).await;
    let fields = json!({"prompt": "The forebay holds", "max_tokens": 2, "temperature": 0, "logprobs": 2, "echo": true, "prompt_logprobs": 3, "n": 2});
    let choices = worker.complete(fields).await["choices"].clone();
    let ids = worker.post("/tokenize", &json!({"prompt": "The forebay holds"})).await.json()["tokens"].clone();
    let ids = ids.as_array().expect("ids");
    for choice in choices.as_array().expect("choices") {
        let (own, echoed) = (&choice["prompt_logprobs"], &choice["logprobs"]["token_logprobs"]);
        assert_eq!((own.as_array().map(Vec::len), &own[0]), (Some(ids.len()), &Value::Null), "{choice}");
        for (at, id) in ids.iter().enumerate().skip(1) {
            let entry = own[at].as_object().expect("an entry");
            let said = &entry[&id.to_string()];
            assert_eq!(said["logprob"], echoed[at]);
            assert!(entry.len() == 3 || (entry.len() == 4 && said["rank"].is_null()), "{entry:?}");
            assert!(entry.values().any(|one| one["rank"] == 1) && said["decoded_token"].is_string(), "{entry:?}");
            assert!(choice["logprobs"]["top_logprobs"][at].as_object().expect("two").len() <= 3);
        }
    }
    let answer = worker.chat(json!({"max_tokens": 1, "prompt_logprobs": 0, "return_token_ids": true})).await;
    let (own, ids) = (&answer["prompt_logprobs"], &answer["prompt_token_ids"]);
    assert_eq!(own.as_array().map(Vec::len), ids.as_array().map(Vec::len));
    assert!(own[1][ids[1].to_string()]["logprob"].as_f64().is_some_and(|logprob| logprob <= 0.0), "{own}");
    let streamed = json!({"prompt": "a", "prompt_logprobs": 1, "stream": true});
    assert_eq!(worker.post("/v1/completions", &streamed).await.json()["error"]["param"], "prompt_logprobs");
}

#[tokio::test]
async fn what_is_no_text_and_no_token_is_a_400() {
    let worker = start(json!({})).await;
    for (path, body) in [
        ("/tokenize", json!({})),
        ("/tokenize", json!({"prompt": ["a", "b"]})),
        ("/tokenize", json!({"messages": []})),
        ("/detokenize", json!({"tokens": [99_999_999]})),
        ("/detokenize", json!({"tokens": "a"})),
        ("/detokenize", json!([])),
    ] {
        let reply = worker.post(path, &body).await;
        assert_eq!(reply.status, 400, "{path} {body}: {}", reply.text());
    }
    assert_eq!(worker.post("/tokenize", &json!({"model": "nobody", "prompt": "a"})).await.status, 404);
}

#[tokio::test]
async fn the_small_answers_are_there() {
    let worker = start(json!({})).await;
    assert_eq!(worker.get("/ping").await.status, 200);
    assert_eq!(worker.get("/load").await.json(), json!({"server_load": 0}));
    let described = worker.get("/openapi.json").await.json();
    assert!(described["paths"]["/v1/chat/completions"]["post"].is_object(), "{described}");
}

#[tokio::test]
async fn lists_of_tokens_and_words_are_kept_to() {
    let worker = start(json!({})).await;
    let ids = worker.post("/tokenize", &json!({"prompt": "ab"})).await.json()["tokens"].clone();
    let fields = json!({"max_tokens": 20, "temperature": 1, "return_token_ids": true});
    let with = |name: &str, value: &Value| {
        let mut fields = fields.clone();
        fields[name] = value.clone();
        fields
    };
    let said = worker.complete(with("allowed_token_ids", &ids)).await["choices"][0]["token_ids"].clone();
    let said = said.as_array().expect("ids");
    assert!(said.len() == 20 && said.iter().all(|id| ids.as_array().expect("ids").contains(id)), "{said:?}");
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    let said = worker.complete(with("bad_words", &json!(letters))).await;
    let banned = worker.post("/tokenize", &json!({"prompt": "e"})).await.json()["tokens"][0].clone();
    assert!(!said["choices"][0]["token_ids"].as_array().expect("ids").contains(&banned), "{said}");
    let bad = worker.post("/v1/completions", &json!({"prompt": "a", "allowed_token_ids": [99_999_999]})).await.json();
    assert_eq!(bad["error"]["param"], "allowed_token_ids");
    let prompt =
        worker.complete(json!({"prompt": "a b c d e f g h", "truncate_prompt_tokens": 2, "max_tokens": 1})).await;
    assert_eq!(prompt["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn a_text_that_cannot_fit_is_refused_before_it_is_cut_into_tokens() {
    let worker = start(json!({"max_model_len": 64})).await;
    let text = "a b ".repeat(1 << 20);
    for (path, body, param) in [
        ("/v1/completions", json!({"prompt": text, "max_tokens": 1}), "prompt"),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": text}]}), "messages"),
    ] {
        let reply = worker.post(path, &body).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, &error["code"]), (400, &json!("context_length_exceeded")), "{error}");
        assert_eq!(error["param"], param, "{error}");
        // Its tokens would have been counted, seconds later.
        assert!(error["message"].as_str().is_some_and(|text| text.contains(" bytes, which are more")), "{error}");
    }
    let counted = worker.post("/tokenize", &json!({"prompt": "a b ".repeat(1_000)})).await.json();
    assert!(counted["count"].as_u64().is_some_and(|count| count > 64), "a document may be counted: {counted}");
}
