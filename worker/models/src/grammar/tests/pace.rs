//! Walks whose tokens run out, by a model that would rather go on.

use super::*;
use llguidance::toktrie::TokTrie;

/// A text of at most `tokens` tokens, drawn by `seed` among those that may come, never an end where something else may
/// come; and whether it has ended.
fn hurried(grammar: &Grammar, tokens: usize, seed: u64) -> (String, bool) {
    let (mut walk, mut pace) = (grammar.walk(), Pace::default());
    let (mut ids, mut state) = (Vec::new(), seed);
    for left in (1..=tokens).rev() {
        let previous = ids.last().copied();
        let mut words = walk.next(previous).expect("a mask");
        if let Some(narrowed) = pace.narrowed(&mut walk, previous, left, &words) {
            assert!(narrowed.iter().zip(&words).all(|(narrowed, word)| narrowed & !word == 0));
            words = narrowed;
        }
        let allowed = super::tokens(&words);
        let others: Vec<u32> = allowed.iter().copied().filter(|id| !TOKENIZER.eos_ids().contains(id)).collect();
        if others.is_empty() {
            assert!(!allowed.is_empty(), "nothing may follow {}", TOKENIZER.decode(&ids, true));
            return (TOKENIZER.decode(&ids, false), true);
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ids.push(others[(state >> 33) as usize % others.len()]);
    }
    (TOKENIZER.decode(&ids, false), false)
}

/// Tokens of the way from the beginning.
fn least(grammar: &Grammar) -> usize {
    grammar.walk().way(None, 4_096).expect("a way").len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_answer_ends_within_its_tokens_where_they_suffice(schema in schemas(), more in 0_usize..120, seed in any::<u64>()) {
        let grammar = compile(Form::Schema(schema.clone())).expect("such schemas can be had");
        let least = least(&grammar);
        let (text, has_ended) = hurried(&grammar, least + more, seed);
        prop_assert!(has_ended, "{} + {} tokens: {} of {}", least, more, text, schema);
        let value: Value = serde_json::from_str(&text).map_err(|cause| TestCaseError::fail(format!("{cause}: {text}")))?;
        prop_assert!(is_valid(&value, &schema), "{} is not of {}", text, schema);
    }
}

#[test]
fn recursions_long_members_and_open_texts_end_in_time() {
    let node = json!({"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "value": {"type": "integer"}},
        "required": ["value"], "additionalProperties": false});
    let wide: serde_json::Map<String, Value> =
        (0..40).map(|at| (format!("member_{at}"), json!({"type": "string"}))).collect();
    let wide_names: Vec<&String> = wide.keys().collect();
    let wide = json!({"type": "object", "properties": wide, "required": wide_names, "additionalProperties": false});
    for (schema, tokens) in [
        (json!({"$ref": "#/$defs/node", "$defs": {"node": node}}), vec![30, 100, 300]),
        (json!({"type": "array", "items": wide}), vec![40, 500, 900]),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "number"}}}, "required": ["a", "b"]}),
            vec![40, 200],
        ),
        (json!({"type": "string", "pattern": "^[a-z]+-[0-9]{3,}$"}), vec![20, 60]),
        (json!({"type": "object"}), vec![20, 60, 200]),
        (
            json!({"type": "array", "items": {"type": "array", "items": {"type": "string", "minLength": 20}, "minItems": 2}}),
            vec![60, 150],
        ),
    ] {
        let grammar = compile(Form::Schema(schema.clone())).expect("compiles");
        for tokens in tokens {
            for seed in 0..6 {
                let (text, has_ended) = hurried(&grammar, tokens, seed << 20);
                assert!(
                    has_ended && serde_json::from_str::<Value>(&text).is_ok(),
                    "{tokens} tokens: {text} of {schema}"
                );
            }
        }
    }
    for (form, tokens) in [
        (Form::Regex("[a-z ]*(stop|halt)".into()), 30),
        (Form::Grammar("start: \"<\" WORD (\",\" WORD)* \">\"\nWORD: /[a-z]{1,8}/".into()), 30),
    ] {
        let grammar = compile(form.clone()).expect("compiles");
        for seed in 0..6 {
            assert!(hurried(&grammar, tokens, seed << 20).1, "{form:?}");
        }
    }
}

#[test]
fn thoughts_leave_room_for_the_answer() {
    let marks = Marks::named("think").expect("marks");
    for begun in [Begun::Maybe, Begun::Within] {
        let text = structure(Form::Schema(json!({"type": "array", "items": {"type": "string"}})));
        let shape = Shape { text: Some(text), calls: None, thoughts: Some((marks, begun)) };
        let grammar = VOCABULARY.compile(&shape).expect("compiles");
        for seed in 0..8 {
            let (text, has_ended) = hurried(&grammar, 80, seed << 20);
            let answer = text.rsplit("</think>").next().expect("a part").trim();
            assert!(has_ended && serde_json::from_str::<Value>(answer).is_ok(), "{text}");
        }
    }
}

/// Behind an inner list stands what stands behind one of its items.
#[test]
fn lists_within_lists_are_closed() {
    let inner = json!({"type": "array", "items": {"type": "string", "minLength": 20}, "minItems": 2});
    let grammar = compile(Form::Schema(json!({"type": "array", "items": inner}))).expect("compiles");
    let mut walk = grammar.walk();
    let mut previous = None;
    for token in TOKENIZER.encode("[[\"", false).expect("tokens") {
        walk.next(previous).expect("a mask");
        previous = Some(token);
    }
    walk.next(previous).expect("a mask");
    let way = walk.way(None, 400).expect("a way");
    let bytes: usize = way[..way.len() - 1].iter().map(|&token| walk.bytes(token).len()).sum();
    assert_eq!(bytes, 20 + "\",\"".len() + 20 + "\"]]".len());
}

/// Only the tokens that the end needs are kept from it.
#[test]
fn a_choice_stays_the_models_and_a_text_may_use_all_but_what_closes_it() {
    let grammar = compile(Form::Choice(["yes", "no", "perhaps"].map(String::from).to_vec())).expect("compiles");
    let said: std::collections::BTreeSet<String> = (0..60).map(|seed| hurried(&grammar, 12, seed << 32).0).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    let grammar = compile(Form::Schema(json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false}))).expect("compiles");
    let longest = (0..40).map(|seed| {
        let (text, _) = hurried(&grammar, 40, seed << 32);
        TOKENIZER.encode(&text, false).expect("tokens").len()
    });
    // Spelled as a model would, a text has fewer tokens than it was drawn with.
    assert!(longest.max().is_some_and(|tokens| tokens > 24), "strings are cut short");
}

#[test]
fn far_from_the_end_nothing_is_restricted_and_looking_is_rare() {
    let grammar = compile(Form::Schema(json!({"type": "array", "items": {"type": "string"}}))).expect("compiles");
    let (mut walk, mut pace) = (grammar.walk(), Pace::default());
    let allowed = walk.next(None).expect("a mask");
    assert_eq!(pace.narrowed(&mut walk, None, 4_000, &allowed), None);
    let begun = std::time::Instant::now();
    let mut previous = TOKENIZER.encode("[", false).expect("tokens")[0];
    for left in (2_000..4_000).rev() {
        let allowed = walk.next(Some(previous)).expect("a mask");
        assert_eq!(pace.narrowed(&mut walk, Some(previous), left, &allowed), None);
        previous = TOKENIZER.encode(if left == 3_999 { "\"" } else { "a" }, false).expect("tokens")[0];
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_form_that_fits_in_no_way_is_left_to_the_model() {
    let grammar = compile(Form::Schema(json!({"type": "string", "minLength": 200}))).expect("compiles");
    let (text, has_ended) = hurried(&grammar, 20, 1);
    assert!(!has_ended && text.starts_with('"'), "{text}");
}

/// The way is a walk of its own: the place that it begins at stays as it was.
#[test]
fn looking_for_a_way_changes_nothing() {
    let grammar = compile(Form::Json).expect("compiles");
    let (mut walk, mut other) = (grammar.walk(), grammar.walk());
    let mut previous = None;
    for token in TOKENIZER.encode("{\"a\": [1, {\"b\": \"c", false).expect("tokens") {
        assert_eq!(walk.next(previous), other.next(previous));
        let way = walk.way(None, 400).expect("a way");
        assert!(walk.takes(&way) && way.last() == Some(&TOKENIZER.eos_ids()[0]), "{way:?}");
        previous = Some(token);
    }
    assert_eq!(walk.next(previous), other.next(previous));
    let way = walk.way(None, 400).expect("a way");
    let bytes: Vec<u8> = way
        .iter()
        .flat_map(|&token| walk.bytes(token).to_vec())
        .filter(|&byte| byte != TokTrie::SPECIAL_TOKEN_MARKER)
        .collect();
    assert!(String::from_utf8_lossy(&bytes).starts_with("\"}]}"), "{bytes:?}");
}
