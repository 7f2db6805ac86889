//! Phrases that are replaced or noted in prompts, through the public gate.

use policy::{Facts, Moment, Obligation, Policy, Presented, Rejection};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::ops::Range;
use std::time::Duration;
use wire::openai::endpoint::{CHAT, COMPLETIONS};
use wire::openai::scan::{Limits, scan};
use wire::openai::splice::splice;

/// The body that goes on, and the labels.
fn decide(config: &Value, body: &str) -> Result<(String, Vec<String>), Rejection> {
    let policy = Policy::new(&serde_json::from_value(config.clone()).expect("json")).expect("valid");
    let endpoint = if body.contains("\"messages\"") { &CHAT } else { &COMPLETIONS };
    let scan = scan(body.as_bytes(), endpoint, &Limits::default()).expect("a body");
    let who = policy.identify(Presented::Nothing, None, Moment(Duration::ZERO)).expect("anonymous");
    let admitted = policy.decide(&Facts { who: &who, endpoint, body: body.as_bytes(), scan: &scan })?;
    let (mut out, mut labels) = (body.to_owned(), Vec::new());
    for obligation in admitted.obligations() {
        match obligation {
            Obligation::Rewrite(edits) => {
                let bytes = splice(&body.to_owned().into(), edits).concat();
                out = String::from_utf8(bytes).expect("text");
            }
            Obligation::Annotate(label) => labels.push(label.to_string()),
        }
    }
    Ok((out, labels))
}

fn redact(phrases: &[&str]) -> Value {
    json!({"redact_list": {"phrases": phrases, "replacement": "[-x-]"}})
}

#[test]
fn what_is_replaced_is_replaced_everywhere_and_nothing_beside_it() {
    let config = redact(&["project nightjar", "nightjar egg", "毒"]);
    for (body, expected) in [
        (r#"{"prompt":"about Project\n NIGHTJAR!"}"#, r#"{"prompt":"about [-x-]!"}"#),
        (r#"{"prompt" : [ "a毒b" , "project nightjar" ] }"#, r#"{"prompt" : [ "a[-x-]b" , "[-x-]" ] }"#),
        (r#"{"prompt":"project nightjar egg"}"#, r#"{"prompt":"[-x-]"}"#),
        (r#"{"prompt":"毒毒"}"#, r#"{"prompt":"[-x-][-x-]"}"#),
        (r#"{"prompt":"project nightjars"}"#, r#"{"prompt":"project nightjars"}"#),
        (
            r#"{"prompt":"pro\u006aect \ud83e\udd80 pr\u006Fject nightja\u0072."}"#,
            r#"{"prompt":"pro\u006aect \ud83e\udd80 [-x-]."}"#,
        ),
        (r#"{"prompt":"x \ud83e\udd80\u6bd2\ud83e\udd80"}"#, r#"{"prompt":"x \ud83e\udd80[-x-]\ud83e\udd80"}"#),
        (
            r#"{"messages":[{"role":"user","content":"project nightjar","x":"project nightjar"}],"stop":"nightjar"}"#,
            r#"{"messages":[{"role":"user","content":"[-x-]","x":"[-x-]"}],"stop":"nightjar"}"#,
        ),
        (
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"project nightjar"},{"type":"text","text":"ok"}]}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"[-x-]"},{"type":"text","text":"ok"}]}]}"#,
        ),
        (
            r#"{"messages":[],"tools":[{"type":"function","function":{"name":"f","description":"of project nightjar"}}]}"#,
            r#"{"messages":[],"tools":[{"type":"function","function":{"name":"f","description":"of [-x-]"}}]}"#,
        ),
        (
            r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{\"q\":\"project nightjar\"}"}}]}]}"#,
            r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{\"q\":\"[-x-]\"}"}}]}]}"#,
        ),
        // What reaches no prompt is nobody's business.
        (r#"{"prompt":"x","user":"project nightjar"}"#, r#"{"prompt":"x","user":"project nightjar"}"#),
    ] {
        assert_eq!(decide(&config, body).expect(body).0, expected, "{body}");
    }
}

#[test]
fn a_replacement_is_escaped_where_it_stands() {
    let config = json!({"redact_list": {"phrases": ["secret"], "replacement": "a \"quoted\" \\ word é"}});
    let body = r#"{"messages":[{"role":"assistant","content":"secret","tool_calls":[{"function":{"arguments":"{\"q\":\"secret\"}"}}]}]}"#;
    let (out, _) = decide(&config, body).expect("admitted");
    let out: Value = serde_json::from_str(&out).expect("JSON");
    let wanted = "a \"quoted\" \\ word é";
    assert_eq!(out["messages"][0]["content"], wanted);
    let arguments = out["messages"][0]["tool_calls"][0]["function"]["arguments"].as_str().expect("text");
    assert_eq!(serde_json::from_str::<Value>(arguments).expect("JSON in JSON"), json!({"q": wanted}));
}

#[test]
fn what_cannot_be_replaced_is_refused() {
    let config = redact(&["project nightjar", "4111"]);
    for body in [
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"project"},{"type":"text","text":"nightjar"}]}]}"#,
        r#"{"messages":[{"role":"user","content":"nightjar","name":"project"}]}"#,
        r#"{"messages":[],"tools":[{"function":{"parameters":{"properties":{"project nightjar":{}}}}}]}"#,
        r#"{"messages":[],"tools":[{"function":{"parameters":{"default":4111}}}]}"#,
        r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"arguments":"{\"q\":\"pr\\u006fject nightjar\"}"}}]}]}"#,
    ] {
        let error = decide(&config, body).expect_err(body);
        assert!(matches!(error, Rejection::PromptNotRedactable { field: "messages" }), "{body}");
        assert_eq!(error.to_api_error().kind.status(), 400);
        assert!(!error.to_string().contains("nightjar"));
    }
    let error = decide(&config, r#"{"prompt":[1,2]}"#).expect_err("token ids");
    assert!(matches!(error, Rejection::PromptNotScreenable { field: "prompt" }));
    let many = format!(r#"{{"prompt":"{}"}}"#, "4111 ".repeat(65_537));
    assert!(matches!(decide(&config, &many), Err(Rejection::PromptNotRedactable { .. })));
    let as_many_as_may = format!(r#"{{"prompt":"{}"}}"#, "4111 ".repeat(65_536));
    assert_eq!(decide(&config, &as_many_as_may).expect("admitted").0.matches("[-x-]").count(), 65_536);
}

/// A phrase at a text's end is that text's, whatever follows.
#[test]
fn a_phrase_beside_a_joint_is_replaced() {
    let config = redact(&["secret", "毒"]);
    for (one, two) in [
        ("a secret", "b"),
        ("a secret", " b"),
        ("a secret", "."),
        ("x", "secret b"),
        ("毒", "毒"),
        ("secret", "secret"),
    ] {
        let parts = json!([{"type": "text", "text": one}, {"type": "text", "text": two}]);
        let body = json!({"messages": [{"role": "user", "content": parts, "name": "secret"}]}).to_string();
        let (out, _) = decide(&config, &body).expect(&body);
        assert!(!out.contains("secret") && !out.contains('毒'), "{out}");
    }
}

#[test]
fn labels_are_noted_once_and_change_nothing() {
    let config = json!({
        "annotate_lists": [{"label": "legal", "phrases": ["lawsuit", "court of law"]}, {"label": "health", "phrases": ["flu"]}],
        "deny_list": {"phrases": ["bomb"]},
        "redact_list": {"phrases": ["lawsuit"]},
    });
    for (body, expected, labels) in [
        (r#"{"prompt":"a lawsuit, a Lawsuit"}"#, r#"{"prompt":"a [redacted], a [redacted]"}"#, vec!["legal"]),
        (
            r#"{"prompt":"flu in the court  of law"}"#,
            r#"{"prompt":"flu in the court  of law"}"#,
            vec!["legal", "health"],
        ),
        (r#"{"prompt":"fluent"}"#, r#"{"prompt":"fluent"}"#, vec![]),
    ] {
        let (out, found) = decide(&config, body).expect(body);
        assert_eq!((out.as_str(), found), (expected, labels.into_iter().map(String::from).collect()), "{body}");
    }
    let parts =
        r#"{"messages":[{"role":"user","content":[{"text":"court"},{"text":"of"},{"text":"law"}],"name":"x"}]}"#;
    assert_eq!(decide(&config, parts).expect("admitted"), (parts.to_owned(), vec!["legal".to_owned()]), "over joints");
    let hidden = r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"arguments":"\"\\u0066lu\""}}]}]}"#;
    assert_eq!(decide(&config, hidden).expect("admitted").1, ["health"]);
    assert!(matches!(decide(&config, r#"{"prompt":"a lawsuit, a bomb"}"#), Err(Rejection::PromptBlocked { .. })));
    let tokens = json!({"annotate_lists": [{"label": "legal", "phrases": ["lawsuit"]}]});
    assert!(decide(&tokens, r#"{"prompt":[1,2]}"#).is_ok(), "nothing depends on a note");
}

#[test]
fn wrong_lists_are_named() {
    for (config, field) in [
        (json!({"redact_list": {"phrases": ["a", " "]}}), "redact_list.phrases[1]"),
        (json!({"redact_list": {"phrases": ["a"], "replacement": ""}}), "redact_list.replacement"),
        (json!({"redact_list": {"phrases": ["a"], "replacement": "***"}}), "redact_list.replacement"),
        (json!({"redact_list": {"phrases": ["a"], "replacement": "<a>"}}), "redact_list.replacement"),
        (json!({"redact_list": {"phrases": ["a"], "replacement": "b\n"}}), "redact_list.replacement"),
        (json!({"redact_list": {"phrases": ["a"], "replacement": "b".repeat(65)}}), "redact_list.replacement"),
        (json!({"redact_list": {"phrases": ["a"]}, "deny_list": {"phrases": ["redacted"]}}), "redact_list.replacement"),
        (json!({"annotate_lists": [{"label": "a b", "phrases": ["x"]}]}), "annotate_lists[0].label"),
        (
            json!({"annotate_lists": [{"label": "a", "phrases": ["x"]}, {"label": "a", "phrases": ["y"]}]}),
            "annotate_lists[1].label",
        ),
        (json!({"annotate_lists": [{"label": "a", "phrases": []}]}), "annotate_lists[0].phrases"),
        (json!({"annotate_lists": [{"label": "a", "phrases": ["x", "\u{301}"]}]}), "annotate_lists[0].phrases[1]"),
    ] {
        let error = Policy::new(&serde_json::from_value(config.clone()).expect("json")).expect_err(field);
        assert_eq!(error.field, field, "{config}");
    }
}

const PHRASES: [&str; 3] = ["ab", "b a b", "毒"];

/// The text that must stand in another's place, by trying every phrase at every place.
fn reference(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let is_word = |at: usize| characters.get(at).is_some_and(|character| "abAB".contains(*character));
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for start in 0..characters.len() {
        for phrase in PHRASES {
            let Some(end) = end_of(phrase, &characters, start) else { continue };
            let goes_on = (start > 0 && is_word(start - 1)) || is_word(end);
            let is_whole = phrase == "毒" || !goes_on;
            if is_whole {
                ranges.push(start..end);
            }
        }
    }
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut out = String::new();
    let mut at = 0;
    let mut ranges = ranges.into_iter().peekable();
    while let Some(mut range) = ranges.next() {
        while let Some(next) = ranges.next_if(|next| next.start < range.end) {
            range.end = range.end.max(next.end);
        }
        out.extend(&characters[at..range.start]);
        out.push_str("[-x-]");
        at = range.end;
    }
    out.extend(&characters[at..]);
    out
}

fn end_of(phrase: &str, characters: &[char], start: usize) -> Option<usize> {
    let mut at = start;
    for wanted in phrase.chars() {
        if !characters.get(at)?.to_lowercase().eq([wanted]) {
            return None;
        }
        at += 1;
        while wanted == ' ' && characters.get(at) == Some(&' ') {
            at += 1;
        }
    }
    Some(at)
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!['a', 'b', 'B', ' ', '.', '毒', '🦀', '"', '\\']), 0..24)
        .prop_map(|characters| characters.into_iter().collect())
}

/// A text as JSON, each character escaped or not by `ways`.
fn spelt(text: &str, ways: u64) -> String {
    let character = |(place, character): (usize, char)| {
        if ways >> (place % 64) & 1 == 1 {
            return character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect();
        }
        let quoted = Value::from(character.to_string()).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    };
    format!("\"{}\"", text.chars().enumerate().map(character).collect::<String>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever is escaped how: the values are the reference's, and every byte outside the replacements is the
    /// client's.
    #[test]
    fn a_rewritten_body_differs_in_the_phrases_alone(texts in prop::collection::vec((text(), any::<u64>()), 1..4), is_chat: bool) {
        let spelt: Vec<String> = texts.iter().map(|(text, ways)| spelt(text, *ways)).collect();
        // Messages of users are not joined by templates.
        let body = if is_chat {
            let message = |text: &String| format!(r#"{{"role": "user" ,"content":{text}}}"#);
            format!("{{\"messages\" :[{}]}}", spelt.iter().map(message).collect::<Vec<_>>().join(" , "))
        } else {
            format!("{{\"prompt\" :[{}], \"n\":1}}", spelt.join(" , "))
        };
        let Ok((out, _)) = decide(&redact(&PHRASES), &body) else {
            // Over a joint between messages.
            prop_assert!(is_chat && texts.len() > 1, "{}", body);
            return Ok(());
        };
        let mut expected: Value = serde_json::from_str(&body).expect("JSON");
        for (place, (text, _)) in texts.iter().enumerate() {
            let at = if is_chat { &mut expected["messages"][place]["content"] } else { &mut expected["prompt"][place] };
            *at = reference(text).into();
        }
        prop_assert_eq!(&serde_json::from_str::<Value>(&out).expect("still JSON"), &expected, "{}", body);
        // The pieces between replacements stand in the original, in order and with nothing between but phrases.
        let mut rest = body.as_str();
        for piece in out.split("[-x-]") {
            let at = rest.find(piece);
            prop_assert!(at.is_some(), "{piece:?} is not the client's: {}", body);
            rest = &rest[at.unwrap_or_default() + piece.len()..];
        }
    }
}
