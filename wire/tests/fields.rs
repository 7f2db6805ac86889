//! `docs/semantics.md` says of fields the same as the rows.

use std::collections::BTreeSet;
use wire::openai::ENDPOINTS;
use wire::openai::endpoint::Fate;

/// The names in backticks of the paragraph that begins with `heading`.
fn listed(text: &str, heading: &str) -> BTreeSet<String> {
    let start = text.find(heading).unwrap_or_else(|| panic!("docs/semantics.md has a paragraph {heading}"));
    let paragraph = text[start..].split("\n\n").next().unwrap_or_default();
    let names = paragraph.split('`').skip(1).step_by(2).flat_map(|names| names.split([',', ' ', '\n']));
    names.filter(|name| name.starts_with(|first: char| first.is_ascii_lowercase())).map(str::to_owned).collect()
}

fn known(of: fn(Fate) -> bool) -> BTreeSet<String> {
    let fields = ENDPOINTS.iter().flat_map(|endpoint| endpoint.fields.iter().copied().flatten());
    fields.filter(|field| of(field.fate)).map(|field| field.name.to_owned()).collect()
}

#[test]
fn the_documentation_lists_every_field_with_its_fate() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/semantics.md");
    let text = std::fs::read_to_string(path).expect("the documentation is there");
    agree(&text, "**Honoured**", |fate| matches!(fate, Fate::Honoured(_)));
    agree(&text, "**Refused", |fate| matches!(fate, Fate::Refused(_)));
    agree(&text, "**Hints**", |fate| matches!(fate, Fate::Ignored));
}

fn agree(text: &str, heading: &str, of: fn(Fate) -> bool) {
    let (listed, known) = (listed(text, heading), known(of));
    let missing: Vec<_> = known.difference(&listed).collect();
    assert!(missing.is_empty(), "{heading} of docs/semantics.md lacks {missing:?}");
    let extra: Vec<_> = listed.difference(&known).collect();
    assert!(extra.is_empty(), "{heading} of docs/semantics.md names {extra:?}, which no row has");
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
