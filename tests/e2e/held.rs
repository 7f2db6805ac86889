//! Classes that once were tried by hand and held: every combination of options, many clients of whom some leave, and
//! a process with nothing to its name.

use crate::client::{get, post, stream};
use crate::process::{Server, eventually, forebay};
use serde_json::{Value, json};
use std::process::Stdio;

/// Every way to choose one value for each option, as one object of options.
fn combinations(options: &[(&str, &[Value])]) -> Vec<Value> {
    options.iter().fold(vec![json!({})], |so_far, (name, values)| {
        let with = |one: &Value, value: &Value| {
            let mut one = one.clone();
            if !value.is_null() {
                one[name] = value.clone();
            }
            one
        };
        so_far.iter().flat_map(|one| values.iter().map(move |value| with(one, value))).collect()
    })
}

/// The `data:` payloads of a streamed answer.
fn events(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
}

/// The text of each choice, whole or joined from chunks, by index, and its finish reason.
fn choices(answers: &[Value]) -> Vec<(String, Option<String>)> {
    let mut choices: Vec<(String, Option<String>)> = Vec::new();
    for choice in answers.iter().flat_map(|answer| answer["choices"].as_array().expect("choices")) {
        let index = choice["index"].as_u64().expect("an index") as usize;
        choices.resize(choices.len().max(index + 1), (String::new(), None));
        let texts = [&choice["message"]["content"], &choice["delta"]["content"], &choice["text"]];
        choices[index].0.extend(texts.into_iter().filter_map(Value::as_str));
        if let Some(reason) = choice["finish_reason"].as_str() {
            assert_eq!(choices[index].1.replace(reason.to_owned()), None, "one finish reason: {answers:?}");
        }
    }
    choices
}

/// Asks with these options, whole and streamed, and holds the answers against the options and against each other.
fn check(url: &str, options: &Value, expected: usize) {
    let whole = post(url, &options.to_string());
    assert_eq!(whole.status, 200, "{options}: {}", whole.text);
    let whole = whole.json();
    let found = choices(std::slice::from_ref(&whole));
    assert_eq!(found.len(), expected, "{options}: {whole}");
    let ends = ["stop", "length"];
    assert!(found.iter().all(|(_, end)| end.as_deref().is_some_and(|end| ends.contains(&end))), "{options}: {whole}");
    let usage = &whole["usage"];
    let [prompt, completion, total] =
        ["prompt_tokens", "completion_tokens", "total_tokens"].map(|name| usage[name].as_u64().expect(name));
    assert_eq!(prompt + completion, total, "{options}");
    assert!(completion <= options["max_tokens"].as_u64().expect("a bound") * expected as u64, "{options}: {usage}");
    for choice in whole["choices"].as_array().expect("choices") {
        let is_asked = !matches!(&options["logprobs"], Value::Null | Value::Bool(false));
        assert_eq!(choice["logprobs"].is_object(), is_asked, "{options}: {choice}");
    }

    let mut streamed = options.clone();
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({"include_usage": true});
    let answer = post(url, &streamed.to_string());
    let payloads = events(&answer.text);
    assert_eq!(payloads.last(), Some(&"[DONE]"), "{options}: {}", answer.text);
    let chunks: Vec<Value> =
        payloads.iter().take(payloads.len() - 1).map(|text| serde_json::from_str(text).expect("JSON")).collect();
    assert_eq!(choices(&chunks), found, "whole and streamed say the same: {options}");
    assert_eq!(chunks.last().expect("a chunk")["usage"]["completion_tokens"], completion, "{options}");
}

#[test]
fn every_combination_of_options_is_answered_alike_whole_and_streamed() {
    let server = Server::start(&["serve"]);
    let shared: [(&str, &[Value]); 6] = [
        ("max_tokens", &[json!(1), json!(6)]),
        ("n", &[Value::Null, json!(2)]),
        ("stop", &[Value::Null, json!("e"), json!([" a", "zzz"])]),
        ("temperature", &[json!(0), json!(1)]),
        ("seed", &[json!(7)]),
        ("frequency_penalty", &[Value::Null, json!(0.5)]),
    ];
    let chat = combinations(&shared);
    assert_eq!(chat.len(), 48);
    for mut options in chat {
        options["messages"] = json!([{"role": "user", "content": "What is Forebay?"}]);
        let choices = options["n"].as_u64().unwrap_or(1) as usize;
        check(&format!("{}/v1/chat/completions", server.url), &options, choices);
        options["logprobs"] = true.into();
        options["top_logprobs"] = 2.into();
        check(&format!("{}/v1/chat/completions", server.url), &options, choices);
    }
    let prompts = [json!("The router"), json!(["The router", "A worker"]), json!([5, 6, 7])];
    let more: [(&str, &[Value]); 3] =
        [("prompt", &prompts), ("logprobs", &[Value::Null, json!(0), json!(2)]), ("echo", &[Value::Null, json!(true)])];
    let completions = combinations(&[&more[..], &shared[..3]].concat());
    assert_eq!(completions.len(), 216);
    for mut options in completions {
        options["temperature"] = 0.into();
        let prompts = if options["prompt"][0].is_string() { 2 } else { 1 };
        check(
            &format!("{}/v1/completions", server.url),
            &options,
            prompts * options["n"].as_u64().unwrap_or(1) as usize,
        );
    }
}

/// A metric's value, over all its labels.
fn metric(url: &str, name: &str) -> f64 {
    let text = get(&format!("{url}/metrics")).text;
    let values = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[test]
fn what_many_clients_held_comes_back_though_some_of_them_leave() {
    const CLIENTS: usize = 8;
    const STREAMS: usize = 25;
    let server = Server::start(&["serve"]);
    let url = &server.url;
    let round = |streams: usize| {
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || {
                    for number in 0..streams {
                        let mut events = stream(url, "What is Forebay?", r#","ignore_eos":true,"max_tokens":24"#);
                        // Each third leaves at its own moment, the others stay to the end.
                        if (client + number) % 3 == 0 {
                            events.nth((client + number) % 7);
                        } else {
                            assert_eq!(events.last().as_deref(), Some("[DONE]"));
                        }
                    }
                });
            }
        });
        for gauge in [
            "forebay_router_in_flight_requests",
            "forebay_worker_running",
            "forebay_worker_waiting",
            "vllm:kv_cache_usage_perc",
        ] {
            eventually(gauge, || metric(url, gauge) == 0.0);
        }
    };
    round(2);
    let [files, memory] = ["process_open_fds", "process_resident_memory_bytes"].map(|name| metric(url, name));
    round(STREAMS);
    eventually("descriptors come back", || metric(url, "process_open_fds") <= files + 16.0);
    let grown = metric(url, "process_resident_memory_bytes") - memory;
    assert!(grown < 48e6, "{grown} bytes more after {} streams", CLIENTS * STREAMS);
}

#[test]
fn neither_home_nor_a_folder_to_write_in_is_needed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    std::fs::create_dir(&root).expect("made");
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o555)).expect("read-only");
    let mut command = forebay();
    command.env_clear().current_dir(&root).args(["chat", "What is Forebay?"]);
    let output = command.stdin(Stdio::null()).output().expect("runs");
    let [text, log] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success() && text.contains("Forebay"), "{text}{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(std::fs::read_dir(&root).expect("read").count(), 0, "nothing was left there");
}
