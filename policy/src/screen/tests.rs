//! The deny list against a reference that looks at whole texts, slowly and plainly.

use super::*;
use fold::{is_invisible, is_word};
use proptest::prelude::*;
use std::sync::Arc;

fn list(phrases: &[&str]) -> Arc<DenyList> {
    let phrases = phrases.iter().map(|phrase| (*phrase).to_owned()).collect();
    Arc::new(DenyList::new(&DenyListConfig { phrases }).expect("valid").expect("not empty"))
}

/// Feeds `pieces` and returns all that was released, and the verdict.
fn screen(list: &Arc<DenyList>, pieces: &[&str]) -> (String, bool) {
    let mut screen = OutputScreen::new(Arc::clone(list));
    let mut out = String::new();
    for piece in pieces {
        let release = screen.push(piece);
        out.push_str(&release.text);
        if release.blocked {
            return (out, true);
        }
    }
    let release = screen.finish();
    out.push_str(&release.text);
    (out, release.blocked)
}

/// The visible characters of a text, folded, each with where it came from.
fn reference_fold(text: &str) -> Vec<(char, usize)> {
    let mut folded: Vec<(char, usize)> = Vec::new();
    for (at, character) in text.char_indices() {
        if character.is_whitespace() {
            if folded.last().is_none_or(|(last, _)| *last != ' ') {
                folded.push((' ', at));
            }
        } else if !is_invisible(character) {
            folded.extend(character.to_uppercase().flat_map(char::to_lowercase).map(|lower| (lower, at)));
        }
    }
    folded
}

/// What must come out, by trying every phrase at every place.
fn reference(phrases: &[&str], text: &str) -> (String, bool) {
    let text_folded = reference_fold(text);
    let word_at = |place: Option<usize>| {
        place.and_then(|place| text_folded.get(place)).is_some_and(|(character, _)| is_word(*character))
    };
    let mut best: Option<(usize, usize)> = None;
    for phrase in phrases {
        let phrase: String = reference_fold(phrase).into_iter().map(|(character, _)| character).collect();
        let phrase: Vec<char> = phrase.trim().chars().collect();
        for start in 0..text_folded.len() {
            let end = start + phrase.len();
            let equal = end <= text_folded.len()
                && text_folded[start..end].iter().zip(&phrase).all(|((character, _), wanted)| character == wanted);
            let clear_before = is_word(phrase[0]) != word_at(start.checked_sub(1)) || !is_word(phrase[0]);
            let clear_after = !is_word(phrase[phrase.len() - 1]) || !word_at(Some(end));
            if equal && clear_before && clear_after && best.is_none_or(|(e, s)| (decided(&phrase, end), start) < (e, s))
            {
                best = Some((decided(&phrase, end), start));
            }
        }
    }
    match best {
        Some((_, start)) => (text[..text_folded[start].1].to_owned(), true),
        None => (text.to_owned(), false),
    }
}

/// When a match is decided: a phrase that ends in a word needs the edge after it.
fn decided(phrase: &[char], end: usize) -> usize {
    2 * end + usize::from(is_word(phrase[phrase.len() - 1]))
}

#[test]
fn phrases_match_as_whole_words_whatever_their_dress() {
    let list = list(&["ass", "red button", "c++", "毒", "straße"]);
    for (text, released, blocked) in [
        ("class assess assassin", "class assess assassin", false),
        ("kick his ASS", "kick his ", true),
        ("an a\u{200b}s\u{ad}s.", "an ", true),
        ("the Red \n\t button", "the ", true),
        ("the red but", "the red but", false),
        ("redbutton", "redbutton", false),
        ("use c++20", "use ", true),
        ("买毒品", "买", true),
        ("STRASSE", "", true),
        ("_ass_", "_", true),
        ("", "", false),
    ] {
        assert_eq!(screen(&list, &[text]), (released.to_owned(), blocked), "{text:?}");
        assert_eq!(list.find(text).is_some(), blocked, "{text:?}");
    }
}

#[test]
fn holds_back_exactly_what_may_still_become_a_phrase() {
    let list = list(&["red button", "buttonhole"]);
    let mut screen = OutputScreen::new(list);
    for (piece, released) in
        [("a re", "a "), ("d ", ""), ("bu", ""), ("x", "red bux"), (" button", " "), ("s", "buttons")]
    {
        assert_eq!(screen.push(piece), Release { text: released.into(), blocked: false }, "{piece:?}");
    }
    assert!(!screen.is_holding());
}

#[test]
fn nothing_follows_a_block() {
    let mut screen = OutputScreen::new(list(&["no"]));
    assert_eq!(screen.push("say no, "), Release { text: "say ".into(), blocked: true });
    assert_eq!(screen.push("again"), Release { text: String::new(), blocked: true });
    assert_eq!(screen.finish(), Release { text: String::new(), blocked: true });
}

#[test]
fn a_flood_of_invisible_characters_is_blocked_rather_than_held() {
    let mut screen = OutputScreen::new(list(&["no"]));
    assert_eq!(screen.push("ok n"), Release { text: "ok ".into(), blocked: false });
    let flood = "\u{200b}".repeat(30_000);
    assert_eq!(screen.push(&flood), Release { text: String::new(), blocked: true });
}

#[test]
fn errors_name_the_phrase() {
    for (phrases, field) in [
        (vec!["ok".to_owned(), " \u{200b}".to_owned()], "deny_list.phrases[1]"),
        (vec!["x".repeat(300)], "deny_list.phrases[0]"),
        (vec!["x".to_owned(); 20_001], "deny_list.phrases"),
    ] {
        assert_eq!(DenyList::new(&DenyListConfig { phrases }).expect_err(field).field, field);
    }
}

/// Few letters, so that phrases and texts meet often; some of each troublesome kind.
fn letters(least: usize, most: usize) -> impl Strategy<Value = String> {
    let alphabet = "aabbABßsS  σςΣ\u{200b}\u{130}i毒品.+\n";
    let letters: Vec<char> = alphabet.chars().collect();
    prop::collection::vec(prop::sample::select(letters), least..=most).prop_map(String::from_iter)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn output_and_verdict_depend_on_the_whole_text_alone(
        phrases in prop::collection::vec(letters(1, 5), 1..5),
        text in letters(0, 30),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let phrases: Vec<&str> = phrases
            .iter()
            .map(String::as_str)
            .filter(|phrase| phrase.chars().any(|c| !c.is_whitespace() && !is_invisible(c)))
            .collect();
        prop_assume!(!phrases.is_empty());
        let list = list(&phrases);
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| places[cut.index(places.len())]).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let pieces: Vec<&str> = at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        prop_assert_eq!(screen(&list, &pieces), reference(&phrases, &text));
    }
}
