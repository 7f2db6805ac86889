//! Forms of answers: every spelling, over both endpoints, streamed and whole; and those that cannot be had.

use crate::client::events;
use crate::worker_process::{chat, completion, start};
use serde_json::{Value, json};

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": false,
    })
}

fn check_person(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|cause| panic!("{cause}: {text}"));
    assert!(value["name"].as_str().is_some_and(|name| name.chars().count() <= 8), "{text}");
    assert!(value["age"].as_u64().is_some_and(|age| age <= 99), "{text}");
    assert_eq!(value.as_object().map(|members| members.len()), Some(2), "{text}");
}

#[tokio::test]
async fn every_spelling_of_a_schema_gives_valid_answers() {
    let worker = start(json!({})).await;
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "strict": true, "schema": schema()}});
    for fields in [
        json!({"response_format": format}),
        json!({"response_format": {"type": "json_object", "schema": schema()}}),
        json!({"structured_outputs": {"json": schema()}}),
        json!({"structured_outputs": {"json": schema().to_string(), "disable_any_whitespace": true}}),
        json!({"guided_json": schema(), "guided_decoding_backend": "xgrammar"}),
        json!({"guided_json": schema().to_string()}),
        json!({"json_schema": schema()}),
        json!({"json_schema": schema().to_string()}),
    ] {
        let mut asked = fields.clone();
        (asked["n"], asked["seed"], asked["max_tokens"], asked["temperature"]) =
            (json!(3), json!(7), json!(400), json!(1));
        let answer = worker.chat(asked.clone()).await;
        for choice in answer["choices"].as_array().expect("choices") {
            assert_eq!(choice["finish_reason"], "stop", "{fields}: {choice}");
            check_person(choice["message"]["content"].as_str().expect("text"));
        }
        let completed = worker.complete(asked).await;
        for choice in completed["choices"].as_array().expect("choices") {
            assert_eq!(choice["finish_reason"], "stop", "{fields}: {choice}");
            check_person(choice["text"].as_str().expect("text"));
        }
    }
    assert!(worker.metric("forebay_worker_grammar_vocabulary_bytes") > 0.0);
    // Two forms, spaced and compact; every other request found one of them.
    let text = worker.registry.render();
    let compiled = text.lines().find(|line| line.contains("grammars_total") && line.contains("\"compiled\""));
    assert!(compiled.is_some_and(|line| line.ends_with(" 2")), "{compiled:?}");
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let worker = start(json!({})).await;
    let fields = json!({"guided_json": schema(), "seed": 3, "temperature": 1, "max_tokens": 400});
    let whole = worker.chat(fields.clone()).await;
    let mut streamed = fields;
    streamed["stream"] = json!(true);
    let reply = worker.post("/v1/chat/completions", &chat(streamed)).await;
    let text: String = events(&reply.body)
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(&event.data).ok())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    check_person(&text);
}

#[tokio::test]
async fn expressions_choices_and_grammars_are_kept_to() {
    let worker = start(json!({})).await;
    let said = async |fields: Value| {
        let mut asked = fields;
        asked["max_tokens"] = json!(100);
        let answer = worker.complete(asked).await;
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        answer["choices"][0]["text"].as_str().expect("text").to_owned()
    };
    for spelling in ["guided_regex", "regex"] {
        let text = said(json!({spelling: "[a-c]{3}[0-9]"})).await;
        assert!(text.len() == 4 && text.as_bytes()[3].is_ascii_digit(), "{text}");
    }
    let text = said(json!({"structured_outputs": {"regex": "x+y"}})).await;
    assert!(text.starts_with('x') && text.ends_with('y'), "{text}");
    for fields in [json!({"guided_choice": ["up", "down"]}), json!({"structured_outputs": {"choice": ["up", "down"]}})]
    {
        let text = said(fields).await;
        assert!(text == "up" || text == "down", "{text}");
    }
    for spelling in ["guided_grammar", "ebnf", "grammar"] {
        assert_eq!(said(json!({spelling: "start: \"a\" (\"b\" | \"b\")"})).await, "ab");
    }
    let gbnf = "root ::= \"a\" (\"b\" | \"b\")";
    for fields in
        [json!({"guided_grammar": gbnf}), json!({"structured_outputs": {"grammar": gbnf}}), json!({"ebnf": gbnf})]
    {
        assert_eq!(said(fields).await, "ab");
    }
    let tag = json!({"begin": "<n>", "schema": {"type": "integer", "minimum": 1, "maximum": 9}, "end": "</n>"});
    let first = json!({"type": "tag", "begin": "<n>", "content": {"type": "json_schema", "json_schema": tag["schema"]}, "end": "</n>"});
    let whole = json!({"type": "structural_tag", "format": first});
    for fields in [
        json!({"response_format": whole}),
        json!({"structural_tag": whole}),
        json!({"structured_outputs": {"structural_tag": whole.to_string()}}),
    ] {
        let text = said(fields).await;
        let inner = text.strip_prefix("<n>").and_then(|rest| rest.strip_suffix("</n>"));
        assert!(inner.is_some_and(|number| number.parse::<f64>().is_ok()), "{text}");
    }
    let within = json!({"structural_tag": {"structures": [tag], "triggers": ["<n"]}, "max_tokens": 12});
    assert_eq!(worker.post("/v1/completions", &completion(within)).await.status, 200);
    let object = worker.chat(json!({"response_format": {"type": "json_object"}, "max_tokens": 400, "seed": 5})).await;
    let (text, reason) = (&object["choices"][0]["message"]["content"], &object["choices"][0]["finish_reason"]);
    assert!(reason == "length" || serde_json::from_str::<Value>(text.as_str().expect("text")).is_ok(), "{object}");
    assert!(text.as_str().expect("text").starts_with('{'));
}

#[tokio::test]
async fn a_form_that_cannot_be_had_is_a_400_that_names_the_field_and_says_why() {
    let worker = start(json!({})).await;
    let big = "x".repeat(300_000);
    for (fields, param, word) in [
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema.schema", "required"),
        (json!({"response_format": {"type": "yaml"}}), "response_format.type", "yaml"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "elephant"}}}}),
            "response_format.json_schema.schema",
            "elephant",
        ),
        (json!({"guided_json": 7}), "guided_json", "schema"),
        (json!({"guided_json": "{"}), "guided_json", "JSON"),
        (json!({"guided_json": {"const": big}}), "guided_json", "bytes"),
        (json!({"guided_regex": "("}), "guided_regex", "guaranteed"),
        (json!({"guided_choice": [""]}), "guided_choice", "texts"),
        (json!({"guided_grammar": "nothing"}), "guided_grammar", "guaranteed"),
        (json!({"guided_regex": "a", "guided_choice": ["b"]}), "guided_choice", "guided_regex"),
        (json!({"structured_outputs": {"regex": "a", "choice": ["b"]}}), "structured_outputs.choice", "both"),
        (json!({"structured_outputs": {"structural_tag": "{}"}}), "structured_outputs.structural_tag", "either"),
        (json!({"structural_tag": {"format": {"type": "smoke"}}}), "structural_tag", "smoke"),
        (json!({"guided_grammar": "root ::= other"}), "guided_grammar", "`other`"),
        (json!({"guided_regex": "a", "min_tokens": 4}), "min_tokens", "contradict"),
        (json!({"guided_regex": "a", "ignore_eos": true}), "ignore_eos", "contradict"),
    ] {
        for (path, request) in
            [("/v1/chat/completions", chat(fields.clone())), ("/v1/completions", completion(fields.clone()))]
        {
            let reply = worker.post(path, &request).await;
            let error = reply.json()["error"].clone();
            assert_eq!((reply.status, &error["param"]), (400, &json!(param)), "{error}");
            assert!(error["message"].as_str().expect("text").contains(word), "{error}");
        }
    }
}

/// However few tokens there are, as long as they suffice.
#[tokio::test]
async fn an_answer_of_a_form_ends_within_its_tokens() {
    let worker = start(json!({})).await;
    let item = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a", "b"], "additionalProperties": false});
    let open = json!({"type": "array", "items": item, "minItems": 1});
    for (max_tokens, seed) in [(40, 1), (60, 2), (90, 3), (150, 4)] {
        let fields = json!({"guided_json": open, "max_tokens": max_tokens, "temperature": 1.5, "seed": seed, "n": 4});
        let answer = worker.chat(fields).await;
        for choice in answer["choices"].as_array().expect("choices") {
            let text = choice["message"]["content"].as_str().expect("text");
            assert_eq!(choice["finish_reason"], "stop", "{choice}");
            assert!(serde_json::from_str::<Value>(text).is_ok_and(|value| value[0]["b"].is_string()), "{text}");
        }
    }
    assert!(worker.metric("forebay_worker_forms_hurried_total") > 0.0);
    // Where nothing would fit, the answer is cut, as any other.
    let long = json!({"guided_json": {"type": "string", "minLength": 300}, "max_tokens": 8});
    assert_eq!(worker.chat(long).await["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn fields_that_leave_no_token_are_the_requests_fault() {
    let worker = start(json!({})).await;
    let fields = json!({"guided_choice": ["up"], "allowed_token_ids": [0]});
    let banned = json!({"guided_regex": "u", "bad_words": ["u"]});
    for (path, request, param) in [
        ("/v1/chat/completions", chat(fields.clone()), "allowed_token_ids"),
        ("/v1/completions", completion(fields.clone()), "allowed_token_ids"),
        ("/v1/completions", completion(banned), "bad_words"),
    ] {
        let reply = worker.post(path, &request).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, &error["type"]), (400, &json!("invalid_request_error")), "{error}");
        assert_eq!(error["param"], param, "{error}");
        assert!(error["message"].as_str().expect("text").contains("no token is left"), "{error}");
    }
    let mut streamed = fields;
    streamed["stream"] = json!(true);
    let reply = worker.post("/v1/chat/completions", &chat(streamed)).await;
    let body = String::from_utf8_lossy(&reply.body);
    assert!(body.contains("invalid_request_error") && !body.contains("server_error"), "{body}");
}

/// A schema that refers to itself, an expression with more states than a lexer may have, a grammar of which any text has
/// many readings: each is answered or refused within seconds, and the worker goes on.
#[tokio::test]
async fn forms_that_could_cost_without_bound_are_answered_or_refused() {
    let worker = start(json!({})).await;
    let tree = json!({"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}, "additionalProperties": false});
    let wide: Vec<Value> = (0..9_000).map(|at| json!({"const": at})).collect();
    let begun = std::time::Instant::now();
    for (fields, may_stop) in [
        (json!({"guided_json": tree}), true),
        (json!({"guided_json": {"anyOf": wide}}), false),
        (json!({"guided_json": {"const": "x".repeat(5 << 20)}}), false),
        (json!({"guided_regex": "((a{0,200}){0,200}){0,200}b"}), true),
        (json!({"guided_regex": "(.*a){40}(.*b){40}(.*c){40}"}), true),
        (json!({"guided_regex": "(a|aa)+(a|aaa)+(.{0,900}x){0,900}"}), true),
        (json!({"guided_grammar": "root ::= root root | \"a\" | \"\""}), true),
        (json!({"guided_grammar": "start: start start | \"a\""}), true),
        (json!({"guided_grammar": format!("root ::= {}", "(\"a\" | \"b\") ".repeat(20_000))}), false),
    ] {
        let mut asked = fields.clone();
        (asked["max_tokens"], asked["temperature"]) = (json!(40), json!(1));
        let reply = worker.post("/v1/completions", &completion(asked)).await;
        let shown: String = fields.to_string().chars().take(120).collect();
        match reply.status {
            200 => assert!(may_stop || reply.json()["choices"][0]["finish_reason"] == "length", "{shown}"),
            status => {
                let error = reply.json()["error"].clone();
                assert_eq!((status, &error["type"]), (400, &json!("invalid_request_error")), "{shown}: {error}");
                assert!(error["message"].as_str().is_some_and(|why| why.len() < 1_024), "{shown}: {error}");
            }
        }
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
    worker.chat(json!({"guided_choice": ["up"], "max_tokens": 9})).await;
}

#[tokio::test]
async fn values_that_ask_for_nothing_are_taken() {
    let worker = start(json!({})).await;
    for fields in [
        json!({"response_format": {"type": "text"}, "structured_outputs": {}, "guided_json": null, "guided_regex": ""}),
        json!({"guided_choice": [], "guided_grammar": "", "json_schema": {}, "grammar": "", "ebnf": "", "regex": ""}),
    ] {
        let mut asked = fields;
        asked["max_tokens"] = json!(2);
        worker.chat(asked).await;
    }
    assert_eq!(worker.metric("forebay_worker_grammars_kept"), 0.0);
}
