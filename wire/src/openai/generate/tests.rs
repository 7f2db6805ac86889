//! Requests case by case; `tests/hostile.rs` tries any bytes.

use super::{Generate, Input, Opening, parse};
use crate::openai::endpoint::{CHAT, COMPLETIONS, Endpoint, Fate};
use crate::openai::error::{ApiError, ErrorKind};
use crate::openai::prompt::Prompt;
use crate::openai::scan::{Limits, scan};

fn read(endpoint: &'static Endpoint, json: &str) -> Result<Generate, ApiError> {
    let found = scan(json.as_bytes(), endpoint, &Limits::default())?;
    parse(json.as_bytes(), &found, endpoint)
}

fn chat(fields: &str) -> Result<Generate, ApiError> {
    read(&CHAT, &format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{fields}}}"#))
}

fn complete(fields: &str) -> Result<Generate, ApiError> {
    read(&COMPLETIONS, &format!(r#"{{"model":"m","prompt":"p"{fields}}}"#))
}

#[test]
fn reads_a_plain_request() {
    let request = chat(r#","max_completion_tokens":5,"max_tokens":9,"novelty":1,"temperature":1"#).expect("valid");
    assert_eq!(request.sampling.max_tokens, Some(5));
    assert_eq!(request.sampling.temperature, Some(1.0));
    let Input::Conversation { messages, .. } = request.input else { panic!("a conversation") };
    assert_eq!(messages[0].content, "hi");
}

#[test]
fn every_sampling_field_is_read() {
    let request = complete(
        r#","temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,"seed":7,"presence_penalty":1,"frequency_penalty":-1,
        "repetition_penalty":1.1,"logit_bias":{"5":-2.5},"n":2,"max_tokens":10,"min_tokens":3,"ignore_eos":true,
        "stop":"x","stop_token_ids":[8,9.0],"priority":-4,"cache_salt":"s","logprobs":3,"echo":true,"stream":true,
        "stream_options":{"include_usage":true}"#,
    )
    .expect("valid");
    let sampling = request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (Some(0.5), Some(0.9), Some(40)));
    assert_eq!((sampling.min_p, sampling.seed, sampling.repetition_penalty), (0.1, Some(7), Some(1.1)));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (1.0, -1.0));
    assert_eq!((sampling.logit_bias, sampling.n, sampling.min_tokens), (vec![(5, -2.5)], 2, 3));
    assert_eq!((sampling.max_tokens, sampling.ignore_eos, sampling.stop), (Some(10), true, vec!["x".to_owned()]));
    assert_eq!((sampling.stop_token_ids, sampling.priority, sampling.logprobs), (vec![8, 9], -4, Some(3)));
    assert_eq!(sampling.cache_salt, "s");
    assert!(request.output.stream && request.output.include_usage && request.output.echo);
}

#[test]
fn errors_name_the_field() {
    let of_chat = |json: &str| read(&CHAT, json);
    let cases = [
        (of_chat(r#"{"model":"m"}"#), "messages"),
        (of_chat(r#"{"model":"m","messages":[]}"#), "messages"),
        (of_chat(r#"{"messages":[{"role":"owner","content":"x"}]}"#), "messages[0].role"),
        (of_chat(r#"{"messages":[{"content":"x"}]}"#), "messages[0].role"),
        (of_chat(r#"{"messages":[{"role":"tool","content":"x"}]}"#), "messages[0].tool_call_id"),
        (of_chat(r#"{"messages":[{"role":"function","content":"x"}]}"#), "messages[0].role"),
        (of_chat(r#"{"messages":[{"role":"user"}]}"#), "messages[0].content"),
        (of_chat(r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#), "messages[0].content[0].type"),
        (of_chat(r#"{"messages":[{"role":"user","content":[{"type":"text"}]}]}"#), "messages[0].content[0].text"),
        (chat(r#","temperature":2.5"#), "temperature"),
        (chat(r#","temperature":1e999"#), "temperature"),
        (chat(r#","top_p":0"#), "top_p"),
        (chat(r#","repetition_penalty":0.0"#), "repetition_penalty"),
        (chat(r#","top_k":-2"#), "top_k"),
        (chat(r#","n":0"#), "n"),
        (chat(r#","n":17"#), "n"),
        (chat(r#","stop":["a",""]"#), "stop[1]"),
        (chat(r#","stop":["a",1]"#), "stop[1]"),
        (chat(r#","stop_token_ids":[-1]"#), "stop_token_ids[0]"),
        (chat(r#","logit_bias":{"x":1}"#), "logit_bias.x"),
        (chat(r#","logit_bias":{"1":101}"#), "logit_bias.1"),
        (chat(r#","top_logprobs":2"#), "top_logprobs"),
        (chat(r#","logprobs":true,"top_logprobs":21"#), "top_logprobs"),
        (chat(r#","stream_options":{"include_usage":true}"#), "stream_options"),
        (chat(r#","min_tokens":9,"max_tokens":3"#), "min_tokens"),
        (chat(r#","seed":9223372036854775808"#), "seed"),
        (complete(r#","logprobs":21"#), "logprobs"),
        (complete(r#","cache_salt":"""#), "cache_salt"),
    ];
    for (result, param) in cases {
        let error = result.expect_err(param);
        assert_eq!(error.kind.status(), 400, "{param}");
        assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
    }
}

#[test]
fn every_field_that_is_not_done_is_refused_by_name() {
    for (endpoint, read) in [(&CHAT, chat as fn(&str) -> _), (&COMPLETIONS, complete)] {
        for field in endpoint.fields.iter().copied().flatten() {
            let Fate::Refused(unless) = field.fate else { continue };
            for asks in [r#""asks""#, "7.5", "[7]", r#"{"type":"json_object"}"#, "true", "false", r#""none""#] {
                let result: Result<Generate, ApiError> = read(&format!(r#","{}":{asks}"#, field.name));
                if unless.contains(&asks) {
                    assert!(result.is_ok(), "{} {asks}", field.name);
                    continue;
                }
                let error = result.expect_err(field.name);
                assert!(error.param.is_some_and(|param| param.starts_with(field.name)), "{} {asks}", field.name);
            }
            for asks_nothing in unless.iter().chain(&["null"]) {
                let result = read(&format!(r#","{}": {asks_nothing}"#, field.name));
                assert!(result.is_ok(), "{} {asks_nothing}: {result:?}", field.name);
            }
        }
    }
}

#[test]
fn members_of_messages_that_are_not_done_are_refused_by_name() {
    for (member, value) in [
        ("function_call", r#"{"name":"f"}"#),
        ("refusal", r#""no""#),
        ("prefix", "true"),
        ("partial", "true"),
        ("audio", r#"{"id":"a"}"#),
    ] {
        let body = format!(r#"{{"messages":[{{"role":"assistant","content":"a","{member}":{value}}}]}}"#);
        let error = read(&CHAT, &body).expect_err(member);
        let path = format!("messages[0].{member}");
        assert_eq!((error.kind, error.param), (ErrorKind::Unsupported, Some(path)), "{member}");
    }
    let harmless = r#"{"messages":[{"role":"assistant","content":"a","tool_calls":[],"refusal":null,"prefix":false}]}"#;
    read(&CHAT, harmless).expect("asks for nothing");
}

#[test]
fn hints_change_nothing() {
    let plain = chat("").expect("valid");
    let hints = r#","user":"u","metadata":{"a":"b"},"store":true,"prompt_cache_key":"k",
        "safety_identifier":"s","parallel_tool_calls":false,"prediction":{"type":"content","content":"x"}"#;
    assert_eq!(chat(hints).expect("valid"), plain);
}

#[test]
fn a_seed_of_minus_one_is_none() {
    assert_eq!(chat(r#","seed":-1"#).expect("valid").sampling.seed, None);
    assert_eq!(chat(r#","seed":-2"#).expect("valid").sampling.seed, Some(-2));
}

#[test]
fn text_parts_are_joined_by_a_line_break() {
    let body =
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},"b",{"text":"c","type":"text"}]}]}"#;
    let Input::Conversation { messages, .. } = read(&CHAT, body).expect("valid").input else { panic!("messages") };
    assert_eq!(messages[0].content, "a\nb\nc");
}

#[test]
fn reasoning_effort_is_a_variable_of_the_template() {
    let effort = |fields: &str| match chat(fields).expect("valid").input {
        Input::Conversation { variables, .. } => variables["reasoning_effort"].clone(),
        Input::Prompts(_) => panic!("a conversation"),
    };
    assert_eq!(effort(r#","reasoning_effort":"low""#), "low");
    assert_eq!(effort(r#","chat_template_kwargs":{"reasoning_effort":"high"},"reasoning_effort":"low""#), "high");
}

#[test]
fn reads_the_four_forms_of_a_prompt() {
    let text = |text: &str| Prompt::Text(text.into());
    let cases = [
        (r#""a""#, vec![text("a")]),
        (r#"[ "a","b"]"#, vec![text("a"), text("b")]),
        ("[1,2.0]", vec![Prompt::Tokens(vec![1, 2])]),
        ("[ [1],[2,3]]", vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]),
    ];
    for (json, expected) in cases {
        let request = read(&COMPLETIONS, &format!(r#"{{"model":"m","prompt":{json}}}"#)).expect(json);
        assert_eq!(request.input, Input::Prompts(expected));
        assert_eq!(request.sampling.max_tokens, Some(16));
    }
    for prompt in ["[]", "[[]]", "[[1],[]]", "[-1]", "[1e10]"] {
        let error = read(&COMPLETIONS, &format!(r#"{{"model":"m","prompt":{prompt}}}"#)).expect_err(prompt);
        assert!(error.param.expect("a field").starts_with("prompt"), "{prompt}");
    }
    let many = format!(r#"{{"prompt":[{}"a"]}}"#, r#""a","#.repeat(64));
    assert!(read(&COMPLETIONS, &many).expect_err("many").message.contains("at most 64 prompts"));
}

/// Every text that the scan finds is marked, and the request read again: what the engine's side is given of the
/// original was not scanned.
#[test]
fn a_string_that_reaches_the_engine_was_scanned() {
    let chat = r#"{"model":"m","user":"u","messages":[{"role":"system","content":"secret1","name":"secret2"},
        {"content":[{"type":"text","text":"secret3","x":"secret4"},"secret5"],"role":"user"},
        {"role":"assistant","reasoning":"secret6","content":"sec\u0072et7"},
        {"role":"assistant","tool_calls":[{"id":"secret13","type":"function",
        "function":{"name":"secret14","arguments":"{\"secret15\":\"secret16\"}"}}]}],"reasoning_effort":"secret8",
        "tools":[{"type":"function","function":{"name":"secret17","description":"secret18","parameters":
        {"type":"object","properties":{"secret19":{"enum":["secret20"]}}}}}],"bad_words":["secret21"],
        "chat_template_kwargs":{"secret9":["secret10",{"a":"secret11"}]},"new":"secret12"}"#;
    let complete = r#"{"prompt":["secret1","sec\u0072et2"],"new":{"secret3":"secret4"}}"#;
    for (endpoint, body) in [(&CHAT, chat), (&COMPLETIONS, complete)] {
        let found = scan(body.as_bytes(), endpoint, &Limits::default()).expect("scans");
        let mut edits: Vec<_> = found.texts().iter().filter(|text| !text.raw.is_empty()).collect();
        edits.sort_by_key(|text| text.raw);
        let mark = |(index, text): (usize, &&crate::openai::TextSpan)| crate::openai::splice::Edit {
            span: text.raw,
            // Names stay apart, and a message's first word need not be a role.
            with: format!("mark{index}").into(),
        };
        let edits: Vec<_> = edits.iter().enumerate().map(mark).collect();
        let marked = crate::openai::splice::splice(&body.to_owned().into(), &edits).concat();
        let marked = String::from_utf8(marked).expect("text");
        let request = read(endpoint, &marked).expect(&marked);
        let given = format!("{request:?}");
        assert!(!given.contains("secret"), "{given}");
        assert!(given.contains("mark"), "{given}");
    }
}

#[test]
fn the_end_of_a_conversation_is_one_of_three() {
    let opening = |fields: &str| match read(
        &CHAT,
        &format!(r#"{{"messages":[{{"role":"user","content":"a"}},{{"role":"assistant","content":"b"}}]{fields}}}"#),
    ) {
        Ok(Generate { input: Input::Conversation { opening, .. }, .. }) => Some(opening),
        _ => None,
    };
    assert_eq!(opening(""), Some(Opening::Answer));
    assert_eq!(opening(r#","add_generation_prompt":false"#), Some(Opening::Nothing));
    assert_eq!(opening(r#","continue_final_message":true"#), Some(Opening::Continue));
    assert_eq!(opening(r#","continue_final_message":true,"add_generation_prompt":true"#), None);
    assert!(chat(r#","continue_final_message":true"#).is_err(), "the last message is the user's");
}

#[test]
fn a_tier_is_a_priority_unless_one_is_given() {
    let tier = |fields: &str| chat(fields).expect("valid").sampling.tier_priority;
    assert_eq!(tier(r#","service_tier":"flex""#), 1);
    assert_eq!(tier(r#","service_tier":"priority""#), -1);
    assert_eq!(tier(r#","service_tier":"auto""#), 0);
    assert_eq!(tier(r#","service_tier":"flex","priority":4"#), 0);
}

#[test]
fn no_error_has_a_word_of_ours_for_a_type() {
    const VALUES: [&str; 18] = [
        "5",
        "-1",
        "1.5",
        "\"x\"",
        "true",
        "[]",
        "[5]",
        "[-1]",
        "[\"x\"]",
        "[[]]",
        "[{}]",
        "{}",
        r#"{"a":5}"#,
        r#"{"1":"x"}"#,
        r#"{"type":5}"#,
        r#"{"type":"json_schema","json_schema":5}"#,
        r#"{"choice":5}"#,
        r#"[{"type":"function","function":{"name":5}}]"#,
    ];
    let mut told = 0;
    for (endpoint, read) in [(&CHAT, chat as fn(&str) -> _), (&COMPLETIONS, complete)] {
        for field in endpoint.fields.iter().copied().flatten() {
            for value in VALUES {
                let result: Result<Generate, ApiError> = read(&format!(r#","{}":{value}"#, field.name));
                let Err(error) = result else { continue };
                told += 1;
                assert!(error.param.is_some(), "{} {value}: {error:?}", field.name);
                for word in ["struct ", "enum ", "a sequence", "variant", "a map", "f64", "u32", "i64"] {
                    assert!(!error.message.contains(word), "{} {value}: {}", field.name, error.message);
                }
            }
        }
    }
    assert!(told > 1_000, "{told} errors");
    let messages =
        |last: &str| read(&CHAT, &format!(r#"{{"messages":[{{"role":"assistant",{last}}}]}}"#)).expect_err(last);
    assert_eq!(messages(r#""tool_calls":[{}]"#).message, "`messages[0].tool_calls[0].function` is required");
    assert_eq!(messages(r#""tool_calls":5"#).message, "`messages[0].tool_calls` must be a list, not 5");
    assert_eq!(chat(r#","tools":[5]"#).expect_err("no tool").message, "`tools[0]` must be an object, not 5");
}
