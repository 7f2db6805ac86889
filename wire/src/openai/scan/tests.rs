//! Tests of the scan, case by case; `tests/hostile.rs` compares it with serde_json on any bytes.

use super::{Joint, Limits, Scan, TextRole, scan};
use crate::openai::endpoint::{CHAT, COMPLETIONS, Endpoint};
use crate::openai::error::ApiError;
use proptest::prelude::*;
use serde_json::{Value, json};

fn of(endpoint: &'static Endpoint, body: &str) -> Result<Scan, ApiError> {
    scan(body.as_bytes(), endpoint, &Limits::default())
}

fn chat(body: &str) -> Scan {
    of(&CHAT, body).expect(body)
}

fn refused(endpoint: &'static Endpoint, body: &str) -> (Option<String>, String) {
    let error = of(endpoint, body).expect_err(body);
    assert_eq!(error.kind.status(), 400, "{body}");
    (error.param, error.message)
}

fn texts(scan: &Scan, body: &str) -> Vec<String> {
    scan.texts().iter().map(|text| text.read(body.as_bytes()).into_owned()).collect()
}

#[test]
fn finds_what_a_router_needs() {
    let body = r#" {"mo\u0064el":"a\u002fb","stream":true,"n":2.0,"max_tokens":1e2,"messages":[],"top_p":null}"#;
    let found = chat(body);
    assert_eq!(found.model(body.as_bytes()).expect("a model"), "a/b");
    assert_eq!((found.stream(), found.n(), found.max_tokens()), (true, 2, Some(100)));
    assert_eq!(found.field("top_p"), None);
    assert_eq!(found.field("n").expect("there").of(body.as_bytes()), b"2.0");
    assert!(found.unknown().is_empty());
}

#[test]
fn a_byte_order_mark_is_accepted() {
    assert_eq!(chat("\u{feff}{\"model\":\"m\"}").n(), 1);
}

#[test]
fn parts_continue_one_text_whatever_stands_between() {
    let body = r#"{"messages":[{"content":[{"type":"text","text":"for","note":"x"},{"note":"y","text":"bidden"},"!"],
        "name":"n","role":"user"}]}"#;
    let found = chat(body);
    let content: Vec<_> = found.texts().iter().take(3).map(|text| (text.joint, text.role)).collect();
    assert_eq!(texts(&found, body)[..3], ["for", "bidden", "!"]);
    let user = TextRole::User;
    assert_eq!(content, [(Joint::Starts, user), (Joint::Continues, user), (Joint::Continues, user)]);
    for beside in ["note", "x", "y", "name", "n"] {
        assert!(texts(&found, body).contains(&beside.to_owned()), "{beside}");
    }
    assert_eq!(found.unknown(), ["messages[0].content[0].note", "messages[0].content[1].note", "messages[0].name"]);
}

#[test]
fn messages_that_templates_join_continue() {
    let joint = |first: &str, second: &str| {
        let messages = json!([{"role": first, "content": "a"}, {"content": "b", "role": second, "name": "c"}]);
        chat(&json!({"messages": messages}).to_string()).texts()[1].joint
    };
    for (first, second) in
        [("user", "user"), ("assistant", "assistant"), ("system", "user"), ("developer", "user"), ("user", "system")]
    {
        assert_eq!(joint(first, second), Joint::Continues, "{first} {second}");
    }
    assert_eq!(joint("user", "assistant"), Joint::Starts);
}

#[test]
fn every_place_that_can_reach_a_prompt_is_found() {
    let places = [
        r#"{"messages":[{"role":"user","content":"X"}]}"#,
        r#"{"messages":[{"role":"X","content":"a"}]}"#,
        r#"{"messages":[{"role":"user","content":"a","name":"X"}]}"#,
        r#"{"messages":[{"role":"assistant","reasoning_content":"X"}]}"#,
        r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"X"}}]}]}"#,
        r#"{"messages":[{"role":"assistant","tool_calls":[{"id":"X"}]}]}"#,
        r#"{"messages":[{"role":"user","content":[{"type":"file","file":{"deep":[["X"]]}}]}]}"#,
        r#"{"messages":[{"role":"user","content":[{"type":"X"}]}]}"#,
        r#"{"messages":[{"role":"user","X":1}]}"#,
        r#"{"tools":[{"function":{"parameters":{"properties":{"X":{}}}}}]}"#,
        r#"{"tools":[{"function":{"description":"X"}}]}"#,
        r#"{"functions":[{"name":"X"}]}"#,
        r#"{"chat_template_kwargs":{"a":{"b":["X"]}}}"#,
        r#"{"chat_template_kwargs":{"X":true}}"#,
        r#"{"documents":[{"title":"a","text":"X"}]}"#,
        r#"{"chat_template":"X"}"#,
        r#"{"reasoning_effort":"X"}"#,
        r#"{"response_format":{"type":"json_schema","json_schema":{"name":"X"}}}"#,
        r#"{"nobody_knows":"X"}"#,
        r#"{"Messages":[{"Content":"X"}]}"#,
        r#"{"stream_options":{"a":"X"}}"#,
        r#"{"prompt":"X"}"#,
        r#"{"prompt":["a","X"]}"#,
        r#"{"suffix":"X"}"#,
        r#"{"input":"X"}"#,
        r#"{"instructions":"X"}"#,
    ];
    for endpoint in [&CHAT, &COMPLETIONS] {
        for place in places {
            // A phrase that is escaped is a phrase.
            for phrase in ["project nightjar", r"project\u0020nightjar"] {
                let body = place.replace('X', phrase);
                let found = of(endpoint, &body).expect(&body);
                assert!(texts(&found, &body).contains(&"project nightjar".to_owned()), "{body}");
            }
        }
    }
    // Numbers too: a template may write them.
    let body = r#"{"chat_template_kwargs":{"a":5551234}}"#;
    assert!(texts(&chat(body), body).contains(&"5551234".to_owned()));
}

#[test]
fn a_word_of_the_api_is_a_text_where_it_is_no_name_and_no_type() {
    let places = [
        r#"{"chat_template_kwargs":{"a":"X"}}"#,
        r#"{"chat_template_kwargs":{"type":"X"}}"#,
        r#"{"chat_template_kwargs":{"X":true}}"#,
        r#"{"documents":[{"X":"a"}]}"#,
        r#"{"messages":[{"role":"user","content":"X"}]}"#,
        r#"{"messages":[{"role":"user","content":"a","new":{"a":"X"}}]}"#,
        r#"{"tools":[{"function":{"description":"X"}}]}"#,
        r#"{"tools":[{"function":{"parameters":{"properties":{"a":{"enum":["X"]}}}}}]}"#,
        r#"{"nobody_knows":["X"]}"#,
    ];
    for place in places {
        for word in ["text", "function", "string", "null"] {
            let body = place.replace('X', word);
            assert!(texts(&chat(&body), &body).contains(&word.to_owned()), "{body}");
        }
    }
    let body = r#"{"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]}"#;
    assert_eq!(texts(&chat(body), body), ["f"]);
}

#[test]
fn fields_that_reach_no_prompt_are_not_texts() {
    let body = r#"{"model":"a","user":"b","stop":["c"],"metadata":{"d":"e"},"cache_salt":"f","messages":[]}"#;
    assert_eq!(texts(&chat(body), body), [""; 0]);
}

#[test]
fn arguments_are_told_from_other_texts() {
    let call = json!([{"function": {"name": "f", "arguments": "{\"city\":\"Paris\"}"}}]);
    let body = json!({"messages": [{"role": "assistant", "tool_calls": call}]}).to_string();
    let roles: Vec<_> = chat(&body).texts().iter().map(|text| text.role).collect();
    assert_eq!(roles, [TextRole::Assistant, TextRole::Arguments]);
}

#[test]
fn prompts_and_token_ids_are_counted() {
    let cases = [(r#""a""#, 1, 0), (r#"["a",""]"#, 2, 0), ("[1,2]", 1, 2), ("[[1],[2,3],[]]", 3, 3), ("[1.0]", 1, 1)];
    for (prompt, prompts, token_ids) in cases {
        let found = of(&COMPLETIONS, &format!(r#"{{"prompt":{prompt}}}"#)).expect(prompt);
        assert_eq!((found.prompts(), found.token_ids()), (prompts, token_ids), "{prompt}");
    }
}

#[test]
fn wrong_types_are_refused_with_their_path() {
    let cases: [(&Endpoint, &str, &str); 22] = [
        (&CHAT, r#"{"model":3}"#, "model"),
        (&CHAT, r#"{"model":["a"]}"#, "model"),
        (&CHAT, r#"{"stream":"true"}"#, "stream"),
        (&CHAT, r#"{"n":1.5}"#, "n"),
        (&CHAT, r#"{"n":-1}"#, "n"),
        (&CHAT, r#"{"n":1e300}"#, "n"),
        (&CHAT, r#"{"max_tokens":"5"}"#, "max_tokens"),
        (&CHAT, r#"{"temperature":{}}"#, "temperature"),
        (&CHAT, r#"{"messages":{}}"#, "messages"),
        (&CHAT, r#"{"messages":[["user","project nightjar",null]]}"#, "messages[0]"),
        (&CHAT, r#"{"messages":[{"role":"user","content":"a"},"b"]}"#, "messages[1]"),
        (&CHAT, r#"{"messages":[{"content":{"text":"a"}}]}"#, "messages[0].content"),
        (&CHAT, r#"{"messages":[{"content":5}]}"#, "messages[0].content"),
        (&CHAT, r#"{"messages":[{"content":["a",["text","b"]]}]}"#, "messages[0].content[1]"),
        (&CHAT, r#"{"messages":[{"content":[{"text":["b"]}]}]}"#, "messages[0].content[0].text"),
        (&CHAT, r#"{"messages":[{"role":["user"]}]}"#, "messages[0].role"),
        (&CHAT, r#"{"chat_template_kwargs":[]}"#, "chat_template_kwargs"),
        (&CHAT, r#"{"stream_options":[true]}"#, "stream_options"),
        (&CHAT, r#"{"stream_options":{"include_usage":1}}"#, "stream_options.include_usage"),
        (&COMPLETIONS, r#"{"prompt":{"a":1}}"#, "prompt"),
        (&COMPLETIONS, r#"{"prompt":[1,"a"]}"#, "prompt[1]"),
        (&COMPLETIONS, r#"{"prompt":[[1],["a"]]}"#, "prompt[1][0]"),
    ];
    for (endpoint, body, path) in cases {
        assert_eq!(refused(endpoint, body).0.as_deref(), Some(path), "{body}");
    }
}

#[test]
fn a_known_member_twice_is_refused() {
    let cases = [
        (r#"{"model":"a","model":"b"}"#, "model"),
        (r#"{"model":"a","mod\u0065l":"b"}"#, "model"),
        (r#"{"model":null,"model":"b"}"#, "model"),
        (r#"{"messages":[{"content":"a","role":"user","content":"b"}]}"#, "messages[0].content"),
        (r#"{"messages":[{"content":[{"text":"a","t\u0065xt":"b"}]}]}"#, "messages[0].content[0].text"),
        (r#"{"stream_options":{"include_usage":true,"include_usage":false}}"#, "stream_options.include_usage"),
    ];
    for (body, path) in cases {
        let (param, message) = refused(&CHAT, body);
        assert_eq!(param.as_deref(), Some(path), "{body}");
        assert!(message.contains("twice"), "{message}");
    }
    // A member that nobody knows may: both are texts.
    let body = r#"{"x":"a","x":"b"}"#;
    assert_eq!(texts(&chat(body), body), ["x", "a", "x", "b"]);
}

#[test]
fn malformed_bodies_say_where() {
    let cases: [(&[u8], &str); 14] = [
        (b"", "ends where a JSON object was expected"),
        (b"{", "ends where"),
        (b"[1]", "expected a JSON object at line 1 column 1"),
        (b"{} x", "expected the end of the body at line 1 column 4"),
        (b"{\"a\":01}", "line 1 column 7"),
        (b"{\"a\":1,}", "expected a member's name at line 1 column 8"),
        (b"{\"a\":\n nul}", "line 2 column 2 in `a`"),
        (b"{\"a\":NaN}", "expected a value"),
        (b"{\"a\":[1 2]}", "`,` or `]`"),
        (
            b"{\"messages\":[{\"content\":\"a\nb\"}]}",
            "control characters to be escaped in strings at line 1 column 27 in `messages[0].content`",
        ),
        (b"{\"messages\":[{\"content\":\"\\q\"}]}", "a string in `messages[0].content` holds an invalid escape"),
        (b"{\"messages\":[{\"content\":\"\\ud800\"}]}", "invalid escape"),
        (b"{\"messages\":[{\"content\":\"\\udc00\\ud800\"}]}", "invalid escape"),
        (b"{\"messages\":[{},{\"content\":\"\xff\"}]}", "a string in `messages[1].content` is not UTF-8"),
    ];
    for (body, words) in cases {
        let error = scan(body, &CHAT, &Limits::default()).expect_err("refused");
        assert!(error.message.contains(words), "{words} | {}", error.message);
        assert!(error.message.contains("the body is not"), "{}", error.message);
    }
}

#[test]
fn what_is_recorded_is_bounded() {
    let limits = Limits { depth: 8, texts: 4, prompts: 2 };
    let within = |endpoint, body: &str| scan(body.as_bytes(), endpoint, &limits).map_err(|error| error.message);
    let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    assert!(within(&CHAT, &deep(8)).is_ok());
    assert!(within(&CHAT, &deep(9)).expect_err("deep").contains("more than 8 levels"));
    assert!(within(&COMPLETIONS, r#"{"prompt":["a","b"]}"#).is_ok());
    assert!(within(&COMPLETIONS, r#"{"prompt":["a","b","c"]}"#).expect_err("many").contains("more than 2 prompts"));
    assert!(within(&COMPLETIONS, r#"{"prompt":[[],[],[]]}"#).expect_err("many").contains("more than 2 prompts"));
    let contents = |count: usize| json!({"messages": [{"content": vec!["a"; count]}]}).to_string();
    assert!(within(&CHAT, &contents(4)).is_ok());
    assert!(within(&CHAT, &contents(5)).expect_err("many").contains("more than 4 texts"));
    assert!(within(&CHAT, r#"{"tools":["a","b","c","d","e"]}"#).expect_err("many").contains("more than 4 texts"));
    let members: String = (0..1_025).map(|index| format!("\"{index}\":0,")).collect();
    assert!(of(&CHAT, &format!("{{{members}\"n\":1}}")).expect_err("many").message.contains("1024 members"));
}

#[test]
fn deep_nesting_does_not_recurse() {
    for open in ["[", r#"{"a":"#, r#"{"messages":["#] {
        assert!(of(&CHAT, &format!("{{\"a\":{}", open.repeat(200_000))).is_err());
    }
}

/// 16 MiB took over 1 GB and 15 s while they were built as values.
#[test]
fn a_body_of_brackets_costs_little() {
    let body = format!("{{\"messages\":[],\"a\":[{}[]]}}", "[[]],[],{\"\":[]},".repeat(1 << 20));
    let begun = std::time::Instant::now();
    let error = of(&CHAT, &body).expect_err("a million names");
    assert!(error.message.contains("more than 65536 texts"), "{}", error.message);
    let body = body.replace("{\"\":[]}", "[[[]]]");
    assert!(chat(&body).texts().len() == 1);
    println!("{} MiB in {:?}", body.len() >> 20, begun.elapsed());
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "linear, also without optimisation");
}

#[test]
fn odd_names_fit_a_header() {
    let names = ["a\\nb", "x, y", "ü", "%", "\\\"", "", &"n".repeat(600_000), &"\\u0001".repeat(100)];
    for name in names {
        let found = chat(&format!("{{\"{name}\":1}}"));
        let [unknown] = found.unknown() else { panic!("one name for {name:.20}") };
        assert!(
            unknown.len() <= 64 && unknown.bytes().all(|byte| byte.is_ascii_graphic() && byte != b','),
            "{unknown}"
        );
    }
    assert_eq!(chat(r#"{"a\nb":1}"#).unknown(), ["a%0Ab"]);
    let many: Vec<String> = (0..100).map(|index| format!("\"{index}\":0")).collect();
    assert_eq!(chat(&format!("{{{}}}", many.join(","))).unknown().len(), 32);
}

proptest! {
    #[test]
    fn a_string_is_read_as_serde_reads_it(text in any::<String>(), ascii in any::<bool>()) {
        let mut json = Value::from(text.clone()).to_string();
        if ascii {
            json = json.chars().map(|char| match char {
                ' '..='~' => char.to_string(),
                _ => char.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
            }).collect();
        }
        let raw = &json.as_bytes()[1..json.len() - 1];
        prop_assert_eq!(super::unescape(raw), text);
    }

    #[test]
    fn what_is_no_json_comes_through_unescaping(text in "[\\\\ud8c0\"a-f0-9é]{0,40}") {
        _ = super::unescape(text.as_bytes());
    }
}

/// A string written with escapes at random: each character as it is, by its short escape or by its code units.
fn written() -> impl Strategy<Value = Vec<(char, String)>> {
    let character = prop_oneof![
        any::<char>(),
        prop::sample::select(vec!['"', '\\', '\n', '/', 'a', 'é', '毒', '🦀', '\u{8}', '\u{301}'])
    ];
    let one = (character, 0_u8..3).prop_map(|(character, way)| {
        let plain = Value::from(character.to_string()).to_string();
        let plain = plain[1..plain.len() - 1].to_owned();
        let units = character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04X}")).collect();
        (character, if way == 0 { units } else { plain })
    });
    prop::collection::vec(one, 0..30)
}

proptest! {
    /// However a string is escaped, a range of its characters is found where these stand, and nothing beside them.
    #[test]
    fn a_range_of_characters_stands_where_its_escapes_do(written in written(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(written.len() + 1)).collect();
        cuts.sort_unstable();
        let raw: String = written.iter().map(|(_, raw)| raw.as_str()).collect();
        let body = format!(r#"{{"messages":[{{"role":"user","content":"{raw}"}}]}}"#);
        let found = chat(&body);
        let Some(text) = found.content_and_beside().0.first() else { return Ok(()) };
        let characters = |upto: usize| written[..upto].iter().map(|(character, _)| character.len_utf8()).sum::<usize>();
        let raws = |upto: usize| text.raw.start + written[..upto].iter().map(|(_, raw)| raw.len() as u32).sum::<u32>();
        let ranges: Vec<_> = cuts.chunks_exact(2).map(|pair| characters(pair[0])..characters(pair[1])).collect();
        let places = text.places(body.as_bytes(), &ranges).expect("a string's value");
        let expected: Vec<_> = cuts.chunks_exact(2).map(|pair| (raws(pair[0]), raws(pair[1]))).collect();
        prop_assert_eq!(places.iter().map(|place| (place.start, place.end)).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn names_and_numbers_have_no_places() {
    let body = r#"{"messages":[],"x":{"secret" : 4111, "y":"secret"}}"#;
    let found = chat(body);
    let with_places: Vec<_> = found.texts().iter().filter(|text| text.places(body.as_bytes(), &[]).is_some()).collect();
    assert_eq!(with_places.iter().map(|text| text.read(body.as_bytes())).collect::<Vec<_>>(), ["secret"]);
    assert_eq!(texts(&found, body).iter().filter(|text| *text == "secret").count(), 2);
}

#[test]
fn a_replacement_is_escaped_as_often_as_its_text() {
    let body = r#"{"messages":[{"role":"assistant","content":"x","tool_calls":[{"function":{"arguments":"{}"}}]}]}"#;
    let found = chat(body);
    let escaped: Vec<_> = found.texts().iter().map(|text| (text.role, text.escape("\"\n"))).collect();
    assert!(escaped.contains(&(TextRole::Assistant, r#"\"\n"#.into())), "{escaped:?}");
    assert!(escaped.contains(&(TextRole::Arguments, r#"\\\"\\n"#.into())), "{escaped:?}");
}
