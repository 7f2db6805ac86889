//! One trial: a phrase in a dress at a place, cut, passed and judged.

use super::rules::{Dress, Found, RULES, filler};
use super::subject::Subject;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::collections::BTreeMap;
use wire::openai::channels::{self, read_event};
use wire::sse::{DONE, Decoder, encode_data};

/// Where phrases are planted: chunks of answers and bodies of requests, with `@` for the text.
const ANSWERS: &str = include_str!("answers.txt");
const PROMPTS: &str = include_str!("prompts.txt");
/// The endings of both choices.
const ENDINGS: &str = include_str!("endings.txt");
/// The most bytes of an event.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// A combination of rule, dress and place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    pub(super) rule: &'static str,
    pub(super) dress: Dress,
    pub(super) place: Place,
}

/// A place for a phrase.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) is_answer: bool,
    template: &'static str,
}

impl Place {
    fn has_two_layers(self) -> bool {
        self.name.contains("arguments")
    }
}

/// The result of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As it must be.
    Right,
    /// Something got through that must not.
    Leak(String),
    /// Something was kept that must get through.
    FalseBlock(String),
}

/// Every combination that means anything.
pub(super) fn cells() -> Vec<Cell> {
    let places: Vec<Place> = places(ANSWERS, true).chain(places(PROMPTS, false)).collect();
    let mut rng = StdRng::seed_from_u64(0);
    let mut cells = Vec::new();
    for rule in RULES {
        for dress in Dress::ALL.into_iter().filter(|dress| dress.wear(rule, &mut rng).is_some()) {
            let fits = |place: &&Place| dress != Dress::Escapes || place.has_two_layers();
            cells.extend(places.iter().filter(fits).map(|place| Cell { rule, dress, place: *place }));
        }
    }
    cells
}

fn places(lines: &'static str, is_answer: bool) -> impl Iterator<Item = Place> {
    let parts = lines.lines().filter_map(|line| line.split_once('\t'));
    parts.map(move |(name, template)| Place { name, is_answer, template })
}

/// A text with a phrase in it.
struct Planted {
    before: String,
    phrase: String,
    after: String,
}

impl Cell {
    /// True if the phrase is to be found.
    fn is_denied(&self) -> bool {
        match self.dress.found() {
            Found::Everywhere => true,
            Found::InPrompts => !self.place.is_answer,
            Found::Nowhere => false,
        }
    }

    pub(super) fn run(&self, seed: u64, number: u64, subject: &Subject<'_>) -> Outcome {
        let mut rng = StdRng::seed_from_u64(seed.rotate_left(32) ^ number);
        let planted = self.plant(&mut rng);
        if self.place.is_answer {
            self.judge_answer(&planted, &self.pass(&planted, &mut rng, subject))
        } else {
            self.judge_prompt(&planted, subject)
        }
    }

    fn plant(&self, rng: &mut StdRng) -> Planted {
        let before = filler(rng.random_range(0..5), rng);
        let phrase = self.dress.wear(self.rule, rng).unwrap_or_default();
        let after = match rng.random_range(0..3) {
            0 => String::new(),
            1 => ".".to_owned(),
            _ => format!(" {}", filler(3, rng)),
        };
        Planted { before, phrase, after }
    }

    /// Sends the text through the screen, in pieces, as a stream whose bytes are cut elsewhere.
    fn pass(&self, planted: &Planted, rng: &mut StdRng, subject: &Subject<'_>) -> Bytes {
        let text = [planted.before.as_str(), &planted.phrase, &planted.after].concat();
        let mut stream = Vec::new();
        for piece in pieces(&text, rng) {
            encode_data(&mut stream, &self.place.template.replace('@', &escaped(&piece, rng)));
        }
        ENDINGS.lines().for_each(|ending| encode_data(&mut stream, ending));
        encode_data(&mut stream, DONE);
        (subject.stream)(cut(stream.into(), rng))
    }

    fn judge_answer(&self, planted: &Planted, out: &[u8]) -> Outcome {
        let Some(seen) = Seen::read(out) else { return Outcome::FalseBlock("no stream came out".into()) };
        let text = [planted.before.as_str(), &planted.phrase, &planted.after].concat();
        let told = || format!("{:?} of {text:?}", seen.text);
        if !self.is_denied() {
            let is_whole = seen.text == text && !seen.is_filtered;
            return if is_whole { Outcome::Right } else { Outcome::FalseBlock(told()) };
        }
        if !planted.before.starts_with(&seen.text) || !is_some_of(&seen.tokens, &planted.before) {
            return Outcome::Leak(told());
        }
        match (seen.text == planted.before, seen.is_filtered) {
            (true, true) => Outcome::Right,
            // The text before the phrase is nobody's secret.
            (false, true) => Outcome::FalseBlock(told()),
            (_, false) => Outcome::Leak(format!("{}, without an end by the filter", told())),
        }
    }

    fn judge_prompt(&self, planted: &Planted, subject: &Subject<'_>) -> Outcome {
        let text = [planted.before.as_str(), &planted.phrase, &planted.after].concat();
        let text = if self.place.has_two_layers() { inner(&text, self.dress) } else { text };
        let quoted = Value::from(text.as_str()).to_string();
        let body = self.place.template.replace('@', &quoted[1..quoted.len() - 1]);
        let path = if body.contains("\"messages\"") { "/v1/chat/completions" } else { "/v1/completions" };
        match ((subject.refuses)(path, &body), self.is_denied()) {
            (true, false) => Outcome::FalseBlock(body),
            (false, true) => Outcome::Leak(body),
            (true, true) | (false, false) => Outcome::Right,
        }
    }
}

/// True if a text's characters are some of another's, in their order: log probabilities may be left out.
fn is_some_of(text: &str, other: &str) -> bool {
    let mut rest = other.chars();
    text.chars().all(|character| rest.any(|of_rest| of_rest == character))
}

/// A text as a member of JSON within a text; what is escaped already stays.
fn inner(text: &str, dress: Dress) -> String {
    let quoted = if dress == Dress::Escapes { format!("\"{text}\"") } else { Value::from(text).to_string() };
    format!("{{\"a\":{quoted}}}")
}

/// A text in pieces: one, a few, or each character by itself.
fn pieces(text: &str, rng: &mut StdRng) -> Vec<String> {
    let share = *[0.0, 0.1, 0.4, 1.0].choose(rng).unwrap_or(&1.0);
    let mut pieces = vec![String::new()];
    for character in text.chars() {
        if rng.random_bool(share) {
            pieces.push(String::new());
        }
        if let Some(last) = pieces.last_mut() {
            last.push(character);
        }
    }
    pieces
}

/// A text as JSON writes it, some characters as escapes.
fn escaped(text: &str, rng: &mut StdRng) -> String {
    let share = *[0.0, 0.0, 0.3].choose(rng).unwrap_or(&0.0);
    let mut out = String::new();
    for character in text.chars() {
        if rng.random_bool(share) {
            let mut units = [0; 2];
            character.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04X}")));
        } else {
            let mut bytes = [0; 4];
            let quoted = Value::from(&*character.encode_utf8(&mut bytes)).to_string();
            out.push_str(&quoted[1..quoted.len() - 1]);
        }
    }
    out
}

/// Bytes in at most four pieces.
fn cut(stream: Bytes, rng: &mut StdRng) -> Vec<Bytes> {
    let mut cuts: Vec<usize> = (0..rng.random_range(0..4)).map(|_| rng.random_range(0..=stream.len())).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| stream.slice(pair[0]..pair[1])).collect()
}

/// A stream as its client reads it.
#[derive(Debug, Default)]
struct Seen {
    /// The texts of all channels, one after the other.
    text: String,
    /// The tokens that log probabilities name.
    tokens: String,
    /// True if a choice was ended by the filter.
    is_filtered: bool,
}

impl Seen {
    /// `None` of what is no stream that ends in order.
    fn read(stream: &[u8]) -> Option<Self> {
        let mut events = Vec::new();
        Decoder::new(EVENT_BYTES_MAX).push(stream, |event| events.push(event)).ok()?;
        let (mut seen, mut texts) = (Self::default(), BTreeMap::new());
        let mut is_done = false;
        for event in &events {
            match read_event(event).ok()? {
                channels::Found::Answer(answer) => {
                    for choice in &answer.choices {
                        seen.is_filtered |= choice.finish_reason.as_deref() == Some("content_filter");
                        for text in &choice.texts {
                            let whole: &mut String = texts.entry((choice.index, text.channel.clone())).or_default();
                            whole.push_str(&text.read(&event.data));
                        }
                        if let Some(span) = choice.logprobs {
                            seen.tokens.push_str(&tokens(span.of(event.data.as_bytes())));
                        }
                    }
                }
                channels::Found::Done => is_done = true,
                channels::Found::Error(_) | channels::Found::Foreign => return None,
            }
        }
        // The places of an unknown channel that are not the planted one say `x` each time.
        seen.text = texts.into_values().filter(|text| !text.chars().all(|character| character == 'x')).collect();
        is_done.then_some(seen)
    }
}

fn tokens(json: &[u8]) -> String {
    let value: Value = serde_json::from_slice(json).unwrap_or_default();
    let tokens = value["content"].as_array().into_iter().flatten().filter_map(|token| token["token"].as_str());
    tokens.collect()
}
