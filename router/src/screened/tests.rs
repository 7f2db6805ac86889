//! Streams of random answers: whatever cuts their bytes, the same text passes and the same choices end.

use super::*;
use policy::{Facts, Moment, Policy, Presented};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use wire::openai::endpoint::Answers;
use wire::openai::scan::{Limits, scan};
use wire::openai::{CHAT, channels::Kind};
use wire::sse::Decoder;

/// How many answers are screened; `CASES=100000 cargo test -p forebay-router --release screened` screens more.
const CASES: u64 = 3_000;

const PHRASES: [&str; 3] = ["ab", "a b c", "毒"];

fn admitted() -> Admitted {
    admitted_by(json!({"deny_list": {"phrases": PHRASES}}))
}

fn admitted_by(config: Value) -> Admitted {
    let policy = Policy::new(&serde_json::from_value(config).expect("a configuration")).expect("valid");
    let body = br#"{"model":"m","messages":[]}"#;
    let scan = scan(body, &CHAT, &Limits::default()).expect("a request");
    let who = policy.identify(Presented::Nothing, None, Moment(Duration::ZERO)).expect("anonymous");
    policy.decide(&Facts { who: &who, endpoint: &CHAT, body, scan: &scan }).expect("admitted")
}

/// An answer as a client reads it: by choice and channel the text, and by choice why it ended.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    texts: BTreeMap<(u32, Kind), String>,
    reasons: BTreeMap<u32, String>,
    is_done: bool,
    is_error: bool,
}

fn read(bytes: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let mut events = Vec::new();
    Decoder::new(1 << 20).push(bytes, |event| events.push(event)).expect("an event stream");
    for event in events {
        assert!(!seen.is_done && !seen.is_error, "something follows the end: {event:?}");
        match read_event(&event).expect("an answer") {
            Found::Answer(answer) => {
                for choice in &answer.choices {
                    assert!(!seen.reasons.contains_key(&choice.index), "a choice goes on after its end: {event:?}");
                    for text in &choice.texts {
                        let whole = seen.texts.entry((choice.index, text.channel.kind)).or_default();
                        whole.push_str(&text.read(&event.data));
                    }
                    seen.reasons.extend(choice.finish_reason.clone().map(|reason| (choice.index, reason)));
                }
            }
            Found::Error(_) => seen.is_error = true,
            Found::Done => seen.is_done = true,
            Found::Foreign => panic!("{event:?}"),
        }
    }
    seen.texts.retain(|_, text| !text.is_empty());
    seen
}

/// Passes a stream in pieces and returns what went out.
fn pass(stream: &[u8], cuts: &[usize]) -> Bytes {
    let mut at: Vec<usize> = cuts.iter().copied().chain([0, stream.len()]).collect();
    at.sort_unstable();
    let stream = Bytes::copy_from_slice(stream);
    pass_stream(admitted(), 2, at.windows(2).map(|pair| stream.slice(pair[0]..pair[1])))
}

fn text(rng: &mut StdRng) -> String {
    let letters: Vec<char> = "aabbc   x毒e\u{301}\"\\\n".chars().collect();
    (0..rng.random_range(0..4)).filter_map(|_| letters.choose(rng).copied()).collect()
}

/// One chunk that adds to some channel of some choice, and what it adds.
fn chunk(rng: &mut StdRng, said: &mut BTreeMap<(u32, Kind), String>) -> Value {
    let (index, text) = (rng.random_range(0..2), text(rng));
    let (kind, delta) = match rng.random_range(0..5) {
        0 | 1 => (Kind::Text, json!({"content": text})),
        2 => (Kind::Reasoning, json!({"reasoning_content": text})),
        3 => (Kind::Other, json!({"novelty": {"deep": text}})),
        _ => (Kind::ToolName, json!({"tool_calls": [{"function": {"name": text}, "index": 0}]})),
    };
    said.entry((index, kind)).or_default().push_str(&text);
    json!({"id": "c", "choices": [{"delta": delta, "index": index}], "usage": null})
}

fn stream(rng: &mut StdRng) -> (Vec<u8>, BTreeMap<(u32, Kind), String>) {
    let mut said = BTreeMap::new();
    let end = *["\n", "\r\n", "\r"].choose(rng).expect("three");
    let mut events: Vec<String> = (0..rng.random_range(0..8)).map(|_| chunk(rng, &mut said).to_string()).collect();
    if rng.random_bool(0.9) {
        let finish = |index: u32| json!({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]});
        events.extend([0, 1].map(|index| finish(index).to_string()));
    }
    events.push("[DONE]".into());
    let comment = if rng.random_bool(0.2) { format!(": x{end}{end}") } else { String::new() };
    let stream: String = events.iter().map(|event| format!("{comment}data: {event}{end}{end}")).collect();
    (stream.into_bytes(), said)
}

#[test]
fn what_passes_depends_on_the_text_and_not_on_its_cuts() {
    let cases = std::env::var("CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let denies = |text: &String| admitted().text_screen().is_some_and(|mut screen| screen.denies(text, false));
    for seed in 0..cases {
        let mut rng = StdRng::seed_from_u64(seed);
        let (stream, said) = stream(&mut rng);
        let cuts: Vec<usize> = (0..rng.random_range(0..8)).map(|_| rng.random_range(0..=stream.len())).collect();
        let whole = read(&pass(&stream, &[]));
        let cut = read(&pass(&stream, &cuts));
        assert_eq!(cut, whole, "seed {seed}, cut at {cuts:?}");
        assert!(whole.is_done, "seed {seed}");
        for index in 0..2 {
            let of_choice = |texts: &BTreeMap<(u32, Kind), String>| {
                texts
                    .iter()
                    .filter(|((choice, _), text)| *choice == index && !text.is_empty())
                    .map(|(key, text)| (*key, text.clone()))
                    .collect::<Vec<_>>()
            };
            let (came, went) = (of_choice(&said), of_choice(&whole.texts));
            let is_denied = came.iter().any(|(_, text)| denies(text));
            let is_blocked = whole.reasons.get(&index).is_some_and(|reason| reason == "content_filter");
            assert_eq!(is_blocked, is_denied, "seed {seed}, choice {index}: {came:?} became {went:?}");
            assert!(is_denied || went == came, "seed {seed}, choice {index}: {came:?} became {went:?}");
            assert!(went.iter().all(|(_, text)| !denies(text)), "seed {seed}, choice {index}: {went:?}");
        }
    }
}

#[test]
fn results_of_the_filter_are_told_in_azures_words() {
    let config = json!({"deny_list": {"phrases": PHRASES}, "filter_results": true});
    let event = |value: Value| format!("data: {value}\n\n");
    let chunk = |text: &str| event(json!({"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]}));
    let stream = [chunk("fine "), chunk("ab "), event(json!("unread"))].concat();
    let out = pass_stream(admitted_by(config.clone()), 1, [Bytes::from(stream)]);
    let mut events: Vec<Value> = Vec::new();
    Decoder::new(1 << 20)
        .push(&out, |event| events.extend(serde_json::from_str::<Value>(&event.data).ok()))
        .expect("an event stream");
    let clean = json!({"custom_blocklists": {"filtered": false, "details": []}});
    let filtered = json!({"custom_blocklists": {"filtered": true, "details": [{"id": "deny_list", "filtered": true}]}});
    assert_eq!(events[0]["choices"], json!([]));
    assert_eq!(events[0]["prompt_filter_results"], json!([{"prompt_index": 0, "content_filter_results": clean}]));
    assert_eq!(events[1]["choices"][0]["content_filter_results"], clean);
    assert_eq!(events[1]["choices"][0]["delta"]["content"], "fine ");
    let last = &events[events.len() - 1]["choices"][0];
    assert_eq!((&last["content_filter_results"], &last["finish_reason"]), (&filtered, &json!("content_filter")));

    let whole = json!({"id": "c", "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "so ab"}}]});
    let out = Gate::new(admitted_by(config), 1, (Answers::Choices, false))
        .whole(Bytes::from(whole.to_string()))
        .expect("an answer");
    let value: Value = serde_json::from_slice(&out.bytes.into_bytes()).expect("json");
    assert_eq!(value["prompt_filter_results"][0]["content_filter_results"], clean);
    assert_eq!(value["choices"][0]["content_filter_results"], filtered);
    assert_eq!(value["choices"][0]["message"]["content"], "so ");
}

#[test]
fn padded_streams_say_the_same_in_few_lengths() {
    for phrases in [json!([]), json!(["ab"])] {
        let texts = ["a", "bc", "déjà vu", "x", "a longer text than the others are"];
        let event = |text: &str| {
            format!("data: {}\n\n", json!({"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]}))
        };
        let stream = texts.map(event).concat() + "data: [DONE]\n\n";
        let mut framer = Framer::new(1 << 20);
        let mut frames = Vec::new();
        framer.push(Bytes::from(stream), &mut frames).expect("an event stream");
        let admitted = admitted_by(json!({"deny_list": {"phrases": phrases}}));
        let out = Gate::new(admitted, 1, (Answers::Choices, false)).padded(7).frames(frames).bytes.into_bytes();
        let mut lengths = Vec::new();
        Decoder::new(1 << 20)
            .push(&out, |event| lengths.extend((!wire::sse::is_done(&event.data)).then_some(event.data.len())))
            .expect("an event stream");
        lengths.sort_unstable();
        lengths.dedup();
        assert!(lengths.len() <= 2, "{lengths:?}");
        let said: String = read(&out).texts.into_values().collect();
        assert_eq!(said, texts.concat());
    }
}
