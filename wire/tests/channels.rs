//! Answers of strangers: whatever arrives is read or refused, and what is read can be rewritten
//! (see `claims/channels.rs`).

#[path = "claims/channels.rs"]
mod claims;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use wire::openai::Usage;
use wire::openai::channels::{Found, Kind, Whole, read_event, read_whole};
use wire::openai::endpoint::Answers;
use wire::sse::Event;

/// Names that mean something in an answer, and some that do not.
const NAMES: [&str; 24] = [
    "choices",
    "index",
    "delta",
    "message",
    "text",
    "content",
    "reasoning_content",
    "reasoning",
    "refusal",
    "role",
    "tool_calls",
    "function",
    "function_call",
    "name",
    "arguments",
    "id",
    "type",
    "logprobs",
    "finish_reason",
    "usage",
    "error",
    "object",
    "novelty",
    "bytes",
];

/// Any JSON, made of words that matter here.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        select(vec![-1, 0, 1, 2, 300]).prop_map(Value::from),
        select(vec![0.0, 2.0, 0.5, 1e300]).prop_map(Value::from),
        select(vec!["", "a", "assistant", "error", "stop", "\u{0}", "é\n\"\\", "\u{1f600}"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((select(NAMES.to_vec()), inner), 0..6)
                .prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

/// A chunk or an answer whose choices have any members.
fn answer() -> impl Strategy<Value = Value> {
    let object = vec((select(NAMES.to_vec()), json()), 0..5)
        .prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Value>());
    let choice = (0_u32..4, select(vec!["delta", "message"]), object, json()).prop_map(
        |(index, name, object, more)| json!({"index": index, name: object, "finish_reason": null, "novelty": more}),
    );
    (vec(choice, 0..4), json()).prop_map(|(choices, more)| json!({"id": "c", "choices": choices, "novelty": more}))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_an_answer_or_refused(bytes: Vec<u8>) {
        claims::answer(&bytes);
        claims::stream(&bytes);
    }

    #[test]
    fn any_json_is_an_answer_or_refused(value in json()) {
        claims::answer(value.to_string().as_bytes());
    }

    #[test]
    fn answers_are_read_and_rewritten(value in answer()) {
        claims::answer(value.to_string().as_bytes());
        claims::answer(format!("{value:#}").as_bytes());
    }

    #[test]
    fn any_lines_are_a_stream(lines in vec(select(vec![
        "data: {\"choices\":[]}", "data: [DONE]", "data:", "event: error", ": x", "id: 1", "", "data: é", "retry", "\u{feff}data: x",
    ]), 0..12), end in select(vec!["\n", "\r", "\r\n"])) {
        let text: String = lines.iter().map(|line| format!("{line}{end}")).collect();
        claims::stream(text.as_bytes());
        claims::stream(format!("{}{text}", '\u{14}').as_bytes());
    }
}

#[test]
fn lists_in_place_of_calls_keep_their_depth() {
    for calls in [r#"[[{"index":"a"}]]"#, r#"["a",["b"]]"#, r#"[{"function":{"name":"f"}},[["a"],{"b":"c"}]]"#] {
        for message in ["delta", "message"] {
            let choice = format!(r#"{{"index":0,"{message}":{{"tool_calls":{calls}}},"finish_reason":null}}"#);
            claims::answer(format!(r#"{{"id":"c","choices":[{choice}],"novelty":null}}"#).as_bytes());
        }
    }
}

fn found(data: &str) -> Found {
    read_event(&Event { event: String::new(), data: data.to_owned() })
        .unwrap_or_else(|problem| panic!("{problem}: {data}"))
}

/// The channels of a chunk's choices, with what was added.
fn channels(data: &str) -> Vec<(u32, Kind, String)> {
    let Found::Answer(answer) = found(data) else { panic!("{data}") };
    let of = |choice: &wire::openai::channels::Choice| {
        let index = choice.index;
        choice
            .texts
            .iter()
            .map(move |text| (index, text.channel.kind, text.read(data).into_owned()))
            .collect::<Vec<_>>()
    };
    answer.choices.iter().flat_map(of).collect()
}

#[test]
fn texts_of_all_spellings_are_channels() {
    for (delta, expected) in [
        (r#"{"content":"a\u0062"}"#, vec![(Kind::Text, "ab")]),
        (r#"{"c\u006fntent":"a"}"#, vec![(Kind::Text, "a")]),
        (r#"{"reasoning_content":"a","content":null}"#, vec![(Kind::Reasoning, "a")]),
        (r#"{"reasoning":"a"}"#, vec![(Kind::Reasoning, "a")]),
        (r#"{"refusal":"a"}"#, vec![(Kind::Refusal, "a")]),
        (
            r#"{"tool_calls":[{"index":0,"id":"i","type":"function","function":{"name":"f","arguments":"{"}}]}"#,
            vec![(Kind::ToolName, "f"), (Kind::ToolArguments, "{")],
        ),
        (r#"{"function_call":{"name":"f","arguments":"{"}}"#, vec![(Kind::ToolName, "f"), (Kind::ToolArguments, "{")]),
        (r#"{"tool_calls":[{"custom":{"name":"f","input":"x"}}]}"#, vec![(Kind::ToolName, "f"), (Kind::Other, "x")]),
        (r#"{"content":[{"type":"text","text":"a"}]}"#, vec![(Kind::Text, "a")]),
        (r#"{"reasoning_details":[{"type":"reasoning.text","text":"a"}]}"#, vec![(Kind::Other, "a")]),
        (r#"{"tool_calls":[]}"#, vec![]),
        (r#"{"content":"half \ud83d"}"#, vec![(Kind::Text, "half \\ud83d")]),
    ] {
        let read = channels(&format!(r#"{{"choices":[{{"delta":{delta},"index":2.0}}]}}"#));
        let expected: Vec<_> = expected.into_iter().map(|(kind, text)| (2, kind, text.to_owned())).collect();
        assert_eq!(read, expected, "{delta}");
    }
    assert_eq!(channels(r#"{"choices":[{"text":"a","index":1}]}"#), [(1, Kind::Text, "a".to_owned())]);
}

#[test]
fn a_tool_calls_parts_are_one_channel_by_its_index() {
    let channel = |json: &str| match found(json) {
        Found::Answer(answer) => answer.choices[0].texts[0].channel.clone(),
        other => panic!("{other:?}"),
    };
    let of = |call: &str| channel(&format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{call}]}}}}]}}"#));
    let first = of(r#"{"index":1,"function":{"arguments":"a"}}"#);
    assert_eq!(first, of(r#"{"function":{"arguments":"b"},"index":1}"#));
    assert_eq!(first, of(r#"{"function":{"arguments":"b"},"index":1.0}"#));
    assert_ne!(first, of(r#"{"function":{"arguments":"b"},"index":0}"#));
}

#[test]
fn what_is_no_answer_is_refused() {
    for whole in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"choices":null}"#,
        r#"{"choices":{}}"#,
        r#"{"choices":[]}"#,
        r#"{"choices":[1]}"#,
        r#"{"choices":[{}]}"#,
        r#"{"choices":[{"delta":{"content":"x"}}]}"#,
        r#"{"choices":[{"message":"x"}]}"#,
        r#"{"choices":[{"message":null}]}"#,
        r#"{"choices":[{"message":{}}]} x"#,
        r#"{"choices":[{"text":NaN}]}"#,
        r#"{"choices":[],"choices":[{"text":"x"}]}"#,
        r#"{"choices":[{"message":{"content":"a","content":"b"}}]}"#,
        r#"{"choices":[{"index":-1,"text":"x"}]}"#,
        r#"{"choices":[{"index":0.5,"text":"x"}]}"#,
        r#"{"choices":[{"index":"0","text":"x"}]}"#,
        r#"{"choices":[{"text":"x","finish_reason":{"x":"y"}}]}"#,
        "<html>",
        "data: {}",
    ] {
        assert!(read_whole(whole.as_bytes(), Answers::Choices).is_err(), "{whole}");
    }
    for whole in [
        r#"{"choices":[{"message":{"content":null,"tool_calls":[]}}]}"#,
        "\u{feff}{\"choices\":[{\"text\":\"\"}]}",
        r#" {"choices":[{"index":null,"text":"x"}],"usage":{"total_tokens":2.0}} "#,
    ] {
        let found = read_whole(whole.as_bytes(), Answers::Choices);
        assert!(matches!(found, Ok(Whole::Answer(_))), "{whole}");
    }
    let deep = format!(r#"{{"choices":[{{"delta":{{"x":{}1{}}}}}]}}"#, "[".repeat(100), "]".repeat(100));
    assert!(read_event(&Event { event: String::new(), data: deep }).is_err());
}

#[test]
fn errors_and_ends_are_found_in_every_shape() {
    let event = |name: &str, data: &str| read_event(&Event { event: name.to_owned(), data: data.to_owned() });
    for (name, data) in [
        ("", r#"{"error":{"message":"m"}}"#),
        ("", r#"{"error":"m"}"#),
        ("", r#"{"choices":[{"delta":{"content":"x"}}],"error":{"message":"m"}}"#),
        ("", r#"{"object":"error","message":"m"}"#),
        ("", r#"{"type":"error","error":{"message":"m"}}"#),
        ("", r#"{"detail":"m"}"#),
        ("", r#"{"detail":[{"msg":"m"}]}"#),
        ("", r#"{"message":"m"}"#),
        ("error", "m"),
        ("error", r#"{"choices":[],"message":"m"}"#),
        ("", r#"{"choices":[{"index":0,"delta":{},"error":{"message":"m"}}]}"#),
    ] {
        match event(name, data) {
            Ok(Found::Error(fault)) => {
                assert!(fault.message.contains('m') && fault.to_json().contains("\"error\""), "{data}")
            }
            other => panic!("{data} is {other:?}"),
        }
    }
    for data in [r#"{"choices":[],"error":null}"#, r#"{"choices":[],"error":{}}"#, r#"{"choices":[],"message":"x"}"#] {
        assert!(matches!(event("", data), Ok(Found::Answer(_))), "{data}");
    }
    for data in ["[DONE]", " [DONE]", "[DONE] ", "[DONE]x", "\t[DONE]\n"] {
        assert_eq!(event("", data), Ok(Found::Done), "{data:?}");
    }
    assert_eq!(event("ping", r#"{"type":"ping"}"#), Ok(Found::Foreign));
    assert_eq!(event("note", "not json"), Ok(Found::Foreign));
    assert!(event("", r#"{"type":"ping"}"#).is_err() && event("message", "x").is_err());
}

#[test]
fn vectors_are_numbers_or_those_in_base64_and_nothing_else_is_an_answer() {
    let read = |body: &str| read_whole(body.as_bytes(), Answers::Vectors);
    let one = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1,-0.5e-3]}],"model":"m"}"#;
    assert_eq!(read(one), Ok(Whole::Vectors { count: 1, usage: None }));
    let counted = one.replace(r#""model""#, r#""usage":{"prompt_tokens":7,"total_tokens":7},"model""#);
    assert_eq!(read(&counted), Ok(Whole::Vectors { count: 1, usage: Some(Usage::new(7, 0)) }));
    let two = r#"{"data":[{"embedding":"AACAPg=="},{"embedding":[[1],[2]]}]}"#;
    assert_eq!(read(two), Ok(Whole::Vectors { count: 2, usage: None }));
    for body in [
        "{}",
        r#"{"data":[]}"#,
        r#"{"data":{"embedding":[1]}}"#,
        r#"{"data":[1]}"#,
        r#"{"data":[{"index":0}]}"#,
        r#"{"data":[{"embedding":["words"]}]}"#,
        r#"{"data":[{"embedding":""}]}"#,
        r#"{"data":[{"embedding":{"a":1}}]}"#,
        r#"{"data":[{"embedding":[1]}]"#,
        r#"{"choices":[{"index":0,"text":"a"}]}"#,
    ] {
        assert!(read(body).is_err(), "{body}");
    }
    assert!(matches!(read(r#"{"error":{"message":"m","type":"t","code":503}}"#), Ok(Whole::Error(_))));
    assert!(read_whole(one.as_bytes(), Answers::Choices).is_err());
}
