//! Texts that are put together from parts.

use super::*;
use wire::openai::structure::tags::{Count, Part, Tag};

fn compiled(part: Part) -> Grammar {
    compile(Form::Parts(part)).expect("compiles")
}

fn takes(grammar: &Grammar, text: &str) -> bool {
    let mut walk = grammar.walk();
    let mut tokens = TOKENIZER.encode(text, false).expect("tokens");
    tokens.push(TOKENIZER.eos_ids()[0]);
    walk.next(None).is_ok() && walk.takes(&tokens)
}

fn tag(begin: &str, content: Part, end: &str) -> Tag {
    Tag { begin: begin.into(), content, ends: vec![end.into()] }
}

fn number() -> Part {
    Part::Schema(json!({"type": "integer", "minimum": 0, "maximum": 99}))
}

fn triggered(at_least_one: bool, stop_after_first: bool) -> Grammar {
    let tags = vec![tag("<fn=a>", number(), "</fn>"), tag("<fn=b>", Part::Free, "</fn>")];
    let count = Count { at_least_one, stop_after_first };
    compiled(Part::Triggered { triggers: vec!["<fn=".into()], tags, count })
}

#[test]
fn free_text_holds_tags_and_no_trigger_without_one() {
    let grammar = triggered(false, false);
    for text in ["", "hello <b> there", "<fn=a>7</fn>", "so: <fn=a>7</fn> and <fn=b>what\n ever</fn>!", "<fn", "a < b"]
    {
        assert!(takes(&grammar, text), "{text}");
    }
    for text in ["<fn=c>7</fn>", "<fn=a>seven</fn>", "so: <fn=a>7", "<fn=a>7</fn> <fn=", "<fn=b>never ended"] {
        assert!(!takes(&grammar, text), "{text}");
    }
    let grammar = triggered(true, false);
    assert!(!takes(&grammar, "none") && takes(&grammar, "x<fn=a>1</fn>y"));
    let grammar = triggered(true, true);
    assert!(takes(&grammar, "x<fn=a>1</fn>") && !takes(&grammar, "x<fn=a>1</fn>y"));
    let grammar = triggered(false, true);
    assert!(takes(&grammar, "none") && takes(&grammar, "x<fn=a>1</fn>") && !takes(&grammar, "x<fn=a>1</fn>y"));
}

#[test]
fn sequences_choices_and_separated_tags_are_kept_to() {
    let one = |text: &str| Part::Text(text.into());
    let grammar = compiled(Part::Sequence(vec![
        one("n = "),
        Part::Or(vec![number(), one("none"), Part::Regex("x+".into()), Part::Grammar("root ::= \"g\" [0-9]".into())]),
        Part::Tag(Box::new(Tag { begin: " (".into(), content: Part::Free, ends: vec![")".into(), "]".into()] })),
    ]));
    for text in ["n = 7 (a)", "n = none (]", "n = xx (b]", "n = g4 ()"] {
        assert!(takes(&grammar, text), "{text}");
    }
    for text in ["n = 7", "n = 100 (a)", "n = none ((a", "m = 7 (a)"] {
        assert!(!takes(&grammar, text), "{text}");
    }
    let separated = |at_least_one, stop_after_first| {
        let tags = vec![tag("<", number(), ">")];
        compiled(Part::Separated { separator: ", ".into(), tags, count: Count { at_least_one, stop_after_first } })
    };
    assert!(takes(&separated(false, false), "") && takes(&separated(true, false), "<1>, <2>, <3>"));
    assert!(!takes(&separated(true, false), "") && !takes(&separated(true, true), "<1>, <2>"));
}

/// The demo's ends of messages are special tokens: no free text has them, and a mark may.
#[test]
fn marks_may_be_special_tokens() {
    let special = "<|im_start|>";
    let grammar = compiled(Part::Tag(Box::new(Tag {
        begin: format!("a{special}b"),
        content: Part::Free,
        ends: vec![format!("\n{special}")],
    })));
    let id = TOKENIZER.token_id(special).expect("a token");
    let of = |text: &str| TOKENIZER.encode(text, false).expect("tokens");
    let whole = [of("a"), vec![id], of("b and so\n"), vec![id, TOKENIZER.eos_ids()[0]]].concat();
    let mut walk = grammar.walk();
    assert!(walk.next(None).is_ok() && walk.takes(&whole));
    assert!(!walk.takes(&[of("a"), of("b")].concat()));
}

#[test]
fn pieces_in_brackets_are_found_in_order() {
    assert_eq!(bracketed("a<b>c[d]<e"), ["a", "<b>", "c", "[d]", "<e"]);
    assert_eq!(bracketed("<<a>>"), ["<", "<a>", ">"]);
    assert!(bracketed("").is_empty());
}
