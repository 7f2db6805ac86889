//! The deny list on answers: what a client sees depends on the text alone.

use crate::harness::{Front, Reply, chat, streamed};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::faulty_worker::{Answer, Ending, FaultyWorker, chat_event};

async fn front(worker: &FaultyWorker) -> Front {
    Front::start(&[worker], |config| config.policy.deny_list.phrases = vec!["red button".into(), "Müll".into()]).await
}

/// The text and the finish reason of one choice of a chat stream.
fn choice(reply: &Reply, index: u64) -> (String, Option<String>) {
    let mut text = String::new();
    let mut reason = None;
    for event in reply.events().iter().filter(|event| *event != "[DONE]") {
        let chunk: Value = serde_json::from_str(event).expect("json");
        for choice in chunk["choices"].as_array().expect("choices").iter().filter(|choice| choice["index"] == index) {
            assert!(reason.is_none(), "nothing follows a finish reason: {event}");
            text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            reason = choice["finish_reason"].as_str().map(str::to_owned);
        }
    }
    (text, reason)
}

fn two(n: u64) -> Value {
    let mut body = streamed();
    body["n"] = n.into();
    body
}

#[tokio::test]
async fn a_phrase_never_passes_whatever_cuts_it() {
    let worker = FaultyWorker::start(&["m"], Answer::silence()).await;
    let front = front(&worker).await;
    let text = "press the RED \n BUTTON now";
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    for &cut in &places {
        let (left, right) = text.split_at(cut);
        // Cut between tokens at every place, and between packets anywhere, inside characters too.
        worker.next(Answer::chat(&[left, right]).cut_at_random(cut as u64, 6));
        let reply = front.chat(&two(1)).await;
        let (shown, reason) = choice(&reply, 0);
        assert_eq!((shown.as_str(), reason.as_deref()), ("press the ", Some("content_filter")), "cut at {cut}");
        assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"));
    }
    assert_eq!(front.metric("forebay_policy_output_blocks_total"), places.len() as f64);
    front.assert_idle(&[&worker]).await;
}

#[tokio::test]
async fn harmless_text_arrives_whole() {
    let worker = FaultyWorker::start(&["m"], Answer::silence()).await;
    let front = front(&worker).await;
    for seed in 0..20 {
        worker.next(
            Answer::chat(&["the red", " butt", "er ☃ was Mü", "llers", "; press the red"]).cut_at_random(seed, 9),
        );
        let reply = front.chat(&streamed()).await;
        let whole = ("the red butter ☃ was Müllers; press the red".to_owned(), Some("stop".to_owned()));
        assert_eq!(choice(&reply, 0), whole, "seed {seed}");
    }
}

#[tokio::test]
async fn one_choice_is_blocked_and_the_other_goes_on() {
    let usage = br#"data: {"id":"c","object":"o","created":1,"model":"m","choices":[],"usage":{"total_tokens":9}}"#;
    let pieces = vec![
        chat_event(0, "a red", None),
        chat_event(1, "one red", None),
        chat_event(0, " button", None),
        chat_event(1, " rose", None),
        chat_event(0, " again", None),
        chat_event(1, "s", None),
        chat_event(0, "", Some("stop")),
        chat_event(1, "", Some("stop")),
        [usage.as_slice(), b"\n\n"].concat(),
        b"data: [DONE]\n\n".to_vec(),
    ];
    let worker = FaultyWorker::start(&["m"], Answer::stream(pieces)).await;
    let front = front(&worker).await;
    let reply = front.chat(&two(2)).await;
    assert_eq!(choice(&reply, 0), ("a ".into(), Some("content_filter".into())));
    assert_eq!(choice(&reply, 1), ("one red roses".into(), Some("stop".into())));
    let events = reply.events();
    assert!(events[events.len() - 2].contains(r#""usage":{"total_tokens":9}"#), "{events:?}");
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn when_all_choices_are_blocked_the_worker_is_dropped() {
    let pieces = vec![chat_event(0, "ok Müll. ", None); 500];
    let worker = FaultyWorker::start(&["m"], Answer::stream(pieces).paced(Duration::from_millis(20))).await;
    let front = front(&worker).await;
    let reply = front.chat(&streamed()).await;
    assert_eq!(choice(&reply, 0), ("ok ".into(), Some("content_filter".into())));
    assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"));
    crate::harness::wait_for("the worker to notice", || worker.left().len() == 1).await;
    front.assert_idle(&[&worker]).await;
}

#[tokio::test]
async fn held_text_is_not_released_by_a_failure() {
    let pieces = vec![chat_event(0, "press the red", None)];
    let worker = FaultyWorker::start(&["m"], Answer::stream(pieces).ending(Ending::Cut)).await;
    let front = front(&worker).await;
    let reply = front.chat(&streamed()).await;
    reply.assert_broken("bad_gateway");
    assert!(reply.body.contains("press the ") && !reply.body.contains("red"), "{}", reply.body);
}

#[tokio::test]
async fn whole_answers_and_completions_are_screened_too() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("press the red button now")).await;
    let front = front(&worker).await;
    let reply = front.chat(&chat()).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "press the ");
    assert_eq!(reply["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(reply["usage"]["total_tokens"], 2);
    let chunk = |text: &str, reason: Option<&str>| {
        let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": reason});
        format!("data: {}\n\n", json!({"id": "c", "choices": [choice]})).into_bytes()
    };
    let pieces = vec![chunk("no Mü", None), chunk("ll", Some("length")), b"data: [DONE]\n\n".to_vec()];
    worker.next(Answer::stream(pieces));
    let reply = front.complete(&json!({"model": "m", "prompt": "x", "stream": true})).await;
    assert!(reply.body.contains(r#""text":"no ""#) && reply.body.contains("content_filter"), "{}", reply.body);
    assert!(!reply.body.contains("Mü"), "{}", reply.body);
}

#[tokio::test]
async fn other_channels_do_not_leak() {
    let worker = FaultyWorker::start(&["m"], Answer::silence()).await;
    let front = front(&worker).await;
    let event = |choice: Value| format!("data: {}\n\n", json!({"id": "c", "choices": [choice]})).into_bytes();
    let rivals = json!({"content": [{"token": "Roses", "top_logprobs": [{"token": "M\u{fc}ll"}]}]});
    let tool = |arguments: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]});
    for (name, pieces) in [
        ("reasoning", vec![event(json!({"index": 0, "delta": {"reasoning_content": "the red button"}}))]),
        ("reasoning of others", vec![event(json!({"index": 0, "delta": {"reasoning": "the red button"}}))]),
        ("a name of tomorrow", vec![event(json!({"index": 0, "delta": {"novelty": "the red button"}}))]),
        (
            "a structure of tomorrow, over chunks",
            vec![
                event(json!({"index": 0, "delta": {"details": [{"type": "x", "text": "the red"}]}})),
                event(json!({"index": 0, "delta": {"details": [{"type": "x", "text": " button"}]}})),
            ],
        ),
        ("tool calls", vec![event(json!({"index": 0, "delta": tool("red button")}))]),
        (
            "tool calls over chunks",
            vec![
                event(json!({"index": 0, "delta": tool("red but")})),
                event(json!({"index": 0, "delta": tool("ton ")})),
            ],
        ),
        (
            "an escape in arguments, over chunks",
            vec![
                event(json!({"index": 0, "delta": tool("{\"a\":\"red\\u00")})),
                event(json!({"index": 0, "delta": tool("20button\"}")})),
            ],
        ),
        (
            "a tool's name",
            vec![event(
                json!({"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"name": "red button"}}]}}),
            )],
        ),
        ("a tool's id", vec![event(json!({"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "red button"}]}}))]),
        ("the choice", vec![event(json!({"index": 0, "delta": {"content": "x"}, "novelty": "red button"}))]),
        ("why it ended", vec![event(json!({"index": 0, "delta": {"content": "x"}, "finish_reason": "red button"}))]),
        ("a name of a member", vec![event(json!({"index": 0, "delta": {"content": "x", "red button": 1}}))]),
        ("bytes", vec![event(json!({"index": 0, "delta": {"x": {"bytes": [114, 101, 100, 32], "y": "red button"}}}))]),
        (
            "logprobs of held text",
            vec![event(
                json!({"index": 0, "delta": {"content": "a red"}, "logprobs": {"content": [{"token": "red button"}]}}),
            )],
        ),
        ("rivals of a token", vec![event(json!({"index": 0, "delta": {"content": "Roses"}, "logprobs": rivals}))]),
        (
            "around the choices",
            vec![format!("data: {}\n\n", json!({"choices": [], "seen": ["red button"]})).into_bytes()],
        ),
        ("a comment", vec![b": red button\n\n".to_vec()]),
        ("a line that is no data", vec![b"id: red button\ndata: {\"choices\":[]}\n\n".to_vec()]),
        ("an event of another kind", vec![b"event: red button\ndata: {\"x\":\"red button\"}\n\n".to_vec()]),
    ] {
        worker.next(Answer::stream(
            [pieces, vec![chat_event(0, "", Some("stop")), b"data: [DONE]\n\n".to_vec()]].concat(),
        ));
        let reply = front.chat(&streamed()).await;
        assert!(!reply.body.contains("button") && !reply.body.contains("Müll"), "{name}: {}", reply.body);
        assert!(!reply.body.contains("114"), "{name}: {}", reply.body);
        assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"), "{name}: {}", reply.body);
    }
    let logprobs = json!({"content": [{"token": "Roses", "top_logprobs": []}]});
    let plain =
        event(json!({"index": 0, "delta": {"content": "Roses"}, "logprobs": logprobs, "finish_reason": "stop"}));
    worker.next(Answer::stream(vec![plain, b"data: [DONE]\n\n".to_vec()]));
    assert!(front.chat(&streamed()).await.body.contains(r#""logprobs":{"content""#), "unaltered text keeps them");
}

#[tokio::test]
async fn choices_that_share_a_number_do_not_hide_behind_each_other() {
    let worker = FaultyWorker::start(&["m"], Answer::silence()).await;
    let front = front(&worker).await;
    let choice =
        |index: Value, text: &str| json!({"index": index, "message": {"content": text}, "finish_reason": "stop"});
    for (first, second) in [(json!(0), json!(0)), (Value::Null, Value::Null), (json!(1), json!(1.0))] {
        let choices = json!([choice(first.clone(), "fine"), choice(second.clone(), "a red button")]);
        worker.next(Answer::json(200, &json!({"choices": choices})));
        let mut body = chat();
        body["n"] = 2.into();
        let reply = front.chat(&body).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert!(reply.body.contains("fine") && !reply.body.contains("button"), "{first} {second}: {}", reply.body);
    }
    worker.next(Answer::stream(vec![
        chat_event(0, "fine", Some("stop")),
        chat_event(0, "a red button", None),
        format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "red button"}]})).into(),
        b"data: [DONE]\n\n".to_vec(),
    ]));
    let reply = front.chat(&streamed()).await;
    assert!(reply.body.contains("fine") && !reply.body.contains("button"), "{}", reply.body);
}

/// A list must cost what it denies and nothing else: spelling, order, fields of tomorrow.
#[tokio::test]
async fn harmless_answers_pass_byte_for_byte() {
    let worker = FaultyWorker::start(&["m"], Answer::silence()).await;
    let front = front(&worker).await;
    let logprobs = r#"{"content":[{"token":"hi","logprob":-0.1,"bytes":[104,105],"top_logprobs":[]}]}"#;
    let stream = format!(
        "data: {{\"id\":\"c\", \"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\
           \"choices\":[{{\"delta\":{{\"role\":\"assistant\",\"content\":\"\"}},\"index\":0}}],\"usage\":null}}\r\n\r\n\
         data:{{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"h\\u0069\",\"tool_calls\":[]}},\
           \"logprobs\":{logprobs},\"finish_reason\":null,\"stop_reason\":7}}]}}\n\n\
         data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":1,\"id\":\"call_1\",\"type\":\"function\",\
           \"function\":{{\"name\":\"look\",\"arguments\":\"{{\\\"a\\\":1}}\"}}}}]}}}}]}}\n\n\
         data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n\
         data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":1,\"total_tokens\":2}}}}\n\n\
         data: [DONE]\n\n"
    );
    for seed in 0..20 {
        worker.next(Answer::stream(vec![stream.clone().into_bytes()]).cut_at_random(seed, 9));
        assert_eq!(front.chat(&streamed()).await.body, stream, "seed {seed}");
    }
    let whole = r#"{ "choices" : [ {"index":0,"message":{"role":"assistant","content":"h\u0069","tool_calls":[]},
        "logprobs":{"content":[]},"finish_reason":"stop"} ], "id":"c","usage":{"total_tokens":2.0} }"#;
    worker.next(Answer { pieces: vec![whole.into()], ..Answer::json(200, &json!(null)) });
    assert_eq!(front.chat(&chat()).await.body, whole);
}

#[tokio::test]
async fn errors_are_screened_as_decoded_text_and_keep_their_status() {
    let worker = FaultyWorker::start(&["m"], Answer::silence()).await;
    let front = front(&worker).await;
    let error = |status: u16, message: &str| Answer {
        pieces: vec![format!(r#"{{"error":{{"message":"{message}","type":"x"}}}}"#).into()],
        ..Answer::json(status, &json!(null))
    };
    for status in [400, 409, 422] {
        worker.next(error(status, "no r\\u0065d\\u0020button here"));
        let reply = front.chat(&chat()).await;
        assert_eq!((reply.status, reply.error("type").as_str()), (status, "invalid_request_error"), "{}", reply.body);
        assert!(!reply.body.contains("button"), "{}", reply.body);
        worker.next(error(status, "no r\\u0065d\\u0020rose here"));
        let reply = front.chat(&chat()).await;
        assert_eq!((reply.status, reply.error("message").as_str()), (status, "no red rose here"));
    }
    let event = |message: &str| format!("data: {{\"error\":{{\"message\":\"{message}\"}}}}\n\n").into_bytes();
    for (message, is_shown) in [("r\\u0065d\\u0020button", false), ("r\\u0065d rose", true)] {
        worker.next(Answer::stream(vec![chat_event(0, "hello", None), event(message)]));
        let reply = front.chat(&streamed()).await;
        assert!(!reply.body.contains("[DONE]") && reply.body.contains("hello"), "{}", reply.body);
        assert_eq!(reply.body.contains(message), is_shown, "{}", reply.body);
        assert!(reply.body.contains("\"error\""), "{}", reply.body);
    }
}
