//! The tokenizer and the chat templates against what the Python libraries made of the same files (see
//! `fixtures/make.py`), and the detokenizer against the tokenizer for any tokens at all.

use models::template::{ChatTemplate, TemplateError};
use models::tokenizer::{Detokenizer, TextFiles, Tokenizer};
use proptest::prelude::*;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use wire::openai::generate::Opening;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a fixture")).expect("JSON")
}

fn tokenizer_of(json: &[u8], config: &Value) -> Tokenizer {
    let config = config.to_string();
    let files = TextFiles { tokenizer_config_json: Some(config.as_bytes()), ..TextFiles::new(json) };
    Tokenizer::parse(&files).expect("a tokenizer")
}

/// The fixture tokenizer and, where it has been trained already, the demo model's.
static TOKENIZERS: LazyLock<Vec<Arc<Tokenizer>>> = LazyLock::new(|| {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/tokenizer.json");
    let mut files = vec![std::fs::read(fixtures().join("tokenizers/bpe_small/tokenizer.json")).expect("a fixture")];
    files.extend(std::fs::read(demo).ok());
    files.push(SENTENCEPIECE.as_bytes().to_vec());
    files.iter().map(|json| Arc::new(tokenizer_of(json, &serde_json::json!({})))).collect()
});

/// A vocabulary in SentencePiece's spelling, as Llama 2's, with the pieces that go wrong most easily.
const SENTENCEPIECE: &str = r#"{"version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}, "padding": null,
    "added_tokens": [{"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": null, "post_processor": null,
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": {"<unk>": 0, "<s>": 1, "▁": 2, "a": 3, "b": 4, "▁a": 5, "<0xC3>": 6, "<0xA9>": 7, "<0x0A>": 8, "é": 9, "ab": 10},
        "merges": ["▁ a", "a b"]}}"#;

#[test]
fn texts_become_the_ids_the_python_library_gives_and_back() {
    let folder = fixtures().join("tokenizers/bpe_small");
    let expected = json(&folder.join("expected.json"));
    let tokenizer = &TOKENIZERS[0];
    assert_eq!(Some(tokenizer.vocab_size() as u64), expected["vocab_size"].as_u64());
    let cases = expected["cases"].as_array().expect("cases");
    assert!(cases.len() > 30, "only {} cases", cases.len());
    for case in cases {
        let text = case["text"].as_str().expect("text");
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        assert_eq!(tokenizer.encode(text, false).expect("has tokens"), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false), case["decoded"].as_str().expect("text"), "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true), case["decoded_skip_special"].as_str().expect("text"), "{text:?}");
    }
}

#[test]
fn special_tokens_are_known_by_id_and_by_name() {
    let json = std::fs::read(fixtures().join("tokenizers/bpe_small/tokenizer.json")).expect("a fixture");
    let files = TextFiles {
        tokenizer_config_json: Some(br#"{"eos_token": "<|im_end|>"}"#),
        generation_config_json: Some(br#"{"eos_token_id": 396, "top_k": 0}"#),
        config_json: br#"{"eos_token_id": [396, 12]}"#,
        ..TextFiles::new(&json)
    };
    let tokenizer = Tokenizer::parse(&files).expect("a tokenizer");
    assert_eq!(tokenizer.eos_ids(), [396, 12, 398]);
    assert_eq!((tokenizer.eos_token(), tokenizer.bos_token()), (Some("<|im_end|>"), None));
    assert!(tokenizer.is_special(397) && !tokenizer.is_special(399) && !tokenizer.is_special(12));
    assert_eq!(tokenizer.encode("<|im_start|><think>", false).expect("has tokens"), [397, 399]);
    assert_eq!(tokenizer.token_bytes(399), b"<think>");
    assert_eq!(tokenizer.token_bytes(220), b" ");
    assert_eq!(tokenizer.token_bytes(100_000), b"");
    assert!(ChatTemplate::parse(&files, &tokenizer).is_none());
}

#[test]
fn tokens_that_only_other_files_name_are_tokens() {
    let json = std::fs::read(fixtures().join("tokenizers/bpe_small/tokenizer.json")).expect("a fixture");
    let plain = Tokenizer::parse(&TextFiles::new(&json)).expect("a tokenizer");
    let size = u32::try_from(plain.vocab_size()).expect("small");
    let listed = format!(r#"{{"added_tokens_decoder": {{"{size}": {{"content": "<|call|>", "special": true}}}}}}"#);
    let added = format!(r#"{{"<tool>": {}}}"#, size + 1);
    let files = TextFiles {
        special_tokens_map_json: Some(
            br#"{"bos_token": {"content": "bay"}, "additional_special_tokens": ["<think>"]}"#,
        ),
        tokenizer_config_json: Some(listed.as_bytes()),
        added_tokens_json: Some(added.as_bytes()),
        chat_template_jinja: Some("{{ bos_token }}{{ additional_special_tokens[0] }}"),
        ..TextFiles::new(&json)
    };
    let tokenizer = Tokenizer::parse(&files).expect("a tokenizer");
    assert_eq!(tokenizer.encode("<|call|><tool>", false).expect("has tokens"), [size, size + 1]);
    assert!(tokenizer.is_special(size) && !tokenizer.is_special(size + 1) && tokenizer.is_special(399));
    let bay = tokenizer.encode("bay", false).expect("has tokens");
    assert!(bay.len() == 1 && tokenizer.is_special(bay[0]) && !plain.is_special(bay[0]));
    let template = ChatTemplate::parse(&files, &tokenizer).expect("a template");
    assert_eq!(template.render(&[], &[], &Map::new(), Opening::Answer, NOW).as_deref(), Ok("bay<think>"));
    // One token with two ids, and one whose id leaves a gap.
    for (name, id) in [("<think>", 7), ("<tool>", size + 5)] {
        let added = format!(r#"{{"{name}": {id}}}"#);
        let files = TextFiles { added_tokens_json: Some(added.as_bytes()), ..TextFiles::new(&json) };
        let error = Tokenizer::parse(&files).expect_err("two ids").to_string();
        assert!(
            error.contains("added_tokens.json") && error.contains(name) && error.contains(&id.to_string()),
            "{error}"
        );
    }
}

#[test]
fn a_sentencepiece_vocabulary_keeps_its_spaces_and_is_never_truncated() {
    let tokenizer = tokenizer_of(SENTENCEPIECE.as_bytes(), &serde_json::json!({}));
    assert_eq!(tokenizer.encode("a a\né", false).expect("has tokens"), [5, 5, 8, 9]);
    // A model without a type is read by the library itself, which would heed the truncation in the file.
    let untyped = SENTENCEPIECE.replacen(r#""type": "BPE", "#, "", 1);
    let by_library = tokenizer_of(untyped.as_bytes(), &serde_json::json!({}));
    assert_eq!(by_library.encode("a a\né", false).expect("has tokens"), [5, 5, 8, 9]);
    assert_eq!(tokenizer.decode(&[1, 5, 6, 7, 5, 8], true), "aé a\n");
    let tokenizer = Arc::new(tokenizer);
    let mut after_text = Detokenizer::new(Arc::clone(&tokenizer), &[1, 5], true);
    let mut after_nothing = Detokenizer::new(tokenizer, &[1], true);
    assert_eq!((after_text.push(5), after_nothing.push(5)), (" a".to_owned(), "a".to_owned()));
}

#[test]
fn a_vocabulary_with_a_decoder_of_its_own_still_streams() {
    let mut document: Value = serde_json::from_str(SENTENCEPIECE).expect("JSON");
    document["decoder"] =
        serde_json::json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false});
    let tokenizer = Arc::new(tokenizer_of(document.to_string().as_bytes(), &serde_json::json!({})));
    let ids = [5, 1, 10, 5, 9, 5, 4];
    let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), &[], true);
    let mut text: String = ids.iter().map(|id| detokenizer.push(*id)).collect();
    text.push_str(&detokenizer.finish());
    assert_eq!(text, tokenizer.decode(&ids, true));
    assert_eq!(text, "aab aé ab");
}

#[test]
fn a_character_in_flight_is_never_shown_half() {
    let tokenizer = Arc::clone(&TOKENIZERS[0]);
    let ids = tokenizer.encode("🙂", false).expect("has tokens");
    assert!(ids.len() > 1, "the fixture's vocabulary has no such character whole");
    let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), &[], false);
    let (last, first) = ids.split_last().expect("not empty");
    assert!(first.iter().all(|id| detokenizer.push(*id).is_empty()));
    assert_eq!(detokenizer.push(*last), "🙂");
    // A character begun in the prompt is completed by the answer; one never completed is shown as broken.
    let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), first, false);
    assert_eq!((detokenizer.push(*last), detokenizer.finish()), ("🙂".to_owned(), String::new()));
    let mut detokenizer = Detokenizer::new(tokenizer, &[], false);
    assert_eq!((detokenizer.push(ids[0]), detokenizer.finish()), (String::new(), "\u{FFFD}".to_owned()));
}

proptest! {
    #[test]
    fn pieces_add_up_to_the_whole(
        which in 0..3_usize,
        seeds in proptest::collection::vec(any::<u32>(), 0..60),
        prompt in 0..10_usize,
        skip_special: bool,
    ) {
        let tokenizer = &TOKENIZERS[which % TOKENIZERS.len()];
        let size = u32::try_from(tokenizer.vocab_size()).expect("small") + 2;
        let ids: Vec<u32> = seeds.iter().map(|seed| seed % size).collect();
        let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), &[], skip_special);
        let mut text: String = ids.iter().map(|id| detokenizer.push(*id)).collect();
        text.push_str(&detokenizer.finish());
        prop_assert_eq!(&text, &tokenizer.decode(&ids, skip_special));
        // With a prompt in front, the answer is what the prompt's text lacks of the whole.
        let (before, after) = ids.split_at(prompt.min(ids.len()));
        let whole = tokenizer.decode(&ids, skip_special);
        if let Some(rest) = whole.strip_prefix(&tokenizer.decode(before, skip_special)) {
            let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), before, skip_special);
            let mut text: String = after.iter().map(|id| detokenizer.push(*id)).collect();
            text.push_str(&detokenizer.finish());
            if !tokenizer.decode(before, skip_special).ends_with('\u{FFFD}') {
                prop_assert_eq!(text, rest);
            }
        }
    }

    #[test]
    fn what_is_said_comes_back(text in "\\PC{0,40}") {
        // The fixture's normalizer composes characters, so what comes back is one normalisation later.
        let tokenizer = &TOKENIZERS[0];
        let once = tokenizer.decode(&tokenizer.encode(&text, false).expect("has tokens"), false);
        let twice = tokenizer.decode(&tokenizer.encode(&once, false).expect("has tokens"), false);
        prop_assert_eq!(once, twice);
    }
}

fn template_of(source: &str, names: &Value) -> Option<ChatTemplate> {
    let json = std::fs::read(fixtures().join("tokenizers/bpe_small/tokenizer.json")).expect("a fixture");
    let names = names.to_string();
    let files = TextFiles {
        tokenizer_config_json: Some(names.as_bytes()),
        chat_template_jinja: Some(source),
        ..TextFiles::new(&json)
    };
    let tokenizer = Tokenizer::parse(&files).expect("a tokenizer");
    ChatTemplate::parse(&files, &tokenizer)
}

/// 2026-03-05 07:08:09 UTC, the `now` of the fixtures.
const NOW: u64 = 1_772_694_489;

#[test]
fn conversations_render_as_transformers_renders_them() {
    let folder = fixtures().join("chat_templates");
    let expected = json(&folder.join("expected.json"));
    assert_eq!(expected["now"], "2026-03-05T07:08:09");
    let cases = expected["cases"].as_array().expect("cases");
    assert!(cases.len() > 30, "only {} cases", cases.len());
    let names = serde_json::json!({"bos_token": expected["bos_token"], "eos_token": expected["eos_token"]});
    for case in cases {
        let name = format!("{} on {}", case["template"], case["name"]);
        let file = folder.join(format!("{}.jinja", case["template"].as_str().expect("a name")));
        let template = template_of(&std::fs::read_to_string(file).expect("a template"), &names).expect("compiles");
        let mut variables = case["kwargs"].as_object().cloned().unwrap_or_default();
        if let Some(tools) = case.get("tools") {
            variables.insert("tools".to_owned(), tools.clone());
        }
        let begun = case["add_generation_prompt"].as_bool().unwrap_or_default();
        let rendered = template.render_json(&case["messages"], &variables, begun, NOW);
        match case["error"].as_str() {
            Some(error) => assert_eq!(rendered, Err(TemplateError::Refused(error.to_owned())), "{name}"),
            None => assert_eq!(rendered.as_deref(), Ok(case["rendered"].as_str().expect("text")), "{name}"),
        }
    }
}

#[test]
fn expressions_mean_what_jinja2_means() {
    let expected = json(&fixtures().join("chat_templates/dialect.json"));
    assert_eq!(expected["now"], "2026-03-05T07:08:09");
    let context = expected["context"].as_object().expect("a map");
    let cases = expected["cases"].as_array().expect("cases");
    assert!(cases.len() > 2000, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let source = case["source"].as_str().expect("a template");
        let template = template_of(source, &serde_json::json!({})).expect("a template");
        let found = template.render_json(&serde_json::json!([]), context, true, NOW);
        let same = match (&found, case["rendered"].as_str(), case["error"].as_str()) {
            (Ok(found), Some(rendered), _) => found == rendered,
            // What `raise_exception` said is shown; other errors are the engine's own words.
            (Err(found), None, Some(error)) => error.is_empty() || *found == TemplateError::Refused(error.to_owned()),
            _ => false,
        };
        if !same {
            wrong.push(format!("{source:?}: {found:?}, and in Jinja2 {case}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn render(source: &str) -> Result<String, TemplateError> {
    let message: wire::openai::ChatMessage =
        serde_json::from_value(serde_json::json!({"role": "developer", "content": "Hi"})).expect("a message");
    let template = template_of(source, &serde_json::json!({})).expect("compiles");
    template.render(&[message], &[], &Map::new(), Opening::Answer, NOW)
}

#[test]
fn a_developer_speaks_as_the_system_and_the_answer_is_begun() {
    let source = "{{ messages[0].role }}: {{ messages[0]['content'] }}{% if add_generation_prompt %}>{% endif %}\n";
    assert_eq!(render(source).as_deref(), Ok("system: Hi>"));
    assert_eq!(
        render("{{ tools is none }} {{ bos_token }}{{ 1.0 }} {{ [none, 'a'] }}").as_deref(),
        Ok("True 1.0 [None, 'a']")
    );
}

#[test]
fn training_marks_are_no_obstacle() {
    assert_eq!(render("a {% generation %}\nb{%- endgeneration %} c").as_deref(), Ok("a b c"));
}

#[test]
fn clients_cannot_replace_what_is_ours() {
    let template = template_of("{{ messages | length }} {{ strftime_now('%Y') }} {{ mood }}", &serde_json::json!({}))
        .expect("compiles");
    let variables = serde_json::json!({"messages": "forged", "strftime_now": 3, "mood": "calm"});
    let variables = variables.as_object().expect("a map");
    assert_eq!(template.render(&[], &[], variables, Opening::Answer, NOW).as_deref(), Ok("0 2026 calm"));
}

#[test]
fn a_hostile_template_is_stopped() {
    let looped = |body: &str| {
        format!("{{% set ns = namespace(x=['a'], s='a', y=[1]) %}}{{% for i in range(99999) %}}{body}{{% endfor %}}")
    };
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        looped("{% set ns.s = ns.s ~ ns.s %}"),
        looped("{% set ns.s = ns.s + ns.s %}"),
        looped("{% set s %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = s %}"),
        looped("{% set ns.x = ns.x + ns.x %}"),
        looped("{% set ns.x = [ns.x, ns.x] %}"),
        "{{ 'a' * 10000000000 }}".to_owned(),
        "{{ [1] * 10000000000 }}".to_owned(),
        "{{ 'a' | center(10000000000) }}".to_owned(),
        "{{ 'a'.ljust(10000000000) }}".to_owned(),
        "{{ 'a\nb' | indent(10000000000) }}".to_owned(),
        "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}".to_owned(),
        "{{ range(99999) | join('b' * 1000000) }}".to_owned(),
        "{{ [1] | batch(10000000000, 'x') }}".to_owned(),
        format!("{{% set s %}}{{% for a in range(99999) %}}{}{{% endfor %}}{{% endset %}}", "x".repeat(100_000)),
        "{% set s = 'a' * 10000000 %}{% for i in range(99999) %}{{ s is lower }}{{ s[9] }}{{ 'b' in s }}{% endfor %}"
            .to_owned(),
        "{% for i in range(99999) %}{{ strftime_now('%c' * 10000) | length }}{% endfor %}".to_owned(),
    ] {
        assert_eq!(render(&source), Err(TemplateError::TooLong), "{source:.100}");
    }
    let flood = "{% set line = 'a' * 100000 %}{% for a in range(1000) %}{{ line }}{% endfor %}";
    assert_eq!(render(flood), Err(TemplateError::TooLarge));
    for source in [
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
        "{% set ns = namespace(x={}) %}{% for i in range(99999) %}{% set ns.x = dict(a=ns.x) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x | batch(1) | list %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.x = ns %}",
        "{% set ns = namespace() %}{% set ns.x = [ns] %}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ [1] | tojson(indent=9999999999) }}",
        "{{ range(10 ** 18) }}",
        "{{ 10 ** 1000000 }}",
    ] {
        assert!(matches!(render(source), Err(TemplateError::Refused(_))), "{source}");
    }
}

#[test]
fn a_template_that_cannot_be_compiled_is_known_by_what_it_lacks() {
    let deep = |open: &str, close: &str| format!("{{{{ {}1{} }}}}", open.repeat(100_000), close.repeat(100_000));
    for (source, words) in [
        ("a\n{{ messages | urlize }}".to_owned(), "the filter `urlize` is not supported (line 2)"),
        ("{% include 'other' %}".to_owned(), "{% include %}"),
        ("{{ 'a'.encode() }}".to_owned(), "the method `encode`"),
        ("{{ cycler('a') }}".to_owned(), "the function `cycler`"),
        ("{% macro m() %}{{ varargs }}{% endmacro %}".to_owned(), "`varargs`"),
        ("{% autoescape true %}{% endautoescape %}".to_owned(), "{% autoescape %}"),
        ("{{ '{!r}'.format(1) }}".to_owned(), "a conversion in `format`"),
        ("{{ _fb_c0 }}".to_owned(), "_fb_c0"),
        ("{% if %}".to_owned(), "syntax error"),
        ("x".repeat(2 << 20), "bytes"),
        (format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(10_000)), "elif"),
        (deep("(", ")"), ""),
        (deep("not ", ""), "words and signs"),
        (deep("-", ""), "words and signs"),
        (deep("1 - ", ""), "words and signs"),
        (deep("[", "]"), ""),
        (deep("", ".a"), "words and signs"),
        (deep("", "|upper"), "words and signs"),
        (deep("not ", "").replace(&"not ".repeat(100_000), &"not ".repeat(3000)), ""),
        (deep("", ".a").replace(&".a".repeat(100_000), &".a".repeat(1500)), ""),
        (deep("", "|upper").replace(&"|upper".repeat(100_000), &"|upper".repeat(1500)), ""),
    ] {
        let template = template_of(&source, &serde_json::json!({})).expect("there is one");
        let Some(TemplateError::Unusable { file, problem }) = template.fault() else {
            // What is not too deep for the compiler renders, or fails in order.
            let _ = template.render(&[], &[], &Map::new(), Opening::Answer, NOW);
            continue;
        };
        assert_eq!(*file, "chat_template.jinja");
        assert!(problem.contains(words), "{source:.60}: {problem}");
        assert!(matches!(
            template.render(&[], &[], &Map::new(), Opening::Answer, NOW),
            Err(TemplateError::Unusable { .. })
        ));
    }
}

#[test]
fn a_template_that_fails_says_where() {
    let Err(TemplateError::Refused(reason)) = render("a\n{{ messages[0].content.nothing() }}") else {
        panic!("must be refused");
    };
    assert!(reason.contains("chat template failed") && reason.contains("line 2"), "{reason}");
}
