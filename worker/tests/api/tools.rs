//! Calls of tools and thoughts: guaranteed ones, streamed and whole; conversations with calls; and what is no tool.

use crate::client::events;
use crate::worker_process::{Running, chat, start};
use serde_json::{Value, json};

fn tools() -> Value {
    let tool = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "description": "d", "parameters": parameters, "strict": true}});
    let properties =
        json!({"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}});
    json!([
        tool(
            "weather",
            json!({"type": "object", "properties": properties, "required": ["city"], "additionalProperties": false})
        ),
        tool("clock", json!({"type": "object", "properties": {}, "additionalProperties": false})),
    ])
}

fn asked(fields: Value) -> Value {
    let mut request = chat(json!({"tools": tools(), "max_tokens": 900, "temperature": 1, "seed": 11}));
    for (key, value) in fields.as_object().expect("an object") {
        request[key.as_str()] = value.clone();
    }
    request
}

async fn answer(worker: &Running, fields: Value) -> Value {
    let reply = worker.post("/v1/chat/completions", &asked(fields)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["choices"][0].clone()
}

/// Names and arguments of the calls of a choice, each checked.
fn calls(choice: &Value) -> Vec<(String, Value)> {
    let calls = choice["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("calls: {choice}"));
    let call = |call: &Value| {
        assert_eq!(call["type"], "function", "{call}");
        assert!(call["id"].as_str().is_some_and(|id| id.len() >= 9), "{call}");
        let name = call["function"]["name"].as_str().expect("a name").to_owned();
        let arguments = call["function"]["arguments"].as_str().expect("text");
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|cause| panic!("{cause}: {call}"));
        match name.as_str() {
            "weather" => assert!(arguments["city"] == "Oslo" || arguments["city"] == "Rome", "{call}"),
            "clock" => assert_eq!(arguments, json!({}), "{call}"),
            _ => panic!("an unlisted tool: {call}"),
        }
        (name, arguments)
    };
    calls.iter().map(call).collect()
}

/// A streamed choice put together, as OpenAI's clients do.
async fn streamed(worker: &Running, fields: Value) -> Value {
    let mut request = asked(fields);
    request["stream"] = json!(true);
    let reply = worker.post("/v1/chat/completions", &request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let (mut content, mut thought, mut calls, mut reason) =
        (String::new(), String::new(), Vec::<Value>::new(), Value::Null);
    for event in events(&reply.body) {
        let Ok(chunk) = serde_json::from_str::<Value>(&event.data) else { continue };
        let choice = &chunk["choices"][0];
        content.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        thought.push_str(choice["delta"]["reasoning_content"].as_str().unwrap_or_default());
        assert_eq!(choice["delta"]["reasoning"], choice["delta"]["reasoning_content"]);
        if !choice["finish_reason"].is_null() {
            reason = choice["finish_reason"].clone();
        }
        for delta in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = delta["index"].as_u64().expect("an index") as usize;
            if delta.get("id").is_some() {
                assert_eq!((index, &delta["type"]), (calls.len(), &json!("function")), "{delta}");
                calls.push(json!({"id": delta["id"], "type": "function", "function": {"name": delta["function"]["name"], "arguments": ""}}));
            } else {
                assert!(delta.get("type").is_none() && delta["function"].get("name").is_none(), "{delta}");
                assert_eq!(index + 1, calls.len(), "{delta}");
            }
            let more = delta["function"]["arguments"].as_str().expect("text");
            let arguments = &mut calls[index]["function"]["arguments"];
            *arguments = json!(format!("{}{more}", arguments.as_str().expect("text")));
        }
    }
    json!({"message": {"content": content, "reasoning": thought, "tool_calls": calls}, "finish_reason": reason})
}

#[tokio::test]
async fn required_calls_are_calls_in_every_format_streamed_and_whole() {
    for format in ["json", "hermes", "llama3_json", "pythonic", "mistral"] {
        let worker = start(json!({"tool_call_parser": format})).await;
        for seed in 0..4 {
            let fields = json!({"tool_choice": "required", "seed": seed});
            let whole = answer(&worker, fields.clone()).await;
            if whole["finish_reason"] == "length" {
                continue;
            }
            assert_eq!(
                (&whole["finish_reason"], &whole["message"]["content"]),
                (&json!("tool_calls"), &Value::Null),
                "{whole}"
            );
            let of_stream = streamed(&worker, fields).await;
            assert_eq!(of_stream["finish_reason"], "tool_calls");
            assert_eq!(calls(&of_stream), calls(&whole), "{format}");
        }
    }
}

#[tokio::test]
async fn a_named_tool_is_called_once_and_allowed_ones_are_all_there_are() {
    let worker = start(json!({})).await;
    for seed in 0..3 {
        let named = json!({"tool_choice": {"type": "function", "function": {"name": "weather"}}, "seed": seed});
        assert_eq!(
            calls(&answer(&worker, named).await).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["weather"]
        );
        let one = json!({"tool_choice": "required", "parallel_tool_calls": false, "seed": seed});
        assert_eq!(calls(&answer(&worker, one).await).len(), 1);
        let allowed = json!([{"type": "function", "function": {"name": "clock"}}]);
        let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": allowed}});
        let choice = answer(&worker, json!({"tool_choice": allowed, "seed": seed, "parallel_tool_calls": false})).await;
        assert_eq!(calls(&choice), [("clock".to_owned(), json!({}))]);
    }
}

#[tokio::test]
async fn a_model_that_calls_nothing_says_what_it_says_without_tools() {
    let worker = start(json!({})).await;
    let said = answer(&worker, json!({"max_tokens": 30, "seed": 5})).await;
    assert!(said["message"].get("tool_calls").is_none() && said["finish_reason"] != "tool_calls", "{said}");
    assert!(!said["message"]["content"].as_str().expect("text").is_empty());
    // Tools that may not be called are not shown to the model.
    let tokens = async |fields: Value| {
        let reply = worker.post("/v1/chat/completions", &asked(fields)).await;
        reply.json()["usage"]["prompt_tokens"].as_u64().expect("a count")
    };
    let (shown, hidden) = (json!({"max_tokens": 1}), json!({"max_tokens": 1, "tool_choice": "none"}));
    assert!(tokens(shown).await > tokens(hidden.clone()).await + 50);
    assert_eq!(tokens(hidden).await, tokens(json!({"max_tokens": 1, "tools": []})).await);
}

#[tokio::test]
async fn calls_and_their_answers_go_back_into_the_conversation() {
    let worker = start(json!({})).await;
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}});
    let messages = json!([
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": null, "tool_calls": [call], "refusal": null, "audio": null, "function_call": null},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "wind"}]},
        {"role": "assistant", "content": "Rain.", "reasoning_content": "so", "tool_calls": []},
        {"role": "user", "content": "Thanks"},
    ]);
    let reply = worker.post("/v1/chat/completions", &asked(json!({"messages": messages, "max_tokens": 2}))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn what_is_no_tool_and_no_answer_of_one_is_a_400_that_names_it() {
    let worker = start(json!({})).await;
    let function = |function: Value| json!([{"type": "function", "function": function}]);
    let many: Vec<Value> = (0..10_000).map(|at| function(json!({"name": format!("t{at}")}))[0].clone()).collect();
    let user = json!({"role": "user", "content": "x"});
    let tool = json!({"role": "tool", "tool_call_id": "other", "content": "x"});
    let calls = json!([{"id": "one", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let strict = |parameters: Value| function(json!({"name": "f", "strict": true, "parameters": parameters}));
    let ring = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}});
    for (fields, param) in [
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"tools": function(json!({"description": "d"}))}), "tools[0].function.name"),
        (json!({"tools": function(json!({"name": "a b"}))}), "tools[0].function.name"),
        (json!({"tools": function(json!({"name": "f", "parameters": 7}))}), "tools[0].function.parameters"),
        (json!({"tools": [tools()[0], tools()[0]]}), "tools[1].function.name"),
        (json!({"tools": many}), "tools"),
        (json!({"tools": function(json!({"name": "f", "description": "x".repeat(5 << 20)}))}), "tools"),
        (json!({"tools": strict(json!({"type": "object", "not": {}})), "tool_choice": "required"}), "tools"),
        (json!({"tools": strict(ring), "tool_choice": "required"}), "tools"),
        (json!({"tools": 7}), "tools"),
        (json!({"tools": [], "tool_choice": "required"}), "tool_choice"),
        (json!({"tool_choice": "sometimes"}), "tool_choice"),
        (json!({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}), "tool_choice"),
        (
            json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}}),
            "tool_choice",
        ),
        (json!({"tool_choice": "required", "min_tokens": 3}), "min_tokens"),
        (json!({"messages": [user, tool]}), "messages[1].tool_call_id"),
        (
            json!({"messages": [user, {"role": "assistant", "content": null, "tool_calls": calls}, tool]}),
            "messages[2].tool_call_id",
        ),
        (json!({"messages": [{"role": "user", "content": "x", "tool_calls": calls}]}), "messages[0].tool_calls"),
        (json!({"messages": [{"role": "function", "content": "x"}]}), "messages[0].role"),
    ] {
        let reply = worker.post("/v1/chat/completions", &asked(fields.clone())).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, &error["param"]), (400, &json!(param)), "{error}");
    }
}

#[tokio::test]
async fn thoughts_are_parted_from_the_answer_and_kept_within_their_budget() {
    let worker = start(json!({"reasoning_parser": "qwen3"})).await;
    let messages = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "<think>"}]);
    let fields = json!({
        "messages": messages, "continue_final_message": true, "tools": null, "guided_regex": "[0-9]{2}",
        "thinking_token_budget": 6,
    });
    let whole = answer(&worker, fields.clone()).await;
    let message = &whole["message"];
    assert_eq!(whole["finish_reason"], "stop", "{whole}");
    let content = message["content"].as_str().expect("text");
    assert!(content.len() == 2 && content.bytes().all(|byte| byte.is_ascii_digit()), "{whole}");
    assert_eq!(message["reasoning"], message["reasoning_content"]);
    let of_stream = streamed(&worker, fields.clone()).await;
    assert_eq!(of_stream["message"]["content"], message["content"]);
    assert_eq!(of_stream["message"]["reasoning"], message.get("reasoning").cloned().unwrap_or(json!("")));
    let mut hidden = fields.clone();
    hidden["include_reasoning"] = json!(false);
    let hidden = answer(&worker, hidden).await;
    assert_eq!((hidden["message"].get("reasoning"), &hidden["message"]["content"]), (None, &message["content"]));
    let mut raw = fields;
    raw["separate_reasoning"] = json!(false);
    let raw = answer(&worker, raw).await;
    assert!(raw["message"]["content"].as_str().is_some_and(|text| text.contains("</think>")), "{raw}");
}

#[tokio::test]
async fn a_worker_refuses_formats_that_nobody_knows() {
    use worker::config::WorkerConfig;
    for (field, good, bad) in [("tool_call_parser", "qwen3", "smoke"), ("reasoning_parser", "none", "smoke")] {
        let config =
            |value: &str| serde_json::from_value::<WorkerConfig>(json!({field: value})).expect("a configuration");
        assert_eq!(config(good).problem(), None);
        assert!(config(bad).problem().is_some_and(|problem| problem.contains(field)));
    }
}
