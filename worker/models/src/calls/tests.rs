//! Calls told from text, in every format and however they are cut.

use super::*;
use proptest::prelude::*;

fn names() -> Vec<String> {
    ["weather", "add", "get-time"].map(str::to_owned).to_vec()
}

/// The parts of a text, adjacent ones put together.
fn read(format: &str, is_live: bool, pieces: &[&str]) -> Vec<Part> {
    let mut reader = Reader::new(Format::named(format).expect("a format"), names(), is_live);
    let mut parts: Vec<Part> = Vec::new();
    let all: Vec<Part> = pieces.iter().flat_map(|piece| reader.push(piece)).collect();
    for part in all.into_iter().chain(reader.finish()) {
        match (parts.last_mut(), &part) {
            (Some(Part::Text(before)), Part::Text(text)) => before.push_str(text),
            (Some(Part::Arguments { index, text }), Part::Arguments { index: next, text: more }) if index == next => {
                text.push_str(more);
            }
            _ => parts.push(part),
        }
    }
    parts
}

fn said(text: &str) -> Part {
    Part::Text(text.into())
}

fn call(index: u32, name: &str, arguments: &str) -> [Part; 2] {
    [Part::Call { index, name: name.into() }, Part::Arguments { index, text: arguments.into() }]
}

fn parts(parts: &[&[Part]]) -> Vec<Part> {
    parts.concat()
}

/// Texts, and what they are.
fn cases() -> Vec<(&'static str, &'static str, Vec<Part>)> {
    let one = || call(0, "weather", r#"{"city": "Par\"is}"}"#);
    vec![
        (
            "hermes",
            "Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Par\\\"is}\"}}\n</tool_call>",
            parts(&[&[said("Let me see.\n")], &one()]),
        ),
        (
            "hermes",
            "<tool_call>{\"arguments\": {\"city\": \"Par\\\"is}\"}, \"name\": \"weather\"}</tool_call>\n<tool_call>{\"name\":\"add\"}</tool_call> Done.",
            parts(&[&one(), &call(1, "add", "{}"), &[said(" Done.")]]),
        ),
        ("hermes", "a < b <tool_call> c", vec![said("a < b <tool_call> c")]),
        (
            "hermes",
            "<tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>",
            vec![said("<tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>")],
        ),
        (
            "hermes",
            "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": }}</tool_call>",
            vec![said("<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": }}</tool_call>")],
        ),
        ("hermes", "<tool_call>{\"name\": \"add\", \"argu", vec![said("<tool_call>{\"name\": \"add\", \"argu")]),
        (
            "hermes",
            "<tool_call>{\"name\": \"add\", \"arguments\": 7}",
            vec![said("<tool_call>{\"name\": \"add\", \"arguments\": 7}")],
        ),
        (
            "hermes",
            "<tool_call><tool_call>{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}",
            parts(&[&[said("<tool_call>")], &call(0, "add", "{\"a\": 1}")]),
        ),
        ("llama3_json", " {\"name\": \"add\", \"parameters\": {\"a\": 1}}", call(0, "add", "{\"a\": 1}").to_vec()),
        (
            "llama3_json",
            "<|python_tag|>{\"type\": \"function\", \"name\": \"add\", \"parameters\": {}}; {\"name\": \"get-time\", \"parameters\": {}}",
            parts(&[&call(0, "add", "{}"), &call(1, "get-time", "{}")]),
        ),
        ("llama3_json", "{\"colour\": \"blue\"}", vec![said("{\"colour\": \"blue\"}")]),
        ("llama3_json", "It is {\"name\": \"add\"}", vec![said("It is {\"name\": \"add\"}")]),
        ("llama3_json", "<|python", vec![said("<|python")]),
        (
            "json",
            "[{\"name\": \"add\", \"arguments\": {}} , {\"name\": \"add\", \"arguments\": {\"b\": []}}]\n",
            parts(&[&call(0, "add", "{}"), &call(1, "add", "{\"b\": []}")]),
        ),
        ("json", "[1, 2]", vec![said("[1, 2]")]),
        (
            "mistral",
            "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": [1]}}]",
            call(0, "add", "{\"a\": [1]}").to_vec(),
        ),
        (
            "mistral",
            "Hm.[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]get-time{\"b\": {}}",
            parts(&[&[said("Hm.")], &call(0, "add", "{\"a\": 1}"), &call(1, "get-time", "{\"b\": {}}")]),
        ),
        ("mistral", "[TOOL_CALLS]rm[ARGS]{}", vec![said("[TOOL_CALLS]rm[ARGS]{}")]),
        (
            "pythonic",
            "[weather(city='Par\\'is', days=[1, 2.5, None], deep={'a': (True, \"x\\n\")}), add()]",
            parts(&[
                &call(0, "weather", r#"{"city":"Par'is","days":[1,2.5,null],"deep":{"a":[true,"x\n"]}}"#),
                &call(1, "add", "{}"),
            ]),
        ),
        ("pythonic", "[weather(city=Paris)]", vec![said("[weather(city=Paris)]")]),
        ("pythonic", "[add(), rm()]", vec![said("[add(), rm()]")]),
        ("pythonic", "[1] a source", vec![said("[1] a source")]),
    ]
}

#[test]
fn calls_are_told_and_what_is_none_stays_text() {
    for (format, text, expected) in cases() {
        assert_eq!(read(format, false, &[text]), expected, "{format}: {text}");
    }
}

#[test]
fn a_guaranteed_call_is_told_as_it_comes() {
    let mut reader = Reader::new(Format::named("hermes").expect("a format"), names(), true);
    assert_eq!(reader.push("<tool_call>\n{\"name\": \"add\", "), []);
    assert_eq!(reader.push("\"arguments\": {\"a"), call(0, "add", "{\"a"));
    assert_eq!(reader.push("\": 1}"), [Part::Arguments { index: 0, text: "\": 1}".into() }]);
    assert_eq!(reader.push("}\n</tool_call>\n<tool_call>"), []);
    assert_eq!(reader.finish(), [], "of a call that was cut before its name nothing is told");
    assert!(reader.has_called());
    // Cut by the length of the answer: what was told stays told.
    let mut reader = Reader::new(Format::named("json").expect("a format"), names(), true);
    assert_eq!(reader.push("[{\"name\":\"add\",\"arguments\":{\"a\":"), call(0, "add", "{\"a\":"));
    assert_eq!(reader.finish(), []);
}

#[test]
fn of_guaranteed_calls_that_are_cut_nothing_is_text() {
    let one = r#"{"name": "add", "arguments": {"a": 1}}"#;
    for (format, text) in [
        ("hermes", format!("<tool_call>\n{one}\n</tool_call>\n<tool_call>\n{one}\n</tool_call>")),
        ("mistral", format!("[TOOL_CALLS][{one}, {one}]")),
        ("llama3_json", format!("{one}; {one}").replace("arguments", "parameters")),
        ("json", format!("[{one}, {one}]")),
    ] {
        for end in 0..=text.len() {
            let parts = read(format, true, &[&text[..end]]);
            assert!(!parts.iter().any(|part| matches!(part, Part::Text(_))), "{format}, {}: {parts:?}", &text[..end]);
        }
    }
    // What parts calls is no text either where none was guaranteed.
    assert_eq!(read("json", false, &[&format!("[{one}, ")]), call(0, "add", r#"{"a": 1}"#));
}

#[test]
fn a_format_is_known_by_its_name_and_by_a_template() {
    for (template, name) in [
        ("{{ '<tool_call>' }}", "hermes"),
        ("[AVAILABLE_TOOLS] … [TOOL_CALLS]", "mistral"),
        ("<|python_tag|>", "llama3_json"),
        ("[func_name1(params_name1=params_value1)]", "pythonic"),
        ("nothing", "json"),
    ] {
        assert_eq!(Format::of_template(template).name(), name);
    }
    assert_eq!(Format::named("qwen3").map(Format::name), Ok("hermes"));
    assert!(Format::named("smoke").expect_err("unknown").to_string().contains("pythonic"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_call_cut_anywhere_gives_the_same_parts(
        case in any::<prop::sample::Index>(), is_live in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let cases = cases();
        let (format, text, _) = &cases[case.index(cases.len())];
        prop_assert_eq!(cut(format, is_live, text, &cuts), read(format, is_live, &[text]));
    }

    /// Nothing is lost, nothing is invented: with no tool listed all of it is text.
    #[test]
    fn whatever_comes_is_read_the_same_however_it_is_cut(
        format in prop::sample::select(vec!["hermes", "llama3_json", "mistral", "pythonic", "json"]),
        is_live in any::<bool>(),
        pieces in prop::collection::vec(prop::sample::select(vec![
            "<tool_call>", "</tool_call>", "<tool", "{", "}", "\"name\"", ":", "\"add\"", ",", "\"arguments\"", "[", "]",
            "[TOOL_CALLS]", "add", "[ARGS]", "(", ")", "a=1", "'", "\\", ";", " ", "\n", "<|python_tag|>", "é", "\"parameters\"",
            "{\"name\": \"add\", \"arguments\": {}}", "{\"a\": [1]}",
        ]), 0..24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let text = pieces.concat();
        prop_assert_eq!(cut(format, is_live, &text, &cuts), read(format, is_live, &[&text]));
        let mut reader = Reader::new(Format::named(format).expect("a format"), Vec::new(), is_live);
        let mut out = reader.push(&text);
        out.extend(reader.finish());
        let all: String = out.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            _ => panic!("no tool is listed: {out:?}"),
        }).collect();
        prop_assert_eq!(all, text);
    }
}

fn cut(format: &str, is_live: bool, text: &str, cuts: &[prop::sample::Index]) -> Vec<Part> {
    let mut at: Vec<usize> =
        cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|&at| text.is_char_boundary(at)).collect();
    at.extend([0, text.len()]);
    at.sort_unstable();
    let pieces: Vec<&str> = at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
    read(format, is_live, &pieces)
}
