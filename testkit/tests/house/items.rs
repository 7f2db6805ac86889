//! Public items that nothing outside names.
//!
//! Outside are other rooms, `fuzz/`, integration tests, examples and benchmarks. A word is enough: the rule reads
//! names, not types, so a common name may hide an item, and none is accused wrongly. Types that are part of a public
//! signature, or of a public type, must be public though nobody spells them.

use std::collections::BTreeSet;

use super::uses::room_of;
use super::{File, NAMES, product_part, strip};

/// The words that a public item may begin with, after `pub`.
const KINDS: [&str; 8] = ["fn", "struct", "enum", "trait", "const", "static", "type", "mod"];

/// A public item.
pub(super) struct Item {
    kind: &'static str,
    name: String,
    line: usize,
}

/// A fault for each public item that nothing outside its room names.
pub(super) fn unneeded(files: &[File]) -> Vec<String> {
    let words: Vec<BTreeSet<&str>> = files.iter().map(|file| words(&file.code).collect()).collect();
    let rooms: BTreeSet<&str> = files.iter().filter_map(|file| room_of(&file.path)).collect();
    let mut faults = Vec::new();
    // The binary has no public items; the test kit is made for tests.
    for room in rooms.into_iter().filter(|room| !["", "testkit"].contains(room)) {
        let mut outside: BTreeSet<&str> = BTreeSet::new();
        let mut signatures = BTreeSet::new();
        let mut items = Vec::new();
        for (file, words) in files.iter().zip(&words) {
            if room_of(&file.path) != Some(room) {
                outside.extend(words);
                continue;
            }
            // Metric names have a rule of their own.
            if file.path == NAMES {
                continue;
            }
            let code = strip(product_part(&file.text), false);
            signatures.extend(signature_words(&code));
            items.extend(public(&code).into_iter().map(|item| (file.path.as_str(), item)));
        }
        for (path, Item { kind, name, line }) in items {
            let is_part = kind != "fn" && signatures.contains(&name);
            if kind != "mod" && !outside.contains(name.as_str()) && !is_part {
                faults.push(format!("{path}:{line}: nothing outside `{room}` names the public {kind} `{name}`"));
            }
        }
    }
    faults
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The items that a file declares with a plain `pub`.
pub(super) fn public(code: &str) -> Vec<Item> {
    let lines = code.lines().zip(1..);
    let items = lines.filter_map(|(text, line)| {
        let rest = text.trim_start().strip_prefix("pub ")?;
        let mut words = rest.split_whitespace().skip_while(|word| ["async", "unsafe"].contains(word));
        let mut kind = words.next()?;
        let mut name = words.next()?;
        if kind == "const" && name == "fn" {
            (kind, name) = ("fn", words.next()?);
        }
        let kind = KINDS.into_iter().find(|known| *known == kind)?;
        let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        Some(Item { kind, name, line })
    });
    items.collect()
}

/// The words of public signatures, of the fields of public structs, and of public enums and traits.
fn signature_words(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(at) = rest.find("pub ") {
        let declaration = &rest[at + "pub ".len()..];
        let head = &declaration[..declaration.find(['{', ';']).unwrap_or(declaration.len())];
        let is_open = ["enum ", "trait "].iter().any(|kind| head.starts_with(kind));
        let end = if is_open { body_end(declaration) } else { head.len() };
        // Its own name is no use of it: the kind and the name are the first two words.
        let first = if head.contains(" fn ") || head.starts_with("const fn") { 3 } else { 2 };
        let own = KINDS.iter().any(|kind| head.split_whitespace().any(|word| word == *kind));
        found.extend(words(&declaration[..end]).skip(if own { first } else { 1 }).map(str::to_owned));
        rest = declaration;
    }
    found
}

/// Where the braces that follow are closed.
fn body_end(code: &str) -> usize {
    let mut depth = 0_i32;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return at,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

#[test]
fn an_item_is_needed_where_a_name_or_a_signature_says_so() {
    let file = |path: &str, text: &str| File { path: path.into(), text: text.into(), code: strip(text, false) };
    let text = "pub struct Used;\npub struct Part;\npub fn used(part: Part) {}\npub const fn alone() {}\npub(crate) fn own() {}";
    let files = [
        file("wire/src/a.rs", text),
        file("wire/tests/a.rs", "use wire::a::{Used, used};"),
        file("wire/src/b.rs", "use crate::a::alone;"),
    ];
    assert_eq!(unneeded(&files), ["wire/src/a.rs:4: nothing outside `wire` names the public fn `alone`"]);
}
