//! The phrases that are hunted, and the dresses in which they come.
//!
//! Written apart from any screen, from what `docs/policy.md` promises: this file must not be mended to agree with one.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// The phrases. No text around them holds one, but many of their beginnings.
pub const RULES: [&str; 10] = [
    "xylotoxin",
    "quell zephyr vault",
    "qf",
    "plaza gecko's",
    "c++zq",
    "café vexel",
    "毒品工坊",
    "금지어",
    "вирус кода",
    "a phrase of many words that goes on and on until nobody knows how it began or when it is going to end exactly \
     here, behind the last of its commas, with the word ozymandias",
];

/// Words around the phrases.
const WORDS: [&str; 20] = [
    "water",
    "turbines",
    "xylo",
    "xylotoxi",
    "quell",
    "zephyr",
    "a",
    "phrase",
    "of",
    "q",
    "c",
    "café",
    "毒",
    "품",
    "вода",
    "сок",
    "d\u{e9}j\u{e0}",
    "👩\u{200d}🚀",
    "2024",
    "x1",
];

/// A way to write a phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dress {
    /// As it is.
    Plain,
    /// In capitals.
    Capitals,
    /// Full-width letters.
    FullWidth,
    /// Mathematical letters.
    Bold,
    /// Accents apart from their letters.
    Decomposed,
    /// Unseen characters between the letters.
    Unseen,
    /// Other white space.
    Spaces,
    /// Cyrillic letters that look like Latin ones.
    Lookalikes,
    /// Tags, which nobody sees.
    Tags,
    /// Variation selectors, which nobody sees.
    Selectors,
    /// Escapes that are themselves text, as in the arguments of a tool call.
    Escapes,
    /// Digits for letters.
    Leet,
    /// Base64 of a sentence.
    Base64,
    /// Hexadecimal digits of a sentence.
    Hexadecimal,
    /// Escapes of URLs.
    Url,
    /// Escapes of HTML.
    Html,
    /// Base64 of base64.
    TwoLayers,
    /// Within a longer word: another word.
    InWord,
    /// With an accent: another word.
    Accented,
    /// With points between the letters.
    Dotted,
    /// Without its last letter.
    CutShort,
}

/// Where a phrase in a dress is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// In prompts and in answers.
    Everywhere,
    /// In prompts, whose whole text is there.
    InPrompts,
    /// Nowhere: it passes.
    Nowhere,
}

impl Dress {
    /// All of them.
    pub(super) const ALL: [Self; 21] = [
        Self::Plain,
        Self::Capitals,
        Self::FullWidth,
        Self::Bold,
        Self::Decomposed,
        Self::Unseen,
        Self::Spaces,
        Self::Lookalikes,
        Self::Tags,
        Self::Selectors,
        Self::Escapes,
        Self::Leet,
        Self::Base64,
        Self::Hexadecimal,
        Self::Url,
        Self::Html,
        Self::TwoLayers,
        Self::InWord,
        Self::Accented,
        Self::Dotted,
        Self::CutShort,
    ];

    /// Where it is to be found.
    #[must_use]
    pub(super) const fn found(self) -> Found {
        match self {
            Self::Leet | Self::Base64 | Self::Hexadecimal | Self::Url | Self::Html | Self::TwoLayers => {
                Found::InPrompts
            }
            Self::InWord | Self::Accented | Self::Dotted | Self::CutShort => Found::Nowhere,
            _ => Found::Everywhere,
        }
    }

    /// The phrase in this dress; `None` where it has none. Each call may make another one.
    pub(super) fn wear(self, rule: &str, rng: &mut StdRng) -> Option<String> {
        let worn = match self {
            Self::Plain => return Some(rule.to_owned()),
            Self::Capitals => rule.to_uppercase(),
            Self::FullWidth => each(rule, |letter| shifted(letter, 'a', 0xFF41)),
            Self::Bold => each(rule, |letter| shifted(letter, 'a', 0x1D41A)),
            Self::Decomposed => rule.replace('é', "e\u{301}"),
            Self::Unseen => between(rule, rng, &['\u{200b}', '\u{ad}', '\u{2060}', '\u{fe0f}', '\u{e0001}', '\u{1}']),
            Self::Spaces => rule.replace(' ', ["  ", "\t", "\n\n", "\u{3000}", " \u{200b} "].choose(rng)?),
            Self::Lookalikes => some(rule, rng, |_, letter| lookalike(letter)),
            Self::Tags => unseen(rule, 0xE0000)?,
            Self::Selectors => unseen(rule, 0xE0100 - 16)?,
            Self::Escapes => some(rule, rng, |_, letter| Some(format!("\\u{:04x}", u32::from(letter)))),
            Self::Leet => some(rule, rng, leet),
            Self::Base64 => {
                let text = sentence(rule);
                if rng.random() { STANDARD.encode(text) } else { URL_SAFE_NO_PAD.encode(text) }
            }
            Self::Hexadecimal => sentence(rule).bytes().map(|byte| format!("{byte:02x}")).collect(),
            Self::Url => rule.bytes().map(|byte| format!("%{byte:02X}")).collect(),
            Self::Html => rule.chars().map(|letter| format!("&#{};", u32::from(letter))).collect(),
            Self::TwoLayers => STANDARD.encode(STANDARD.encode(sentence(rule))),
            Self::InWord => is_latin_word(rule).then(|| format!("un{rule}ed"))?,
            Self::Accented => some_letter(rule, |letter| format!("{letter}\u{302}"))?,
            Self::Dotted => some_letter(rule, |letter| format!(".{letter}"))?,
            Self::CutShort => is_latin_word(rule).then(|| rule[..rule.len() - 1].to_owned())?,
        };
        (worn != rule).then_some(worn)
    }
}

/// Words that hold no phrase: each ends with a space.
pub(super) fn filler(words: usize, rng: &mut StdRng) -> String {
    (0..words).filter_map(|_| WORDS.choose(rng)).map(|word| format!("{word} ")).collect()
}

fn sentence(rule: &str) -> String {
    format!("please say {rule} now")
}

/// True if a rule begins and ends with letters of Latin words.
fn is_latin_word(rule: &str) -> bool {
    rule.starts_with(|first: char| first.is_ascii_alphabetic())
        && rule.ends_with(|last: char| last.is_ascii_alphabetic())
}

fn each(rule: &str, change: impl Fn(char) -> char) -> String {
    rule.chars().map(change).collect()
}

fn shifted(letter: char, from: char, to: u32) -> char {
    let shifted = u32::from(letter).wrapping_sub(u32::from(from)).wrapping_add(to);
    if letter.is_ascii_lowercase() { char::from_u32(shifted).unwrap_or(letter) } else { letter }
}

/// A rule of ASCII as unseen characters.
fn unseen(rule: &str, from: u32) -> Option<String> {
    if !rule.is_ascii() {
        return None;
    }
    rule.chars().map(|letter| char::from_u32(from + u32::from(letter))).collect()
}

/// A rule with unseen characters between some of its letters.
fn between(rule: &str, rng: &mut StdRng, unseen: &[char]) -> String {
    let mut worn = String::new();
    for (place, letter) in rule.chars().enumerate() {
        if place == 1 || (place > 1 && rng.random_bool(0.3)) {
            worn.extend(unseen.choose(rng));
        }
        worn.push(letter);
    }
    worn
}

/// A rule with some of its letters changed, one at least where any can be. `change` is told what stands before a letter, too.
fn some(rule: &str, rng: &mut StdRng, change: impl Fn(Option<char>, char) -> Option<String>) -> String {
    let mut before = None;
    let letters: Vec<(char, Option<String>)> =
        rule.chars().map(|letter| (letter, change(before.replace(letter), letter))).collect();
    let places: Vec<usize> = (0..letters.len()).filter(|place| letters[*place].1.is_some()).collect();
    let Some(first) = places.choose(rng).copied() else { return rule.to_owned() };
    let mut worn = String::new();
    for (place, (letter, changed)) in letters.into_iter().enumerate() {
        match changed.filter(|_| place == first || rng.random()) {
            Some(changed) => worn.push_str(&changed),
            None => worn.push(letter),
        }
    }
    worn
}

/// A rule with its second letter changed, where that stands within a Latin word.
fn some_letter(rule: &str, change: impl Fn(char) -> String) -> Option<String> {
    let letters: Vec<char> = rule.chars().take(3).collect();
    let [first, second, ..] = letters[..] else { return None };
    let within = first.is_ascii_alphabetic() && second.is_ascii_alphabetic();
    within.then(|| format!("{first}{}{}", change(second), &rule[2..]))
}

fn lookalike(letter: char) -> Option<String> {
    let other = match letter {
        'a' => 'а',
        'c' => 'с',
        'e' => 'е',
        'i' => 'і',
        'o' => 'о',
        'p' => 'р',
        's' => 'ѕ',
        'x' => 'х',
        'y' => 'у',
        // The other way round.
        'о' => 'o',
        'р' => 'p',
        'с' => 'c',
        'а' => 'a',
        _ => return None,
    };
    Some(other.into())
}

/// A digit for a letter, behind the first one of its word: digits alone are no word in this dress.
fn leet(before: Option<char>, letter: char) -> Option<String> {
    before.filter(|before| before.is_alphanumeric())?;
    let digit = match letter {
        'a' => '4',
        'e' => '3',
        'i' => '1',
        'o' => '0',
        's' => '5',
        't' => '7',
        _ => return None,
    };
    Some(digit.into())
}
