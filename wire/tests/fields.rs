//! `docs/semantics.md` says of fields the same as the rows.

use std::collections::BTreeSet;
use wire::openai::ENDPOINTS;
use wire::openai::endpoint::{Fate, openapi, reference};

#[test]
fn the_documentation_lists_every_field_with_its_fate() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/semantics.md");
    let text = std::fs::read_to_string(path).expect("the documentation is there");
    let listed = text.split("<!-- fields -->\n").nth(1).expect("docs/semantics.md has a part between two marks");
    let again = "run: cargo run -p forebay-wire --example fields, and put what it says between the marks";
    assert_eq!(listed, reference(), "{again}");
}

#[test]
fn the_description_for_machines_has_every_path_and_field() {
    let described = openapi("1.2.3");
    for endpoint in ENDPOINTS {
        for path in endpoint.paths {
            let post = &described["paths"][path]["post"];
            let schema = &post["requestBody"]["content"]["application/json"]["schema"];
            for field in endpoint.fields.iter().copied().flatten() {
                let is_there = schema["properties"].get(field.name).is_some();
                assert_eq!(is_there, !matches!(field.fate, Fate::Refused(_)), "{path}: {}", field.name);
            }
            let answer = post["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].as_str();
            let answer = answer.expect("a reference").trim_start_matches('#');
            assert!(described.pointer(answer).is_some(), "{answer}");
        }
    }
}

#[test]
fn no_endpoint_has_a_field_twice() {
    for endpoint in ENDPOINTS {
        let mut seen = BTreeSet::new();
        for field in endpoint.fields.iter().copied().flatten() {
            assert!(seen.insert(field.name), "{} has {} twice", endpoint.name, field.name);
        }
    }
}
