//! The house rules as tests: who may import whom, what a file looks like, where `unsafe` may live,
//! that metric names are data, that nothing of one machine is in the tree.
//!
//! A failure says file, line and fix. What only a reader can judge is not here.

#[path = "house/counts.rs"]
mod counts;
#[path = "house/items.rs"]
mod items;
#[path = "house/uses.rs"]
mod uses;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each room, what it may import of ours, and what it must never import of others'.
const ROOMS: [(&str, &[&str], &[&str]); 15] = [
    ("tensor", &[], &["tokio", "axum", "hyper", "safetensors", "candle-core", "anyhow"]),
    ("wire", &[], &["tokio", "axum", "hyper", "hyper-util", "candle-core", "anyhow"]),
    ("telemetry", &[], &["axum", "candle-core", "anyhow"]),
    ("listen", &["wire", "telemetry"], &["candle-core", "anyhow"]),
    ("policy", &["wire"], &["tokio", "axum", "hyper", "hyper-util", "candle-core", "anyhow"]),
    ("loader", &["tensor", "wire", "telemetry"], &["axum", "candle-core", "anyhow"]),
    ("discovery", &["wire", "telemetry", "listen"], &["axum", "candle-core", "anyhow"]),
    ("seeding", &["wire", "telemetry", "listen", "policy", "loader"], &["candle-core", "anyhow"]),
    ("worker/models", &["tensor", "loader", "wire"], &["tokio", "axum", "candle-core", "anyhow"]),
    ("worker/compute", &["tensor"], &["tokio", "axum", "anyhow"]),
    (
        "worker",
        &["tensor", "wire", "telemetry", "listen", "policy", "loader", "discovery", "seeding", "models", "compute"],
        &["candle-core", "anyhow"],
    ),
    ("router", &["wire", "telemetry", "listen", "policy", "discovery"], &["candle-core", "anyhow"]),
    ("evals", &["wire"], &["axum", "candle-core"]),
    ("testkit", &["wire", "loader"], &["candle-core"]),
    // The binary wires all rooms together; the test kit is for tests.
    (
        "",
        &[
            "wire",
            "telemetry",
            "listen",
            "policy",
            "loader",
            "discovery",
            "seeding",
            "models",
            "worker",
            "router",
            "evals",
        ],
        &["axum", "candle-core"],
    ),
];

/// Where `unsafe` may live.
const UNSAFE_ROOMS: [&str; 4] =
    ["loader/src/region", "worker/compute/src/kernels", "worker/compute/src/cuda", "worker/compute/src/kernels.rs"];

/// Pure functions of their arguments: rooms by their `lib.rs`, and single files with the folders beside them. Each with
/// what it may do all the same.
const PURE: [(&str, &[&str]); 16] = [
    ("policy/src/lib.rs", &[]),
    ("tensor/src/lib.rs", &[]),
    ("wire/src/lib.rs", &[]),
    // It writes the demo model, and parses big texts on threads of its own.
    ("worker/models/src/lib.rs", &["std::fs", "std::thread"]),
    ("worker/src/engine/core.rs", &[]),
    ("worker/src/engine/scheduler.rs", &[]),
    ("loader/src/plan.rs", &[]),
    ("loader/src/fetch/decide.rs", &[]),
    ("loader/src/fetch/stall.rs", &[]),
    ("loader/src/fetch/supply.rs", &[]),
    ("loader/src/fetch/window.rs", &[]),
    ("loader/src/peers/choose.rs", &[]),
    ("router/src/breaker.rs", &[]),
    ("router/src/outcome.rs", &[]),
    ("router/src/pick.rs", &[]),
    ("router/src/strikes.rs", &[]),
];

/// The files that may know candle.
const CANDLE: &str = "worker/compute/src/candle";

/// Fields of OpenAI's answers, by which a reader of answers gives itself away: only `wire/openai` spells them. Names
/// of request fields are not here: clients write requests, and errors name the parameter at fault.
const ANSWER_FIELDS: [&str; 9] = [
    "choices",
    "delta",
    "finish_reason",
    "logprobs",
    "tool_calls",
    "reasoning_content",
    "prompt_tokens",
    "completion_tokens",
    "system_fingerprint",
];

/// Where metric names are spelled.
const NAMES: &str = "telemetry/src/names.rs";

/// A metric's name begins like one of these.
const METRIC_PREFIXES: [&str; 7] = [
    "forebay_router_",
    "forebay_worker_",
    "forebay_loader_",
    "forebay_policy_",
    "forebay_listen_",
    "forebay_node_",
    "vllm:",
];

/// Words of one machine or one workplace, foreign to the project: home folders and the hosts of
/// package registries. Split, so that this file does not break its own rule.
const FOREIGN: [&str; 6] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("registry.npm", "js"),
];

#[test]
fn rooms_import_only_the_floors_below_them() {
    let mut faults = Vec::new();
    let workspace = manifest("");
    let members = workspace["workspace"]["members"].as_array().expect("the workspace lists its members");
    for member in members.iter().filter_map(toml::Value::as_str) {
        if !ROOMS.iter().any(|(room, ..)| *room == member) {
            faults.push(format!(
                "Cargo.toml: `{member}` is no room of the house; add it to ROOMS with what it may import"
            ));
        }
    }
    for (room, allowed, never) in ROOMS {
        let path = Path::new(room).join("Cargo.toml");
        for (name, package) in dependencies(&manifest(room)) {
            let ours = package.strip_prefix("forebay-").map(str::to_owned);
            if let Some(import) = ours.or_else(|| is_room(&name).then(|| name.clone()))
                && !allowed.contains(&import.as_str())
            {
                let may = if allowed.is_empty() { "nothing of ours".to_owned() } else { allowed.join(", ") };
                faults.push(format!("{}: imports `{import}`; this room may import {may}", path.display()));
            }
            if never.contains(&package.as_str()) {
                let fix =
                    if package == "anyhow" { "libraries have thiserror enums" } else { "it belongs to another room" };
                faults.push(format!("{}: imports `{package}`; {fix}", path.display()));
            }
        }
    }
    report(faults);
}

#[test]
fn use_lines_go_down_only() {
    report(uses::upward(&rust_files("/src/")));
}

#[test]
fn no_circle_joins_files() {
    let files = rust_files("/src/");
    let fault = |needs| format!("a circle of files: {needs}: move what they share into a file below them");
    report(uses::circles_explained(&files).into_iter().map(fault).collect());
}

#[test]
fn public_items_are_named_outside_their_room() {
    report(items::unneeded(&rust_files("")));
}

#[test]
fn only_the_candle_backend_knows_candle() {
    let mut faults = Vec::new();
    for file in rust_files("/src/").iter().filter(|file| !file.path.starts_with(CANDLE)) {
        faults.extend(file.words("candle_core", false, &format!("only {CANDLE}* may use candle")));
    }
    report(faults);
}

#[test]
fn only_wire_openai_spells_the_fields_of_answers() {
    let mut faults = Vec::new();
    let others = |file: &&File| {
        let is_product = uses::room_of(&file.path).is_some_and(|room| room != "testkit");
        is_product && !file.path.starts_with("wire/src/openai")
    };
    for file in rust_files("/src/").iter().filter(others) {
        let code = strip(product_part(&file.text), true);
        for (number, line) in code.lines().enumerate() {
            for field in ANSWER_FIELDS.iter().filter(|field| spells(line, field)) {
                let path = &file.path;
                faults.push(format!("{path}:{}: spells `{field}`; read it through wire::openai", number + 1));
            }
        }
    }
    report(faults);
}

#[test]
fn pure_files_read_no_clock_and_do_no_io() {
    const ATTRIBUTE: &str = "\n#![warn(clippy::disallowed_methods)]\n";
    let files = rust_files("/src/");
    let mut faults = Vec::new();
    for (pure, may) in PURE {
        let Some(file) = files.iter().find(|file| file.path == pure) else {
            faults.push(format!("{pure}: is gone; take it off PURE, or name the file that is pure now"));
            continue;
        };
        if !file.text.contains(ATTRIBUTE) {
            faults.push(format!("{pure}: open with `{}`, so that clippy sees clocks and dice", ATTRIBUTE.trim()));
        }
        let folder = format!("{}/", pure.strip_suffix("/lib.rs").unwrap_or(pure.trim_end_matches(".rs")));
        for file in files.iter().filter(|file| file.path == pure || file.path.starts_with(&folder)) {
            for word in ["std::fs", "std::net", "std::env", "std::thread"].iter().filter(|word| !may.contains(word)) {
                faults.extend(file.words(word, true, "a pure function takes facts and time as arguments"));
            }
        }
    }
    report(faults);
}

#[test]
fn every_source_file_says_what_its_room_is_for() {
    let mut faults = Vec::new();
    for file in rust_files("") {
        if file.path.ends_with("/mod.rs") {
            faults.push(format!("{}: name it `foo.rs` beside `foo/` instead of mod.rs", file.path));
        }
        let in_src = file.path.starts_with("src/") || file.path.contains("/src/");
        if in_src && !file.text.starts_with("//!") {
            faults.push(format!("{}:1: open with `//!`: what this file is for, and what it does not know", file.path));
        }
    }
    report(faults);
}

#[test]
fn every_metric_is_declared_once_and_used() {
    let files = rust_files("/src/");
    let names = files.iter().find(|file| file.path == NAMES).expect("telemetry declares the metric names");
    let mut faults = Vec::new();
    for (number, line) in names.text.lines().enumerate() {
        let Some(name) = line.trim().strip_prefix("pub const ").and_then(|rest| rest.split_once(": Def")) else {
            continue;
        };
        let used = files.iter().any(|file| file.path != NAMES && has_word(&file.code, name.0));
        if !used {
            faults.push(format!("{NAMES}:{}: nobody uses `{}`; count it somewhere, or delete it", number + 1, name.0));
        }
    }
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap_or_default();
    for literal in names.text.split('"').filter(|text| METRIC_PREFIXES.iter().any(|prefix| text.starts_with(prefix))) {
        if !page.contains(&format!("`{literal}`")) {
            faults.push(format!("docs/metrics.md: does not explain `{literal}`; add its row"));
        }
    }
    for file in files.iter().filter(|file| file.path != NAMES) {
        let code = strip(product_part(&file.text), true);
        for (number, line) in code.lines().enumerate() {
            for prefix in METRIC_PREFIXES {
                if line.contains(&format!("\"{prefix}")) {
                    let path = &file.path;
                    faults.push(format!(
                        "{path}:{}: a metric name (\"{prefix}…\") outside {NAMES}; declare it there and use the constant",
                        number + 1
                    ));
                }
            }
        }
    }
    report(faults);
}

#[test]
fn unsafe_lives_only_in_its_rooms() {
    let mut faults = Vec::new();
    for file in rust_files("") {
        if !UNSAFE_ROOMS.iter().any(|room| file.path.starts_with(room)) {
            let fix = format!("`unsafe` lives only under {}", UNSAFE_ROOMS[..3].join("*, "));
            faults.extend(file.words("unsafe", false, &fix));
        }
    }
    report(faults);
}

#[test]
fn the_tree_names_no_machine_and_no_registry() {
    let mut faults = Vec::new();
    for path in tracked_files() {
        let is_lock = path.ends_with(".lock") || path.ends_with("-lock.json");
        // Binary files, and files someone is just deleting, are none of ours to read.
        let Some(text) = std::fs::read(root().join(&path)).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
            continue;
        };
        for (number, line) in text.lines().enumerate().filter(|_| !is_lock) {
            for foreign in FOREIGN.iter().filter(|foreign| line.contains(**foreign)) {
                faults.push(format!(
                    "{path}:{}: holds `{foreign}`: use a relative path, or the tool's default",
                    number + 1
                ));
            }
        }
    }
    report(faults);
}

#[test]
fn no_file_holds_an_unmended_merge() {
    // Put together here, so that this file does not find itself.
    let marks = ["<<<<<<<", ">>>>>>>", "|||||||"].map(|mark| format!("{mark} "));
    let mut faults = Vec::new();
    for name in tracked_files() {
        let Ok(text) = std::fs::read_to_string(root().join(&name)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.starts_with(mark.as_str())) {
                faults.push(format!("{name}:{}: a conflict of a merge is left: choose a side", number + 1));
            }
        }
    }
    report(faults);
}

#[test]
fn a_spelled_field_is_seen_in_texts_alone() {
    assert!(spells("chunk.get(\"choices\")", "choices") && spells(r#"json!({"choices": []})"#, "choices"));
    assert!(spells(r#"let text = "{\"choices\":[]}";"#, "choices"));
    assert!(!spells("let choices = answer.choices(); // \"all choices\"", "choices"));
}

#[test]
fn unit_tests_are_no_part_of_the_product() {
    let product = "fn a() {}\n#[cfg(test)]\nuse b;\nfn c() {}";
    for tests in ["\n#[cfg(test)]\nmod tests {}", "\n#[cfg(test)]\n#[expect(lint, reason = \"r\")]\nmod tests {}"] {
        assert_eq!(product_part(&format!("{product}{tests}")), product);
    }
}

#[test]
fn the_lexer_tells_code_from_comments_and_strings() {
    let text = "let a = \"unsafe // x\"; // unsafe\n/* unsafe /* unsafe */ */ 'x' '\"' r#\"unsafe\"# &'a b\nreal";
    let code = strip(text, false);
    assert!(!code.contains("unsafe"), "{code}");
    assert!(code.contains("&'a b") && code.ends_with("real"));
    assert_eq!(code.lines().count(), 3, "lines keep their numbers");
    assert!(strip(text, true).contains("\"unsafe // x\""));
}

/// One Rust file.
struct File {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
    /// The text without comments and without what strings hold; lines keep their numbers.
    code: String,
}

impl File {
    /// A fault for each line of code that holds `word`; with `product`, tests at the end are spared.
    fn words(&self, word: &str, product: bool, fix: &str) -> Vec<String> {
        let lines = if product { product_part(&self.text).lines().count() } else { usize::MAX };
        let found = self.code.lines().take(lines).enumerate().filter(|(_, line)| has_word(line, word));
        found.map(|(number, _)| format!("{}:{}: `{word}`: {fix}", self.path, number + 1)).collect()
    }
}

/// True if a line has a text that is this name, or JSON within a text that has it as a key.
fn spells(line: &str, name: &str) -> bool {
    line.contains(&format!("\"{name}\"")) || line.contains(&format!("\\\"{name}\\\""))
}

fn report(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} house rules are broken:\n{}\n", faults.len(), faults.join("\n"));
}

fn root() -> PathBuf {
    unpacked().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
}

/// Another tree to read than the one this test was built in: `evals/measure/house` has one to count.
fn unpacked() -> Option<PathBuf> {
    std::env::var_os("FOREBAY_HOUSE").map(PathBuf::from)
}

fn manifest(room: &str) -> toml::Table {
    let path = root().join(room).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The dependencies of a crate's product, as (name in code, package); development dependencies are free.
fn dependencies(manifest: &toml::Table) -> BTreeMap<String, String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = std::iter::once(manifest)
        .chain(targets.into_iter().flat_map(|targets| targets.values().filter_map(toml::Value::as_table)))
        .flat_map(|table| ["dependencies", "build-dependencies"].map(|key| table.get(key)));
    let entries = tables.flatten().filter_map(toml::Value::as_table).flatten();
    entries
        .map(|(name, value)| {
            let package = value.get("package").and_then(toml::Value::as_str);
            (name.clone(), package.unwrap_or(name).to_owned())
        })
        .collect()
}

/// A room as code names it: the last part of its path.
fn crate_name(room: &str) -> &str {
    room.rsplit('/').next().unwrap_or(room)
}

fn is_room(name: &str) -> bool {
    ROOMS.iter().any(|(room, ..)| crate_name(room) == name)
}

/// The Rust files whose path holds `part`, or lie in the binary's `src/`.
fn rust_files(part: &str) -> Vec<File> {
    let paths = tracked_files().into_iter().filter(|path| path.ends_with(".rs"));
    let files = paths.filter(|path| path.contains(part) || path.starts_with("src/")).filter_map(|path| {
        let text = std::fs::read_to_string(root().join(&path)).ok()?;
        let code = strip(&text, false);
        Some(File { path, text, code })
    });
    let files: Vec<File> = files.collect();
    assert!(files.len() > 5, "found only {} Rust files", files.len());
    files
}

/// The files that git tracks or would track; in an unpacked archive without git, everything but build output.
fn tracked_files() -> Vec<String> {
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    match listing {
        Ok(output) if unpacked().is_none() && output.status.success() && !output.stdout.is_empty() => {
            let mut paths: Vec<String> =
                String::from_utf8_lossy(&output.stdout).split_terminator('\0').map(str::to_owned).collect();
            paths.sort();
            paths.dedup();
            paths
        }
        _ => walk(&root(), ""),
    }
}

fn walk(folder: &Path, prefix: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        match (is_folder, name.as_str()) {
            (true, "target" | ".git" | "node_modules" | ".venv" | "__pycache__") => {}
            (true, _) => paths.extend(walk(&entry.path(), &format!("{prefix}{name}/"))),
            (false, _) => paths.push(format!("{prefix}{name}")),
        }
    }
    paths
}

/// A file's text up to its unit tests, which close a file in this house.
fn product_part(text: &str) -> &str {
    const TEST: &str = "\n#[cfg(test)]\n";
    let is_module = |at: &usize| {
        let mut lines = text[at + TEST.len()..].lines();
        lines.find(|line| !line.starts_with("#[")).is_some_and(|line| line.starts_with("mod "))
    };
    let mut ends = text.match_indices(TEST).map(|(at, _)| at);
    ends.find(is_module).map_or(text, |end| &text[..end])
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(is_part)
            && !text[at + word.len()..].chars().next().is_some_and(is_part)
    })
}

/// Blanks out comments and, unless `keep_strings`, what string and character literals hold.
fn strip(text: &str, keep_strings: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_name = out.chars().next_back().is_some_and(|c: char| c.is_alphanumeric() || c == '_');
        let (length, keep) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (block_comment(rest), false)
        } else if let Some(length) = literal(rest, in_name) {
            (length, keep_strings)
        } else {
            (first.len_utf8(), true)
        };
        let (token, after) = rest.split_at(length);
        if keep {
            out.push_str(token);
        } else {
            out.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    out
}

/// The length of the block comment that `text` begins with; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let step = &text.as_bytes()[at..];
        if step.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if step.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length of the string or character literal that `text` begins with, if it does.
fn literal(text: &str, in_name: bool) -> Option<usize> {
    if let Some(inner) = text.strip_prefix('"') {
        return Some(1 + quoted(inner, '"'));
    }
    if let Some(inner) = text.strip_prefix('\'') {
        let mut chars = inner.chars();
        let (first, second) = (chars.next()?, chars.next()?);
        // `'a'` and `'\n'` are characters, `'a` alone is a lifetime.
        return (first == '\\' || second == '\'').then(|| 1 + quoted(inner, '\''));
    }
    let hashes = text.strip_prefix('r').filter(|_| !in_name)?;
    let count = hashes.len() - hashes.trim_start_matches('#').len();
    let inner = hashes[count..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(count));
    Some(1 + count + 1 + inner.find(&end).map_or(inner.len(), |at| at + end.len()))
}

/// The length up to and with the closing quote, escapes skipped.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}
