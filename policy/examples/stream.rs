//! The screen of streams: nanoseconds a byte, the text held back, and the memory of lists; and a whole decision:
//! `cargo run --release -p forebay-policy --example stream`.

#![expect(clippy::print_stdout, reason = "an example prints what it measures")]

use policy::{DenyList, DenyListConfig, Facts, Moment, OutputScreen, Policy, PolicyConfig, Presented};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::openai::COMPLETIONS;
use wire::openai::scan::{Limits, scan};

const WORDS: [&str; 24] = [
    "the", "turbine", "stores", "water", "above", "weights", "map", "into", "memory", "token", "pool", "river", "of",
    "and", "a", "request", "is", "one", "door", "screen", "phrase", "button", "red", "to",
];
const TEXT_BYTES: usize = 1 << 20;
const ROUNDS: usize = 9;
/// Characters of a token, about.
const PIECE_BYTES: usize = 4;

/// A generator of the same numbers everywhere (Knuth's MMIX).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// A word of the texts, or one in three times a word that is in none.
fn word(numbers: &mut Numbers) -> String {
    if numbers.below(3) > 0 {
        return WORDS[numbers.below(WORDS.len())].to_owned();
    }
    (0..6).map(|_| char::from(b'a' + u8::try_from(numbers.below(26)).unwrap_or(0))).collect()
}

fn compile(phrases: Vec<String>) -> Arc<DenyList> {
    Arc::new(DenyList::new(&DenyListConfig { phrases }).expect("valid").expect("not empty"))
}

/// The memory of this process that is in use, in MiB.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0.0);
    pages * 4096.0 / f64::from(1 << 20)
}

fn main() {
    let mut numbers = Numbers(7);
    let mut letter = || char::from(b'a' + u8::try_from(numbers.below(26)).unwrap_or(0));
    let mut phrase = || (0..250).map(|place| if place % 84 == 83 { ' ' } else { letter() }).collect::<String>();
    let phrases: Vec<String> = (0..20_000).map(|_| phrase()).collect();
    let before = resident_mib();
    let list = compile(phrases);
    println!("20000 phrases of 250 bytes: {:.1} MiB", resident_mib() - before);
    drop(list);
    let mut text = String::new();
    while text.len() < TEXT_BYTES {
        text += WORDS[numbers.below(WORDS.len())];
        text.push(' ');
    }
    for count in [5_000, 100_000] {
        // Three words each; most share beginnings with the text, and all end in a word that it has not.
        let phrase = |number| format!("{} {} zz{number}", word(&mut numbers), word(&mut numbers));
        stream(&compile((0..count).map(phrase).collect()), &format!("{count} near phrases"), &text);
    }
    for count in [5_000, 100_000] {
        // As lists are: a tenth of the phrases begin as the text does.
        let phrase = |number| match number % 10 {
            0 => format!("{} {} zz{number}", word(&mut numbers), word(&mut numbers)),
            _ => format!("{} q{number} {}", far(&mut numbers), word(&mut numbers)),
        };
        stream(&compile((0..count).map(phrase).collect()), &format!("{count} phrases"), &text);
    }
    decide((0..5_000).map(|_| format!("{} {}", far(&mut numbers), far(&mut numbers))).collect(), &text[..400_000]);
}

/// A whole decision over a prompt, with all readings, its scan aside.
fn decide(phrases: Vec<String>, text: &str) {
    let mut config = PolicyConfig::default();
    config.deny_list.phrases = phrases;
    let policy = Policy::new(&config).expect("valid");
    let body = serde_json::json!({"model": "m", "prompt": text}).to_string();
    let scan = scan(body.as_bytes(), &COMPLETIONS, &Limits::default()).expect("a body");
    let who = policy.identify(Presented::Nothing, None, Moment(Duration::ZERO)).expect("anonymous");
    let facts = Facts { who: &who, endpoint: &COMPLETIONS, body: body.as_bytes(), scan: &scan };
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        assert!(policy.decide(&facts).is_ok());
        #[expect(clippy::cast_precision_loss, reason = "a text's length")]
        let ns = begun.elapsed().as_nanos() as f64 / text.len() as f64;
        best = best.min(ns);
    }
    println!("decide_5000 {best:.2} ns/byte");
}

/// A word of eight letters, which the texts do not have.
fn far(numbers: &mut Numbers) -> String {
    (0..8).map(|_| char::from(b'a' + u8::try_from(numbers.below(26)).unwrap_or(0))).collect()
}

fn stream(list: &Arc<DenyList>, name: &str, text: &str) {
    let mut best = f64::INFINITY;
    let mut held: Vec<usize> = Vec::new();
    for _ in 0..ROUNDS {
        held.clear();
        let mut screen = OutputScreen::new(Arc::clone(list), false);
        let (mut read, mut released) = (0, 0);
        let begun = Instant::now();
        for piece in text.as_bytes().chunks(PIECE_BYTES) {
            let piece = std::str::from_utf8(piece).expect("ASCII");
            read += piece.len();
            let release = screen.push(piece);
            assert!(!release.blocked);
            released += release.text.len();
            held.push(read - released);
        }
        #[expect(clippy::cast_precision_loss, reason = "a text's length")]
        let ns = begun.elapsed().as_nanos() as f64 / text.len() as f64;
        best = best.min(ns);
    }
    held.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "a text's length")]
    let mean = held.iter().sum::<usize>() as f64 / held.len() as f64;
    let p99 = held[held.len() * 99 / 100];
    println!("{name}: {best:.2} ns/byte, held back {mean:.1} bytes on average, p99 {p99}");
}
