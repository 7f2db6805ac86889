//! Reads `use` lines: which room a file reaches for, and which file of its own room.
//!
//! Only product code counts, not the tests at a file's end. A re-export is an address, not a need: `pub use` makes no
//! edge, and an import that goes through one ends at the file that defines the name.

use std::collections::{BTreeMap, BTreeSet};

use super::{File, ROOMS, crate_name, product_part, strip};

/// One `use`: its path, each branch of a tree by itself, and whether it is re-exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) path: Vec<String>,
    is_public: bool,
    pub(super) line: usize,
}

/// Every `use` of product code.
pub(super) fn uses(text: &str) -> Vec<Use> {
    let code = strip(product_part(text), false);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(begin) = next_use(&code, at) {
        let end = code[begin..].find(';').map_or(code.len(), |length| begin + length);
        let before = code[..begin].rsplit(['\n', ';', '{', '}']).next().unwrap_or("");
        let (is_public, line) = (before.trim_start().starts_with("pub"), code[..begin].lines().count().max(1));
        for path in branches(&code[begin + "use".len()..end]) {
            found.push(Use { path, is_public, line });
        }
        at = end;
    }
    found
}

/// Where the next `use` statement begins.
fn next_use(code: &str, from: usize) -> Option<usize> {
    code[from..].match_indices("use ").map(|(at, _)| from + at).find(|&at| {
        let before = code[..at].trim_end_matches([' ', '\t']);
        let is_word = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        !is_word && (before.is_empty() || before.ends_with(['\n', ';', '{', '}', ')']) || before.ends_with("pub"))
    })
}

/// The paths of a tree such as `a::{b, c::{d, e as f}}`.
fn branches(tree: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for part in split_at_commas(tree) {
        let (head, rest) = match part.split_once('{') {
            Some((head, rest)) => (head, rest.rsplit_once('}').map(|(inside, _)| inside)),
            None => (part, None),
        };
        let plain = head.split(" as ").next().unwrap_or(head);
        let names: Vec<String> =
            plain.split("::").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
        match rest {
            Some(inside) => paths.extend(branches(inside).into_iter().map(|path| [names.clone(), path].concat())),
            None if names.is_empty() => {}
            None => paths.push(names),
        }
    }
    paths
}

fn split_at_commas(tree: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut parts) = (0_i32, 0, Vec::new());
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[begin..]);
    parts
}

/// A fault for each import of a room that this file's room may not know.
pub(super) fn upward(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files {
        let Some((room, allowed, _)) = room_of(&file.path).and_then(|room| ROOMS.iter().find(|row| row.0 == room))
        else {
            continue;
        };
        for one in uses(&file.text) {
            let Some(first) = one.path.first() else { continue };
            let is_room = ROOMS.iter().any(|(other, ..)| crate_name(other) == first && other != room);
            if is_room && !allowed.contains(&first.as_str()) {
                faults.push(format!("{}:{}: an arrow upward: imports `{first}`", file.path, one.line));
            }
        }
    }
    faults
}

/// The room whose product a file is part of; none of a file of tests.
pub(super) fn room_of(path: &str) -> Option<&'static str> {
    if path.ends_with("/tests.rs") || path.contains("/tests/") {
        return None;
    }
    let is_in =
        |room: &str| path.strip_prefix(room).is_some_and(|rest| rest.trim_start_matches('/').starts_with("src/"));
    ROOMS.iter().map(|(room, ..)| *room).filter(|room| is_in(room)).max_by_key(|room| room.len())
}

/// A module: its room, and its path in it.
type Module = (&'static str, Vec<String>);

/// The modules of all rooms and what each imports.
struct Modules<'a> {
    files: BTreeMap<Module, (&'a str, Vec<Use>)>,
}

impl<'a> Modules<'a> {
    fn of(files: &'a [File]) -> Self {
        let modules = files.iter().filter_map(|file| {
            let room = room_of(&file.path)?;
            let inside = file.path[room.len()..].trim_start_matches('/').strip_prefix("src/")?.strip_suffix(".rs")?;
            let path = match inside {
                "lib" | "main" => Vec::new(),
                inside => inside.split('/').map(str::to_owned).collect(),
            };
            Some(((room, path), (file.path.as_str(), uses(&file.text))))
        });
        Self { files: modules.collect() }
    }

    /// The module that a path leads to from `base`, and what is left of the path.
    fn resolve(&self, base: &Module, path: &[String]) -> Option<(Module, Vec<String>)> {
        let (mut module, mut rest) = (base.clone(), path);
        let is_relative = matches!(rest.first().map(String::as_str), Some("crate" | "self" | "super"));
        while let Some((first, others)) = rest.split_first() {
            match first.as_str() {
                "crate" => module.1.clear(),
                "self" => {}
                "super" => drop(module.1.pop()),
                name => {
                    let child = (module.0, [&module.1[..], &[name.to_owned()]].concat());
                    if !self.files.contains_key(&child) {
                        break;
                    }
                    module = child;
                }
            }
            rest = others;
        }
        let moved = is_relative || rest.len() < path.len();
        moved.then(|| (module, rest.to_vec()))
    }

    /// The file that defines what is left of a path in `module`: that of a re-export's own target.
    fn definer(&self, module: &Module, rest: &[String], depth: usize) -> Option<&'a str> {
        let (file, uses) = self.files.get(module)?;
        let Some(name) = rest.first().filter(|_| depth > 0) else { return Some(file) };
        let through = uses.iter().find(|one| one.is_public && one.path.last() == Some(name));
        let target = through.and_then(|one| self.resolve(module, &one.path));
        match target {
            Some((module, rest)) => self.definer(&module, &rest, depth - 1),
            None => Some(file),
        }
    }

    /// For each file the files of its room that it needs.
    fn edges(&self) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
        let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (module, (file, uses)) in &self.files {
            for one in uses.iter().filter(|one| !one.is_public) {
                let target = self.resolve(module, &one.path);
                let definer = target.and_then(|(module, rest)| self.definer(&module, &rest, 8));
                edges.entry(file).or_default().extend(definer.filter(|definer| definer != file));
            }
        }
        edges
    }
}

/// Each circle as the needs that close it, `a → b`.
pub(super) fn circles_explained(files: &[File]) -> Vec<String> {
    let edges = Modules::of(files).edges();
    let explained = circles_of(&edges).into_iter().map(|circle| {
        let inside = |to: &&&str| circle.contains(*to);
        let needs =
            circle.iter().flat_map(|from| edges[from].iter().filter(inside).map(move |to| format!("{from} → {to}")));
        needs.collect::<Vec<_>>().join(", ")
    });
    explained.collect()
}

/// The circles between files: sets of files each of which needs every other.
pub(super) fn circles(files: &[File]) -> Vec<Vec<&str>> {
    circles_of(&Modules::of(files).edges())
}

fn circles_of<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    let reached = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut left: Vec<&str> = edges.get(from).into_iter().flatten().copied().collect();
        while let Some(file) = left.pop() {
            if reached.insert(file) {
                left.extend(edges.get(file).into_iter().flatten());
            }
        }
        reached
    };
    let all: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|file| (*file, reached(file))).collect();
    let mut circles = BTreeSet::new();
    for (file, reached) in all.iter().filter(|(file, reached)| reached.contains(*file)) {
        let back = |other: &&&str| all.get(**other).is_some_and(|reached| reached.contains(file));
        circles.insert(reached.iter().filter(back).copied().collect::<Vec<&str>>());
    }
    circles.into_iter().collect()
}

#[test]
fn trees_are_read_branch_by_branch() {
    let text = "use a::{b, c::{d, e as f}};\npub(crate) use g;\n// use h;\nfn x() { use self::i::*; }\nlet reuse = 1;";
    let found = uses(text);
    let paths: Vec<String> = found.iter().map(|one| one.path.join("::")).collect();
    assert_eq!(paths, ["a::b", "a::c::d", "a::c::e", "g", "self::i::*"]);
    assert_eq!(found.iter().map(|one| one.is_public).collect::<Vec<_>>(), [false, false, false, true, false]);
    assert_eq!(found.iter().map(|one| one.line).collect::<Vec<_>>(), [1, 1, 1, 2, 4]);
}

#[test]
fn a_circle_is_found_through_a_re_export() {
    let file = |path: &str, text: &str| File { path: path.into(), text: text.into(), code: strip(text, false) };
    let lib = file("wire/src/lib.rs", "mod a;\nmod b;\npub use a::{One, inner::Two};");
    let inner = file("wire/src/a/inner.rs", "use crate::b::Three;");
    let round = [lib, file("wire/src/a.rs", "pub mod inner;"), inner, file("wire/src/b.rs", "use crate::Two;")];
    assert_eq!(circles(&round), [["wire/src/a/inner.rs", "wire/src/b.rs"]]);
    assert!(circles(&round[..3]).is_empty());
    let up = [file(
        "wire/src/lib.rs",
        "use policy::Facts;\nuse serde::Serialize;\n#[cfg(test)]\nmod tests {\nuse loader::X;\n}",
    )];
    assert_eq!(upward(&up), ["wire/src/lib.rs:1: an arrow upward: imports `policy`"]);
}
