//! Claims about whatever a model says, and about whatever form of answers a client asks for.

use models::calls::{Format, Part, Reader};
use models::demo;
use models::grammar::{Pace, Shape, Vocabulary};
use models::thoughts::{self, Begun, Marks};
use models::tokenizer::{TextFiles, Tokenizer};
use std::sync::LazyLock;
use wire::openai::structure::{Form, Structure};

/// Reads a model's answer, cut at one place: calls and thoughts are read alike, and without tools nothing is lost. The first
/// two bytes choose the format and the place.
pub(crate) fn said(data: &[u8]) {
    let Some(([format, place], bytes)) = data.split_first_chunk() else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let names = ["hermes", "llama3_json", "mistral", "pythonic", "json"];
    let format = Format::named(names[usize::from(*format) % names.len()]).expect("a format");
    let (head, tail) = text.split_at(text.floor_char_boundary(usize::from(*place)));
    for is_live in [false, true] {
        let tools = || vec!["f".to_owned(), "g".to_owned()];
        assert_eq!(calls(format, tools(), is_live, &[head, tail]), calls(format, tools(), is_live, &[text]));
        assert_eq!(calls(format, Vec::new(), is_live, &[head, tail]), [text].map(str::to_owned).concat());
    }
    for begun in [Begun::Over, Begun::Maybe, Begun::Within] {
        assert_eq!(thoughts(begun, &[head, tail]), thoughts(begun, &[text]));
    }
}

/// The parts of what is said, written down.
fn calls(format: &'static Format, tools: Vec<String>, is_live: bool, pieces: &[&str]) -> String {
    let mut reader = Reader::new(format, tools, is_live);
    let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| reader.push(piece)).collect();
    parts.extend(reader.finish());
    let mut written = String::new();
    for part in parts {
        match part {
            Part::Text(text) | Part::Arguments { text, .. } => written.push_str(&text),
            Part::Call { index, name } => written.push_str(&format!("\u{0}{index} {name}\u{0}")),
        }
    }
    written
}

fn thoughts(begun: Begun, pieces: &[&str]) -> (String, String) {
    let mut reader = thoughts::Reader::new(Marks::named("think").expect("marks"), begun);
    let mut parts: Vec<thoughts::Part> = pieces.iter().flat_map(|piece| reader.push(piece)).collect();
    parts.extend(reader.finish());
    let (mut thought, mut text) = (String::new(), String::new());
    for part in parts {
        match part {
            thoughts::Part::Thought(more) => thought.push_str(&more),
            thoughts::Part::Text(more) => text.push_str(&more),
        }
    }
    (thought, text)
}

static VOCABULARY: LazyLock<(Tokenizer, Vocabulary)> = LazyLock::new(|| {
    let files = TextFiles {
        tokenizer_config_json: Some(demo::TOKENIZER_CONFIG),
        generation_config_json: Some(demo::GENERATION_CONFIG),
        ..TextFiles::new(demo::TOKENIZER)
    };
    let tokenizer = Tokenizer::parse(&files).expect("the demo's tokenizer");
    let vocabulary = Vocabulary::new(&tokenizer, tokenizer.vocab_size()).expect("a tree");
    (tokenizer, vocabulary)
});

/// A form that a client asks for: it is refused in few words, or something may come. The first byte chooses its kind.
pub(crate) fn form(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let form = match kind % 4 {
        0 => Form::Regex(text.to_owned()),
        1 => Form::Grammar(text.to_owned()),
        2 => Form::Choice(text.split('\n').map(str::to_owned).collect()),
        _ => match serde_json::from_str(text) {
            Ok(schema) => Form::Schema(schema),
            Err(_) => return,
        },
    };
    let (tokenizer, vocabulary) = &*VOCABULARY;
    let text = Structure { param: "form".into(), form, is_compact: false };
    match vocabulary.compile(&Shape { text: Some(text), calls: None, thoughts: None }) {
        Err(refusal) => assert!(refusal.to_string().len() < 1024),
        Ok(grammar) => {
            let (mut walk, mut pace) = (grammar.walk(), Pace::default());
            let mut previous = None;
            for left in (1..=8).rev() {
                let Ok(words) = walk.next(previous) else { return };
                let words = pace.narrowed(&mut walk, previous, left, &words).unwrap_or(words);
                let first = words.iter().position(|word| *word != 0).expect("something may come");
                let token = 32 * first as u32 + words[first].trailing_zeros();
                if tokenizer.eos_ids().contains(&token) {
                    return;
                }
                previous = Some(token);
            }
        }
    }
}
