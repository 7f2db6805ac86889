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
    for (name, pieces) in [
        ("reasoning", vec![event(json!({"index": 0, "delta": {"reasoning_content": "the red button"}}))]),
        ("a name of tomorrow", vec![event(json!({"index": 0, "delta": {"novelty": "the red button"}}))]),
        (
            "tool calls",
            vec![event(json!({"index": 0, "delta": {"tool_calls": [{"function": {"arguments": "red button"}}]}}))],
        ),
        ("the choice", vec![event(json!({"index": 0, "delta": {"content": "x"}, "novelty": "red button"}))]),
        (
            "logprobs of held text",
            vec![event(
                json!({"index": 0, "delta": {"content": "a red"}, "logprobs": {"content": [{"token": "red button"}]}}),
            )],
        ),
        ("rivals of a token", vec![event(json!({"index": 0, "delta": {"content": "Roses"}, "logprobs": rivals}))]),
    ] {
        worker.next(Answer::stream(
            [pieces, vec![chat_event(0, "", Some("stop")), b"data: [DONE]\n\n".to_vec()]].concat(),
        ));
        let reply = front.chat(&streamed()).await;
        assert!(!reply.body.contains("button") && !reply.body.contains("Müll"), "{name}: {}", reply.body);
        assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"), "{name}: {}", reply.body);
    }
    let logprobs = json!({"content": [{"token": "Roses", "top_logprobs": []}]});
    let plain =
        event(json!({"index": 0, "delta": {"content": "Roses"}, "logprobs": logprobs, "finish_reason": "stop"}));
    worker.next(Answer::stream(vec![plain, b"data: [DONE]\n\n".to_vec()]));
    assert!(front.chat(&streamed()).await.body.contains(r#""logprobs":{"content""#), "unaltered text keeps them");
}
