//! Bytes of strangers: whatever arrives is parsed or refused, and what is parsed keeps its promises
//! (see `claims/requests.rs`).

#[path = "claims/requests.rs"]
mod claims;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// Keys that some parser of ours knows, and some that none does.
const KEYS: [&str; 30] = [
    "model",
    "messages",
    "role",
    "content",
    "type",
    "text",
    "prompt",
    "n",
    "stream",
    "stop",
    "max_tokens",
    "seed",
    "temperature",
    "top_p",
    "logit_bias",
    "logprobs",
    "stream_options",
    "include_usage",
    "suffix",
    "note",
    "id",
    "name",
    "input",
    "chat_template_kwargs",
    "tools",
    "tool_calls",
    "arguments",
    "max_completion_tokens",
    "stop_token_ids",
    "mod\u{65}l\n",
];

/// Any JSON, made of words that matter here.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        select(vec![-1, 0, 1, 2, 16, 17, 300, i64::MAX]).prop_map(Value::from),
        select(vec![-2.5, -0.0, 0.7, 2.0, 1e300]).prop_map(Value::from),
        select(vec!["", "a", "bc", "user", "assistant", "tool", "text", "\u{0}", "é\n"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((select(KEYS.to_vec()), inner), 0..5)
                .prop_map(|entries| entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

/// A part of a message that is text, perhaps with something more in it.
fn part() -> impl Strategy<Value = Value> {
    ("[a-z]{0,3}", select(KEYS.to_vec()), proptest::option::of(json())).prop_map(|(text, key, extra)| {
        let mut part = json!({});
        if let Some(extra) = extra {
            part[key] = extra;
        }
        part["type"] = "text".into();
        part["text"] = text.into();
        part
    })
}

/// A chat that is mostly right, with any other field beside.
fn chat() -> impl Strategy<Value = Value> {
    let message = (select(vec!["user", "assistant", "system"]), vec(part(), 0..4), select(KEYS.to_vec()), json());
    (vec(message, 0..4), select(KEYS.to_vec()), json(), any::<bool>()).prop_map(|(messages, key, value, extra)| {
        let mut body = json!({"model": "m"});
        if extra {
            body[key] = value;
        }
        let message = |(role, parts, key, value): (&str, Vec<Value>, &str, Value)| {
            let mut message = json!({});
            message[key] = value;
            message["role"] = role.into();
            message["content"] = parts.into();
            message
        };
        body["messages"] = messages.into_iter().map(message).collect();
        body
    })
}

fn completion() -> impl Strategy<Value = Value> {
    let prompt = prop_oneof![
        json(),
        vec("[a-z]{0,3}", 0..4).prop_map(Value::from),
        vec(vec(0_u32..9, 0..3), 0..4).prop_map(|lists| lists.into_iter().map(Value::from).collect()),
    ];
    (prompt, select(KEYS.to_vec()), json()).prop_map(|(prompt, key, value)| {
        let mut body = json!({"model": "m"});
        body[key] = value;
        body["prompt"] = prompt;
        body
    })
}

/// The JSON text with a few bytes changed and perhaps its end cut off.
fn mutated(json: impl Strategy<Value = Value>) -> impl Strategy<Value = Vec<u8>> {
    let edits = vec((any::<Index>(), any::<u8>()), 0..3);
    (json, edits, proptest::option::weighted(0.2, any::<Index>())).prop_map(|(json, edits, cut)| {
        let mut bytes = json.to_string().into_bytes();
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    })
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_refused(body in vec(any::<u8>(), 0..100)) {
        claims::chat_request(&body);
        claims::completion_request(&body);
        claims::embeddings_request(&body);
        claims::scanned(&body);
        claims::model_list(&body);
    }

    #[test]
    fn any_list_of_models_is_read_or_refused(data in vec(json(), 0..5), ids in vec("[a-z/]{0,9}", 5), created in any::<f64>()) {
        let mut data = data;
        for (entry, id) in data.iter_mut().zip(ids) {
            if let Some(object) = entry.as_object_mut() {
                object.insert("id".into(), id.into());
                object.insert("created".into(), json!(created));
            }
        }
        for list in [json!(data), json!({"data": data})] {
            claims::model_list(list.to_string().as_bytes());
        }
    }

    #[test]
    fn the_scan_reads_what_serde_json_reads(any in json(), chat in chat(), completion in completion()) {
        for body in [any, chat, completion] {
            claims::scanned(body.to_string().as_bytes());
            claims::scanned(serde_json::to_string_pretty(&body).expect("json").as_bytes());
        }
    }

    #[test]
    fn the_scan_refuses_what_serde_json_refuses(chat in mutated(chat()), completion in mutated(completion())) {
        claims::scanned(&chat);
        claims::scanned(&completion);
    }

    #[test]
    fn the_scan_knows_where_json_ends(
        words in vec(select(vec!["{", "}", "[", "]", ",", ":", "\"a\"", "\"model\"", "\"\\u00", "e9\"", "-1", "0", ".5",
            "1e2", "true", "null", " ", "\"messages\"", "\"content\"", "\"prompt\"", "\\", "\"", "\u{feff}"]), 0..24),
    ) {
        claims::scanned(words.concat().as_bytes());
        claims::scanned(format!("{{{}}}", words.concat()).as_bytes());
        claims::scanned(format!("{{\"messages\":[{{{}}}]}}", words.concat()).as_bytes());
    }

    #[test]
    fn any_json_is_a_request_or_refused(body in json()) {
        claims::chat_request(body.to_string().as_bytes());
        claims::completion_request(body.to_string().as_bytes());
        claims::embeddings_request(body.to_string().as_bytes());
    }

    #[test]
    fn chats_with_any_field_beside_are_screened_in_full_or_refused(body in chat()) {
        claims::chat_request(body.to_string().as_bytes());
    }

    #[test]
    fn completions_with_any_field_beside_are_screened_in_full_or_refused(body in completion()) {
        claims::completion_request(body.to_string().as_bytes());
    }

    #[test]
    fn embeddings_with_any_field_beside_are_screened_in_full_or_refused(body in completion()) {
        let mut body = body;
        body["input"] = body["prompt"].take();
        claims::embeddings_request(body.to_string().as_bytes());
    }

    #[test]
    fn damaged_requests_are_parsed_or_refused(chat in mutated(chat()), completion in mutated(completion())) {
        claims::chat_request(&chat);
        claims::completion_request(&completion);
    }

    #[test]
    fn any_event_stream_is_decoded_alike_however_it_is_cut(
        cuts in any::<[u8; 2]>(),
        pieces in vec(select(vec!["data:", "data: ", "event: x", "\n", "\r\n", "\r", ":", "a", "é", "\u{feff}", "\u{0}"]), 0..40),
        noise in vec(any::<u8>(), 0..4),
    ) {
        claims::event_stream(&[cuts.as_slice(), pieces.concat().as_bytes(), &noise].concat());
    }
}

#[test]
fn deep_nesting_is_refused_without_recursion() {
    for open in ["[", r#"{"a":"#, r#"{"model":"m","messages":["#] {
        let body = open.repeat(200_000);
        claims::chat_request(body.as_bytes());
        claims::completion_request(body.as_bytes());
        claims::embeddings_request(body.as_bytes());
    }
}
