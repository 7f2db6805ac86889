//! Forms over the demo's vocabulary, walked at random.

mod gbnf;
mod pace;
mod parts;

use super::*;
use crate::calls::{self, Format};
use crate::demo;
use crate::thoughts::{Begun, Marks};
use crate::tokenizer::{TextFiles, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;
use wire::openai::structure::{Form, Structure};
use wire::openai::tools::Tool;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let files = TextFiles {
        tokenizer_config_json: Some(demo::TOKENIZER_CONFIG),
        generation_config_json: Some(demo::GENERATION_CONFIG),
        ..TextFiles::new(demo::TOKENIZER)
    };
    Tokenizer::parse(&files).expect("the demo's tokenizer")
});
static VOCABULARY: LazyLock<Vocabulary> =
    LazyLock::new(|| Vocabulary::new(&TOKENIZER, TOKENIZER.vocab_size()).expect("a tree"));

fn structure(form: Form) -> Structure {
    Structure { param: "form".into(), form, is_compact: false }
}

fn shape(text: Structure) -> Shape {
    Shape { text: Some(text), calls: None, thoughts: None }
}

fn compile(form: Form) -> Result<Grammar, GrammarError> {
    VOCABULARY.compile(&shape(structure(form)))
}

fn tokens(words: &[u32]) -> Vec<u32> {
    (0..)
        .zip(words)
        .flat_map(|(at, word)| (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| 32 * at + bit))
        .collect()
}

/// A text of a form, its tokens drawn by `seed`; `None` where it does not end in time.
fn text(grammar: &Grammar, seed: u64) -> Option<String> {
    let mut walk = grammar.walk();
    let (mut ids, mut state) = (Vec::new(), seed);
    while ids.len() < 600 {
        let allowed = tokens(&walk.next(ids.last().copied()).expect("a mask"));
        assert!(!allowed.is_empty(), "nothing may follow {}", TOKENIZER.decode(&ids, false));
        let (ends, others): (Vec<u32>, Vec<u32>) = allowed.into_iter().partition(|id| TOKENIZER.eos_ids().contains(id));
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // It ends where it may, mostly, so that texts are short.
        if !ends.is_empty() && (others.is_empty() || state >> 62 > 0) {
            return Some(TOKENIZER.decode(&ids, false));
        }
        ids.push(others[(state >> 33) as usize % others.len()]);
    }
    None
}

/// A schema of limited kinds and the values it allows, so that a text can be checked without the engine's help.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "null"})),
        (-50_i64..50, 0_i64..100)
            .prop_map(|(low, more)| json!({"type": "integer", "minimum": low, "maximum": low + more})),
        (0_u64..4, 0_u64..6)
            .prop_map(|(least, more)| json!({"type": "string", "minLength": least, "maxLength": least + more})),
        prop::collection::vec("[a-zé\"\\\\ ]{0,6}", 1..4).prop_map(|texts| json!({"enum": texts})),
        Just(json!({"const": {"a": [1, "x"]}})),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            (inner.clone(), 0_u64..3, 0_u64..3).prop_map(|(items, least, more)| {
                json!({"type": "array", "items": items, "minItems": least, "maxItems": least + more})
            }),
            prop::collection::vec((inner.clone(), any::<bool>()), 0..4).prop_map(|members| {
                let name = |at: usize| format!("m{at}");
                let required: Vec<_> = (0..).zip(&members).filter(|(_, (_, is))| *is).map(|(at, _)| name(at)).collect();
                let properties: serde_json::Map<_, _> =
                    members.into_iter().enumerate().map(|(at, (schema, _))| (name(at), schema)).collect();
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
            }),
            prop::collection::vec(inner, 1..3).prop_map(|any| json!({"anyOf": any})),
        ]
    })
}

fn is_valid(value: &Value, schema: &Value) -> bool {
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().any(|schema| is_valid(value, schema));
    }
    if let Some(texts) = schema["enum"].as_array() {
        return texts.contains(value);
    }
    if let Some(constant) = schema.get("const") {
        return constant == value;
    }
    let within = |count: usize, least: &str, most: &str| {
        (schema[least].as_u64()..=schema[most].as_u64()).contains(&Some(count as u64))
    };
    match (schema["type"].as_str(), value) {
        (Some("boolean"), Value::Bool(_)) | (Some("null"), Value::Null) => true,
        (Some("integer"), Value::Number(number)) => {
            // -0 is an integer, too.
            let number = number.as_f64().filter(|number| number.fract() == 0.0);
            (schema["minimum"].as_f64()..=schema["maximum"].as_f64()).contains(&number)
        }
        (Some("string"), Value::String(text)) => within(text.chars().count(), "minLength", "maxLength"),
        (Some("array"), Value::Array(items)) => {
            within(items.len(), "minItems", "maxItems") && items.iter().all(|item| is_valid(item, &schema["items"]))
        }
        (Some("object"), Value::Object(members)) => {
            let properties = &schema["properties"];
            let required = schema["required"].as_array().expect("a list");
            required.iter().all(|name| members.contains_key(name.as_str().expect("text")))
                && members
                    .iter()
                    .all(|(name, value)| properties.get(name).is_some_and(|schema| is_valid(value, schema)))
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_is_drawn_a_text_that_ends_is_valid_against_its_schema(schema in schemas(), seed in any::<u64>()) {
        let grammar = compile(Form::Schema(schema.clone())).expect("such schemas can be had");
        let Some(text) = text(&grammar, seed) else { return Ok(()) };
        let value: Value = serde_json::from_str(&text).map_err(|cause| TestCaseError::fail(format!("{cause}: {text}")))?;
        prop_assert!(is_valid(&value, &schema), "{} is not of {}", text, schema);
    }

    #[test]
    fn no_text_breaks_the_front_door(text in "[ -~\n]{0,60}", bytes in ".{0,20}") {
        for form in [Form::Regex(text.clone()), Form::Grammar(text.clone()), Form::Choice(vec![text.clone(), bytes])] {
            if let Ok(grammar) = compile(form) {
                _ = grammar.walk().next(None);
            }
        }
        if let Ok(schema) = serde_json::from_str(&text) {
            _ = compile(Form::Schema(schema));
        }
    }
}

#[test]
fn every_form_says_what_it_is_to_say() {
    let matches = |form: Form, is_right: &dyn Fn(&str) -> bool| {
        let grammar = compile(form).expect("compiles");
        for seed in 0..8 {
            let Some(text) = text(&grammar, seed) else { continue };
            assert!(is_right(&text), "{text:?}");
        }
    };
    matches(Form::Choice(vec!["yes".into(), "a \"no\" of\nsorts".into()]), &|text| {
        text == "yes" || text == "a \"no\" of\nsorts"
    });
    matches(Form::Regex("[a-c]{2,4}-[0-9]".into()), &|text| text.len() <= 6 && text.contains('-'));
    matches(Form::Grammar("start: \"<\" WORD \">\"\nWORD: /[a-z]{1,8}/".into()), &|text| {
        text.starts_with('<') && text.ends_with('>')
    });
    matches(Form::Json, &|text| serde_json::from_str::<serde_json::Map<_, _>>(text).is_ok());
    let compact = Structure { is_compact: true, ..structure(Form::Schema(json!({"const": {"a": [1, 2]}}))) };
    let grammar = VOCABULARY.compile(&shape(compact)).expect("compiles");
    assert_eq!(text(&grammar, 1).as_deref(), Some(r#"{"a":[1,2]}"#));
}

#[test]
fn json_is_indented_or_not_and_never_pushed_apart() {
    let grammar = compile(Form::Schema(json!({"type": "array", "items": {"const": 1}}))).expect("compiles");
    let takes = |text: &str| {
        let mut walk = grammar.walk();
        let mut previous = None;
        TOKENIZER.encode(text, false).expect("tokens").into_iter().all(|token| {
            let allowed = walk.next(previous).expect("a mask");
            previous = Some(token);
            tokens(&allowed).contains(&token)
        })
    };
    for text in ["[1,1]", "[1, 1]", "[\n  1,\n  1\n]", "[\n\t1\n]"] {
        assert!(takes(text), "{text}");
    }
    assert!(!takes("[1,  1]") && !takes("[1,\n\n1]"));
}

#[test]
fn a_walk_begins_anew_each_time_and_a_forbidden_token_is_an_error() {
    let grammar = compile(Form::Choice(vec!["aa".into()])).expect("compiles");
    let first = grammar.walk().next(None).expect("a mask");
    let mut walk = grammar.walk();
    assert_eq!(walk.next(None).as_ref(), Ok(&first));
    let forbidden = (0..).find(|id| !tokens(&first).contains(id)).expect("most are");
    assert!(walk.next(Some(forbidden)).is_err());
    assert_eq!(grammar.walk().next(None).as_ref(), Ok(&first));
}

#[test]
fn what_cannot_be_guaranteed_is_refused_and_says_why() {
    for (schema, word) in [
        (json!({"type": "string", "format": "no-such-format"}), "format"),
        (json!({"type": "object", "minProperties": 3, "maxProperties": 2}), ""),
        (json!({"type": "elephant"}), "elephant"),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}), "no text"),
        (json!({"not": {"type": "string"}}), "not"),
        (json!({"$ref": "https://example.com/schema"}), "$ref"),
        (json!({"$ref": "#/$defs/nowhere"}), "nowhere"),
        (json!({"allOf": [{"type": "string"}, {"type": "number"}]}), ""),
        (json!({"type": "string", "pattern": "(a"}), ""),
        (json!({"x-guidance": {"lenient": true}, "not": {"type": "string"}}), "not"),
    ] {
        let refused = compile(Form::Schema(schema.clone()));
        let Err(GrammarError::Refused(why)) = refused else { panic!("{schema}: {refused:?}") };
        assert!(why.contains(word) && why.len() <= 512, "{schema}: {why}");
    }
    for form in [Form::Regex("(".into()), Form::Grammar("begin: \"a\"".into()), Form::Grammar("start: other".into())] {
        assert!(matches!(compile(form.clone()), Err(GrammarError::Refused(_))), "{form:?}");
    }
}

#[test]
fn what_would_cost_too_much_is_refused_at_once() {
    let wide: Vec<Value> = (0..9_000).map(|_| json!({})).collect();
    assert!(matches!(compile(Form::Schema(json!({"enum": wide}))), Err(GrammarError::TooLarge { .. })));
    let deep = format!("{}a{}", "(".repeat(70), ")".repeat(70));
    for form in [Form::Regex(deep.clone()), Form::Grammar(format!("start: {deep}"))] {
        assert!(matches!(compile(form), Err(GrammarError::TooLarge { .. })));
    }
    let begun = std::time::Duration::from_secs(20);
    let at = std::time::Instant::now();
    for expression in
        ["((a{0,200}){0,200}){0,200}b", "(a|aa)+(a|aaa)+(.{0,900}x){0,900}", "(.*a){40}(.*b){40}(.*c){40}"]
    {
        if let Ok(grammar) = compile(Form::Regex(expression.into())) {
            let mut walk = grammar.walk();
            let mut previous = None;
            for _ in 0..20 {
                let Ok(words) = walk.next(previous) else { break };
                let Some(&token) = tokens(&words).iter().find(|id| !TOKENIZER.eos_ids().contains(id)) else { break };
                previous = Some(token);
            }
        }
    }
    assert!(at.elapsed() < begun, "{:?}", at.elapsed());
}

/// Each definition refers to the next: as deep a recursion as so many nodes allow.
#[test]
fn a_long_chain_of_references_is_compiled_or_refused_and_no_stack_overflows() {
    let mut definitions = serde_json::Map::new();
    for at in 0..3_000 {
        let next = json!({"type": "array", "items": {"$ref": format!("#/$defs/d{}", at + 1)}});
        definitions.insert(format!("d{at}"), next);
    }
    definitions.insert("d3000".into(), json!({"type": "null"}));
    let chain = json!({"$ref": "#/$defs/d0", "$defs": definitions.clone()});
    definitions.insert("d3000".into(), json!({"$ref": "#/$defs/d0"}));
    let ring = json!({"$ref": "#/$defs/d0", "$defs": definitions});
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let compiled = thread.spawn(move || [chain, ring].map(|schema| compile(Form::Schema(schema)).is_ok()));
    compiled.expect("a thread").join().expect("no panic");
}

#[test]
fn special_tokens_are_no_text() {
    let grammar = compile(Form::Regex("(.|\n)*".into())).expect("compiles");
    let allowed = tokens(&grammar.walk().next(None).expect("a mask"));
    let special: Vec<u32> = allowed.into_iter().filter(|&id| TOKENIZER.is_special(id)).collect();
    assert!(special.iter().all(|id| TOKENIZER.eos_ids().contains(id)), "{special:?}");
    assert_eq!(special.len(), TOKENIZER.eos_ids().len());
}

fn tool(name: &str, parameters: Option<Value>, is_strict: bool) -> Tool {
    Tool { name: name.into(), parameters, is_strict, given: json!({}) }
}

#[test]
fn calls_that_are_asked_for_are_calls_in_every_format() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false});
    for name in ["hermes", "llama3_json", "pythonic", "mistral", "json"] {
        for parallel in [true, false] {
            let tools = vec![tool("add", Some(schema.clone()), true), tool("time", None, false)];
            let format = Format::named(name).expect("a format");
            let calls = Calls { format, tools, parallel };
            let shape = Shape { text: None, calls: Some(calls), thoughts: None };
            let grammar = VOCABULARY.compile(&shape).expect("compiles");
            for seed in 0..12 {
                let Some(text) = text(&grammar, seed) else { continue };
                let names = vec!["add".to_owned(), "time".to_owned()];
                let mut reader = calls::Reader::new(format.when_forced(), names, true);
                let mut parts = reader.push(&text);
                parts.extend(reader.finish());
                let count = parts.iter().filter(|part| matches!(part, calls::Part::Call { .. })).count();
                assert!(count == 1 || (parallel && count > 1), "{name}: {text}");
                for part in parts {
                    match part {
                        calls::Part::Text(text) => panic!("{name}: {text} is no call"),
                        calls::Part::Arguments { text, .. } => {
                            let read: Value = serde_json::from_str(&text).expect("JSON");
                            assert!(
                                read == json!({}) || read["a"].is_i64() || read["a"].is_u64() || read["a"].is_number(),
                                "{text}"
                            );
                        }
                        calls::Part::Call { .. } => {}
                    }
                }
            }
        }
    }
}

#[test]
fn thoughts_come_before_a_form_and_calls_may_take_its_place() {
    let marks = Marks::named("think").expect("marks");
    let choice = || structure(Form::Choice(vec!["yes".into()]));
    for (begun, begins) in [(Begun::Over, "yes"), (Begun::Maybe, ""), (Begun::Within, "")] {
        let shape = Shape { text: Some(choice()), calls: None, thoughts: Some((marks, begun)) };
        let grammar = VOCABULARY.compile(&shape).expect("compiles");
        for seed in 0..40 {
            let Some(text) = text(&grammar, seed) else { continue };
            assert!(text.starts_with(begins) && text.ends_with("yes"), "{text}");
            assert!(begun != Begun::Within || text.contains("</think>"), "{text}");
            assert!(begun != Begun::Maybe || text == "yes" || text.starts_with("<think>"), "{text}");
        }
    }
    let calls = Calls {
        format: Format::named("json").expect("a format"),
        tools: vec![tool("t", None, false)],
        parallel: false,
    };
    let shape = Shape { text: Some(choice()), calls: Some(calls), thoughts: None };
    let grammar = VOCABULARY.compile(&shape).expect("compiles");
    let first = tokens(&grammar.walk().next(None).expect("a mask"));
    let begins: Vec<String> = first.iter().map(|id| TOKENIZER.decode(&[*id], false)).collect();
    assert!(["y", "{"].iter().all(|letter| begins.iter().any(|token| token == letter)), "{begins:?}");
    let texts: Vec<String> = (0..200).filter_map(|seed| text(&grammar, seed << 32)).collect();
    assert!(
        texts.iter().any(|text| text == "yes") && texts.iter().any(|text| text.starts_with("{\"name\"")),
        "{texts:?}"
    );
}

#[test]
fn a_strict_tool_is_kept_to_or_refused_and_others_as_far_as_they_can_be() {
    let odd = json!({"type": "object", "properties": {"when": {"type": "string", "format": "moon-phase"}}});
    let compiled = |is_strict| {
        let tools = vec![tool("t", Some(odd.clone()), is_strict)];
        let calls = Calls { format: Format::named("json").expect("a format"), tools, parallel: false };
        VOCABULARY.compile(&Shape { text: None, calls: Some(calls), thoughts: None })
    };
    assert!(matches!(compiled(true), Err(GrammarError::Refused(_))));
    assert!(compiled(false).is_ok(), "{:?}", compiled(false));
}

/// Any of them may come next, which is a long row for a parser.
#[test]
fn an_object_of_many_optional_members_is_within_the_work_of_a_token() {
    let property = |at: usize| (format!("p{at}"), json!({"type": "string", "pattern": "[a-z]{3,9}"}));
    let many: serde_json::Map<String, Value> = (0..1_500).map(property).collect();
    let grammar = compile(Form::Schema(json!({"type": "object", "properties": many}))).expect("compiles");
    let written = TOKENIZER.encode("{\"p7\": \"abc\"}", false).expect("tokens");
    let mut walk = grammar.walk();
    let mut previous = None;
    for token in written {
        let allowed = walk.next(previous).expect("a mask");
        assert!(tokens(&allowed).contains(&token), "{token}");
        previous = Some(token);
    }
}
