//! The deny list's cost, in nanoseconds a byte: `cargo run --release -p forebay-policy --example screen`.
//! `evals/bench/policy/run` compares two commits.

#![expect(clippy::print_stdout, reason = "an example prints what it measures")]

use policy::{DenyList, DenyListConfig};
use std::hint::black_box;
use std::time::Instant;

const WORDS: [&str; 24] = [
    "the", "turbine", "stores", "water", "above", "weights", "map", "into", "memory", "token", "pool", "river", "of",
    "and", "a", "request", "is", "one", "door", "screen", "phrase", "button", "red", "to",
];
const HAN: &str = "水库把存储变成令牌模型权重在内存里请求经过一扇门答案流回一个屏幕红色按钮毒品世界和平";
const TEXT_BYTES: usize = 1 << 20;
const ROUNDS: usize = 9;

/// A generator of the same numbers everywhere (Knuth's MMIX).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

fn text(numbers: &mut Numbers, next: impl Fn(&mut Numbers) -> String) -> String {
    let mut text = String::with_capacity(TEXT_BYTES + 64);
    while text.len() < TEXT_BYTES {
        text.push_str(&next(numbers));
    }
    text
}

fn main() {
    let mut numbers = Numbers(7);
    let word = |numbers: &mut Numbers| WORDS[numbers.below(WORDS.len())];
    let han: Vec<char> = HAN.chars().collect();
    // Phrases share their beginnings with the texts, and none is in them: "zz" is not a word here.
    let near: Vec<String> =
        (0..1_000).map(|number| format!("{} {} zz{number}", word(&mut numbers), word(&mut numbers))).collect();
    // Phrases of words that the texts do not have, as of other subjects than theirs.
    let far = |count: usize| -> Vec<String> {
        let mut numbers = Numbers(11);
        (0..count).map(|_| format!("{} {}", name(&mut numbers), name(&mut numbers))).collect()
    };
    let english = text(&mut numbers, |numbers| format!("{} ", word(numbers)));
    let ideographs = text(&mut numbers, |numbers| han[numbers.below(han.len())].to_string());
    let french = text(&mut numbers, |numbers| format!("{}é ", word(numbers)));
    measure("english", &near, &english);
    measure("han", &near, &ideographs);
    measure("french", &near, &french);
    measure("clean_5000", &far(5_000), &english);
    measure("clean_100000", &far(100_000), &english);
}

/// A word of three syllables that no language has.
fn name(numbers: &mut Numbers) -> String {
    let syllable = |numbers: &mut Numbers| {
        let letter = |letters: &str, numbers: &mut Numbers| letters.as_bytes()[numbers.below(letters.len())] as char;
        [letter("bdfgklmnprstvz", numbers), letter("aeiou", numbers), letter("lmnrst", numbers)]
    };
    (0..3).flat_map(|_| syllable(numbers)).collect()
}

fn measure(name: &str, phrases: &[String], text: &str) {
    // An older commit may refuse so many.
    let Ok(Some(list)) = DenyList::new(&DenyListConfig { phrases: phrases.to_vec() }) else { return };
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        assert!(black_box(list.find(black_box(text))).is_none());
        #[expect(clippy::cast_precision_loss, reason = "a text's length")]
        let ns = begun.elapsed().as_nanos() as f64 / text.len() as f64;
        best = best.min(ns);
    }
    println!("{name} {best:.2} ns/byte");
}
