//! Counts of the tree: a compass, not a fence. `evals/measure/house` prints those of two commits side by side.
//!
//! Product is what the rooms' `src/` folders hold, unit tests left out; the test kit is not product.

use super::uses::{circles, room_of};
use super::{File, has_word, items, manifest, product_part, rust_files};

/// The last line that the test prints begins so; one JSON object follows.
const MARK: &str = "counts: ";

#[test]
fn counts_are_printed_for_the_reader() {
    let files: Vec<File> = rust_files("");
    let product: Vec<&File> =
        files.iter().filter(|file| room_of(&file.path).is_some_and(|room| room != "testkit")).collect();
    let parts: Vec<&str> = product.iter().map(|file| product_part(&file.text)).collect();
    let lines_of = |texts: &[&str]| texts.iter().map(|text| text.lines().count()).sum::<usize>();
    let (lines, all_lines) = (lines_of(&parts), files.iter().map(|file| file.text.lines().count()).sum::<usize>());
    let docs = parts.iter().flat_map(|text| text.lines()).filter(|line| is_doc(line)).count();
    let public: usize = product.iter().map(|file| items::public(&file.code_of_product()).len()).sum();
    let circles = circles(&files);
    let members = manifest("")["workspace"]["members"].as_array().map_or(0, Vec::len);

    let lengths = parts.iter().zip(&product).map(|(text, file)| (text.lines().count(), file.path.clone()));
    let lengths = sorted(lengths.collect());
    let functions = sorted(product.iter().flat_map(|file| function_lengths(file)).collect());
    for (kind, lengths) in [("files", &lengths), ("functions", &functions)] {
        println!("the longest {kind}:");
        lengths.iter().rev().take(8).for_each(|(count, place)| println!("  {count:>5}  {place}"));
    }
    let counts = serde_json::json!({
        "crates": members + 1,
        "files": product.len(),
        "lines of product": lines,
        "of which documentation": docs,
        "lines of tests, testkit, examples, fuzz targets": all_lines - lines,
        "lines of a file, p95": quantile(&lengths, 95),
        "functions": functions.len(),
        "lines of a function, p50": quantile(&functions, 50),
        "lines of a function, p95": quantile(&functions, 95),
        "public items": public,
        "circles between files": circles.len(),
        "files in circles": circles.iter().map(Vec::len).sum::<usize>(),
    });
    println!("{MARK}{counts}");
    assert!(lines > 0 && !functions.is_empty(), "nothing was found to count");
}

impl File {
    /// The product's code: the file without unit tests, comments and what strings hold.
    fn code_of_product(&self) -> String {
        let lines = product_part(&self.text).lines().count();
        self.code.lines().take(lines).map(|line| format!("{line}\n")).collect()
    }
}

fn is_doc(line: &str) -> bool {
    ["///", "//!"].iter().any(|mark| line.trim_start().starts_with(mark))
}

fn sorted(mut lengths: Vec<(usize, String)>) -> Vec<(usize, String)> {
    lengths.sort_unstable();
    lengths
}

/// Nearest rank.
fn quantile(sorted: &[(usize, String)], percent: usize) -> usize {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).map_or(0, |entry| entry.0)
}

/// The functions of a formatted file, each from its `fn` line to the brace of the same indent.
fn function_lengths(file: &File) -> Vec<(usize, String)> {
    let code = file.code_of_product();
    let lines: Vec<&str> = code.lines().collect();
    let mut lengths = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = &line[..line.len() - line.trim_start().len()];
        if !has_word(line, "fn") || line.trim_end().ends_with(';') || line.contains("Fn(") {
            continue;
        }
        let close = format!("{indent}}}");
        if let Some(count) = lines[start..].iter().position(|line| line.trim_end() == close) {
            lengths.push((count + 1, format!("{}:{}", file.path, start + 1)));
        }
    }
    lengths
}
