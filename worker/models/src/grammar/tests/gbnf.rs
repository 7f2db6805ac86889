//! Grammars as users of llama.cpp and vLLM write them.

use super::*;

fn compiled(text: &str) -> Result<Grammar, GrammarError> {
    compile(Form::Grammar(text.into()))
}

/// True if a grammar takes a text, and may end after it.
fn takes(grammar: &Grammar, text: &str) -> bool {
    let mut walk = grammar.walk();
    let mut tokens = TOKENIZER.encode(text, false).expect("tokens");
    tokens.push(TOKENIZER.eos_ids()[0]);
    walk.next(None).is_ok() && walk.takes(&tokens)
}

const JSON: &str = r##"
# JSON, as it is passed around
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"##;

#[test]
fn published_grammars_are_read() {
    let grammar = compiled(JSON).expect("compiles");
    for text in ["{}", "{\"a\": [1, -2.5e3, {\"b\": null}], \"c\\u00e9\": \"d\\n\"}", "{\n\t\"a\": true}"] {
        assert!(takes(&grammar, text), "{text}");
    }
    for text in ["[]", "{\"a\"}", "{\"a\": 01}", "{\"a\": \"\t\"}"] {
        assert!(!takes(&grammar, text), "{text}");
    }
    let sql = "root ::= select_statement\n\nselect_statement ::= \"SELECT \" column \" from \" table \" where \" condition\n\n\
               column ::= \"col_1 \" | \"col_2 \"\n\ntable ::= \"table_1 \" | \"table_2 \"\n\ncondition ::= column \"= \" number\n\n\
               number ::= \"1 \" | \"2 \"\n";
    let grammar = compiled(sql).expect("compiles");
    for seed in 0..20 {
        let text = text(&grammar, seed << 30).expect("it ends");
        assert!(text.starts_with("SELECT col_") && text.contains(" where col_"), "{text}");
        assert!(takes(&grammar, &text));
    }
    let arithmetic = "root  ::= (expr \"=\" ws term \"\\n\")+\nexpr  ::= term ([-+*/] term)*\nterm  ::= ident | num | \"(\" ws expr \")\" ws\n\
                      ident ::= [a-z] [a-z0-9_]* ws\nnum   ::= [0-9]+ ws\nws    ::= [ \\t\\n]*";
    let grammar = compiled(arithmetic).expect("compiles");
    assert!(takes(&grammar, "x_1 +(2 *y) = 3\nlonger=2\n") && !takes(&grammar, "x +\n"));
}

/// A part may be continued by the very text that may follow it: taken as far as it goes, it would leave nothing to what
/// follows.
#[test]
fn a_part_leaves_what_follows_it() {
    for (grammar, good) in [
        ("root ::= list \"a\"\nlist ::= [a-z]* | \"(\" list \")\"", vec!["aaa", "bca", "(x)a", "a"]),
        (
            "root ::= (item \"\\n\")+ | \"[\" root \"]\"\nitem ::= word ws\nword ::= [a-z]+\nws ::= [ \\n]*",
            vec!["a\n", "a \n\nb\n", "[a\n]"],
        ),
        (
            "root ::= num | num \".\" num | \"(\" root \")\"\nnum ::= [0-9] | [1-9] [0-9]+",
            vec!["0", "10.25", "((7.1))"],
        ),
        ("root ::= a root | \"!\"\na ::= \"x\" | \"xy\" | \"yz\"", vec!["xyz!", "xyx!", "!"]),
        ("root ::= \"let \" name \"=\" root | name\nname ::= [a-z]+ \"e\"", vec!["let lete=lete", "lete", "tree"]),
    ] {
        let compiled = compiled(grammar).unwrap_or_else(|cause| panic!("{grammar}: {cause}"));
        good.iter().for_each(|text| assert!(takes(&compiled, text), "{grammar}: {text:?}"));
    }
}

#[test]
fn sets_repetitions_and_escapes_mean_what_they_do_there() {
    for (grammar, good, bad) in [
        ("root ::= [^a-c]", vec!["d", "é", "\n"], vec!["a", "dd", ""]),
        ("root ::= [a\\-\\]x-z-]{2}", vec!["a-", "]y"], vec!["a", "ab"]),
        ("root ::= \"a\"{2,3} \"b\"? \"c\"{,2} \"d\"{1,}", vec!["aad", "aaabccdd"], vec!["ad", "aacccd", "aa"]),
        ("root ::= \"\\u00e9\\x41\\t\\\"\\\\\"", vec!["éA\t\"\\"], vec!["éA"]),
        ("root ::= . .", vec!["a\n", "éé"], vec!["a"]),
        ("root ::= \"a\" | ", vec!["a", ""], vec!["b"]),
        (
            "a ::= \"x\" # the first rule is not the root\nroot ::= a a-b\na-b ::= \"y\" |\n \"z\"",
            vec!["xy", "xz"],
            vec!["x"],
        ),
        ("root ::= \"(\" root \")\" | \"\"", vec!["", "(())"], vec!["(", "())"]),
        ("root ::= \"a\"{0,0} \"b\"", vec!["b"], vec!["ab"]),
        ("root ::= [/\\\\]", vec!["/", "\\"], vec!["//"]),
    ] {
        let compiled = compiled(grammar).unwrap_or_else(|cause| panic!("{grammar}: {cause}"));
        good.iter().for_each(|text| assert!(takes(&compiled, text), "{grammar}: {text:?}"));
        bad.iter().for_each(|text| assert!(!takes(&compiled, text), "{grammar}: {text:?}"));
    }
}

#[test]
fn what_is_no_gbnf_says_where_and_why() {
    for (grammar, word) in [
        ("root ::= nothing", "`nothing`"),
        ("start ::= \"a\"", "root"),
        ("root ::= \"a", "line 1: a text does not end"),
        ("root ::= \"a\"\nother ::= [", "line 2"),
        ("root ::= []", "empty"),
        ("root ::= [z-a]", "before it begins"),
        ("root ::= (\"a\"", "not closed"),
        ("root ::= \"a\")", "name is missing"),
        ("root ::= \"a\"\nroot ::= \"b\"", "twice"),
        ("root ::= \"a\"**", "repeated twice"),
        ("root ::= \"a\"{9,1}", "times"),
        ("root ::= \"a\"{1,99999}", "times"),
        ("root ::= \"a\"{x}", "number of times"),
        ("root ::= \"\\q\"", "escape"),
        ("root ::= \"\\ud800\"", "escape"),
        ("root ::= \"a\" $", "`$`"),
    ] {
        let refused = compiled(grammar);
        let Err(GrammarError::Refused(why)) = refused else { panic!("{grammar}: {refused:?}") };
        assert!(why.contains(word), "{grammar}: {why}");
    }
    // Each rule has the next one twice, and may be empty.
    let doubled: String = (0..400).map(|at| format!("r{at} ::= r{0} r{0} | \"x\"? \"y\"?\n", at + 1)).collect();
    let begun = std::time::Instant::now();
    _ = crate::grammar::gbnf::to_lark(&format!("root ::= r0 root | \"!\"\n{doubled}r400 ::= \"z\""));
    let parts = "\"a\"? ".repeat(30_000);
    _ = crate::grammar::gbnf::to_lark(&format!("root ::= {parts} root | b\nb ::= {parts}"));
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    let many: String = (0..3_000).map(|at| format!("r{at} ::= r{}\n", at + 1)).collect();
    assert!(compiled(&format!("root ::= r0\n{many}")).is_err());
    let nested = format!("root ::= {}\"a\"{}", "(".repeat(100), ")".repeat(100));
    assert!(matches!(compiled(&nested), Err(GrammarError::TooLarge { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_grammar_breaks_its_reader(text in "(root ::= )?[ab\"\\[\\]()|*+?{},0-9:=\\\\n #.-]{0,40}") {
        if let Ok(grammar) = compiled(&text) {
            _ = grammar.walk().next(None);
        }
    }
}
