//! The deny list against a reference that looks at whole texts, slowly and plainly.

use super::cursor::Cursor;
use super::fold::{Folder, is_invisible, is_mark, is_word};
use super::phrases::add_phrases;
use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use unicode_normalization::char::{canonical_combining_class, decompose_compatible};

fn list(phrases: &[&str]) -> Arc<DenyList> {
    let phrases = phrases.iter().map(|phrase| (*phrase).to_owned()).collect();
    Arc::new(DenyList::new(&DenyListConfig { phrases }).expect("valid").expect("not empty"))
}

/// Feeds `pieces` and returns all that was released, and the verdict.
fn screen(list: &Arc<DenyList>, pieces: &[&str]) -> (String, bool) {
    let mut screen = OutputScreen::new(Arc::clone(list), false);
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

/// The visible characters of a text, folded and in canonical order, each with where it came from.
fn reference_fold(text: &str) -> Vec<(char, usize)> {
    let mut folded: Vec<(char, usize)> = Vec::new();
    let mut marks: Vec<(char, usize)> = Vec::new();
    let mut in_space = false;
    for (at, character) in text.char_indices() {
        if is_invisible(character) && !character.is_whitespace() {
            continue;
        }
        let mut parts = Vec::new();
        if character.is_whitespace() {
            parts.push(' ');
        } else {
            decompose_compatible(character, |part| parts.push(part));
        }
        for part in parts {
            if canonical_combining_class(part) != 0 {
                marks.push((part, at));
                continue;
            }
            marks.sort_by_key(|(mark, _)| canonical_combining_class(*mark));
            folded.append(&mut marks);
            if part == ' ' && in_space {
                continue;
            }
            in_space = part == ' ' || (in_space && is_mark(part));
            folded.extend(part.to_uppercase().flat_map(char::to_lowercase).map(|lower| (lower, at)));
        }
    }
    marks.sort_by_key(|(mark, _)| canonical_combining_class(*mark));
    folded.append(&mut marks);
    folded
}

/// The kind of edge a character has: 2 for a syllable that is alone, 1 for a part of a word, 0 for none.
fn edges(character: char) -> u8 {
    match character {
        '\u{1100}'..='\u{1112}' | '\u{3041}'..='\u{30FF}' => 2,
        _ => u8::from(is_word(character)),
    }
}

/// True if a character goes on from the one before it.
fn goes_on(character: char) -> bool {
    is_mark(character) || matches!(character, '\u{1161}'..='\u{11FF}')
}

/// The text that must come out, by trying every phrase at every place.
fn reference(phrases: &[&str], text: &str) -> (String, bool) {
    let text_folded = reference_fold(text);
    // The last character before a place that is no mark.
    let base = |folded: &[(char, usize)]| folded.iter().rev().map(|(character, _)| *character).find(|c| !goes_on(*c));
    let mut best: Option<(usize, usize)> = None;
    for phrase in phrases {
        let phrase = phrase.trim_matches(|c: char| c.is_whitespace() || is_invisible(c));
        let phrase = reference_fold(phrase);
        let opens = base(&phrase).map_or(0, edges);
        for start in 0..text_folded.len() {
            let end = start + phrase.len();
            let equal = end <= text_folded.len()
                && text_folded[start..end].iter().zip(&phrase).all(|((character, _), (wanted, _))| character == wanted);
            if !equal {
                continue;
            }
            let clear_before = edges(phrase[0].0) != 1 || base(&text_folded[..start]).is_none_or(|c| edges(c) != 1);
            let next = text_folded.get(end).map(|(character, _)| *character);
            let clear_after = opens == 0 || next.is_none_or(|c| !(goes_on(c) || opens == 1 && edges(c) == 1));
            let decided = 2 * end + usize::from(opens > 0);
            if clear_before && clear_after && best.is_none_or(|(e, s)| (decided, start) < (e, s)) {
                best = Some((decided, start));
            }
        }
    }
    match best {
        Some((_, start)) => (text[..text_folded[start].1].to_owned(), true),
        None => (text.to_owned(), false),
    }
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
fn what_is_folded_meets_and_what_is_not_does_not() {
    for (phrase, text, blocked) in [
        ("café", "cafe\u{301}", true),
        ("cafe\u{301}", "CAFÉ", true),
        ("cafe", "café", false),
        ("cafe", "cafe\u{301}", false),
        ("tiếng việt", "tiê\u{301}ng viê\u{323}t", true),
        ("tiếng việt", "tie\u{302}\u{301}ng vie\u{323}\u{302}t", true),
        ("red", "ｒｅｄ", true),
        ("red", "𝐫𝐞𝐝", true),
        ("red", "ⓡⓔⓓ", true),
        ("office", "oﬀice", true),
        // Words of scripts whose vowels and joiners are marks have no edge inside.
        ("हिन", "हिन्दी", false),
        ("हिन्दी", "यह हिन्दी है", true),
        ("दी", "हिन्दी", false),
        ("বাং", "বাংলা", false),
        ("தமி", "தமிழ்", false),
        // Syllables are whole.
        ("가", "각", false),
        ("가", "나가다", true),
        ("각", "\u{1100}\u{1161}\u{11a8}", true),
        ("か", "が", false),
        ("が", "か\u{3099}", true),
        ("か", "しか。", true),
        ("カ", "ｶ", true),
        ("ガ", "ｶﾞ", true),
        ("ก", "มกร", true),
        // Letters that look alike.
        ("red", "r\u{435}d", true),
        ("red", "R\u{415}D", true),
        ("stop", "ЅТОР", true),
        ("café", "caf\u{435}\u{301}", true),
        ("naïve", "n\u{430}\u{457}ve", true),
        ("вирус", "виpуc", true),
        ("Вирус", "Bиpyc", true),
        ("ВИРУС", "BИPYC", true),
        ("cop", "сор", true),
        ("bot", "вот", false),
        ("вот", "bot", false),
        ("вот", "BOT", false),
        // Text that is not seen.
        ("red", "\u{E0072}\u{E0065}\u{E0064}", true),
        ("red", "a\u{E0020}\u{E0072}\u{E0065}\u{E0064}\u{E007F} b", true),
        ("red", "👍\u{E0162}\u{E0155}\u{E0154} b", true),
        ("red", "r\u{E0065}e\u{E0064}d", true),
        ("red", "ar\u{E0065}\u{E0064}", false),
        // Not folded.
        ("red", "r3d", false),
        ("red", "r.e.d", false),
        ("red", "r e d", false),
        ("red", "red\u{301}", false),
        ("naive", "naïve", false),
    ] {
        assert_eq!(list(&[phrase]).find(text).is_some(), blocked, "{phrase:?} in {text:?}");
    }
}

#[test]
fn text_in_other_scripts_is_not_held_for_nothing() {
    let mut screen = OutputScreen::new(list(&["red button"]), false);
    for text in ["cafe\u{301}", "हिन्दी", "각", "か\u{3099}", "毒", "👩\u{200d}🚀"] {
        assert_eq!(screen.push(text), Release { text: text.into(), blocked: false }, "{text:?}");
    }
}

#[test]
fn escapes_in_arguments_hide_nothing_however_they_are_cut() {
    let list = list(&["red button", "𝄞x"]);
    for (text, released, blocked) in [
        (r#"{"a":"red\u0020button"}"#, r#"{"a":""#, true),
        (r#"{"a":"r\u0065d\nbutton"}"#, r#"{"a":""#, true),
        (r#"{"a":"\u0072ed button"}"#, r#"{"a":""#, true),
        (r#"{"a":"red button"}"#, r#"{"a":""#, true),
        (r#"{"a":"\ud834\udd1ex"}"#, r#"{"a":""#, true),
        (r#"{"a":"\ud834x red\u0020rose \q"}"#, r#"{"a":"\ud834x red\u0020rose \q"}"#, false),
        (r#"{"a":"red\\u0020button"}"#, r#"{"a":"red\\u0020button"}"#, false),
    ] {
        for cut in (0..=text.len()).filter(|cut| text.is_char_boundary(*cut)) {
            let mut screen = OutputScreen::new(Arc::clone(&list), true);
            let (left, right) = text.split_at(cut);
            let mut out = String::new();
            let mut is_blocked = false;
            for release in [screen.push(left), screen.push(right), screen.finish()] {
                out.push_str(&release.text);
                is_blocked |= release.blocked;
            }
            assert_eq!((out.as_str(), is_blocked), (released, blocked), "{text} at {cut}");
        }
    }
}

#[test]
fn joints_are_read_as_workers_join() {
    let list = list(&["red button", "forbidden"]);
    let denies = |texts: &[&str]| {
        let mut screen = PromptScreen::new(&list);
        texts.iter().any(|text| screen.denies(text, true))
    };
    let (spaces, nothing) = (" ".repeat(5_000), "\u{200b}".repeat(5_000));
    for texts in [
        vec!["red", "button"],
        vec!["the red ", "button now"],
        vec!["for", "bid", "den"],
        vec!["f", "", "orbid", "", "den"],
        vec!["red", "", "button"],
        vec!["red", &spaces, "button"],
        vec!["red", &nothing, "button"],
        vec!["x", "a red button"],
    ] {
        assert!(denies(&texts), "{} texts, {:?}", texts.len(), texts[0]);
    }
    for texts in [vec!["red", "x", "button"], vec!["red", "buttons"], vec!["infor", "bidden"], vec!["button", "red"]] {
        assert!(!denies(&texts), "{texts:?}");
    }
    let mut apart = PromptScreen::new(&list);
    assert!(!apart.denies("red", false) && !apart.denies("button", false));
    let mut next = PromptScreen::new(&list);
    assert!(!next.denies("the red", false) && next.fork().denies_over("button") && !next.fork().denies_over("rose"));
    let mut over = next.fork();
    assert!(!over.denies_over("bu") && over.ends().any(|mut end| end.denies_over("tton")));
}

#[test]
fn holds_back_exactly_what_may_still_become_a_phrase() {
    let list = list(&["red button", "buttonhole"]);
    let mut screen = OutputScreen::new(list, false);
    for (piece, released) in
        [("a re", "a "), ("d ", ""), ("bu", ""), ("x", "red bux"), (" button", " "), ("s", "buttons")]
    {
        assert_eq!(screen.push(piece), Release { text: released.into(), blocked: false }, "{piece:?}");
    }
    assert!(!screen.is_holding());
}

#[test]
fn nothing_follows_a_block() {
    let mut screen = OutputScreen::new(list(&["no"]), false);
    assert_eq!(screen.push("say no, "), Release { text: "say ".into(), blocked: true });
    assert_eq!(screen.push("again"), Release { text: "".into(), blocked: true });
    assert_eq!(screen.finish(), Release { text: "".into(), blocked: true });
}

#[test]
fn a_flood_of_invisible_characters_is_blocked_rather_than_held() {
    let mut screen = OutputScreen::new(list(&["no"]), false);
    assert_eq!(screen.push("ok n"), Release { text: "ok ".into(), blocked: false });
    let flood = "\u{200b}".repeat(30_000);
    assert_eq!(screen.push(&flood), Release { text: "".into(), blocked: true });
    // Whether it is one depends on the text alone.
    let mut screen = OutputScreen::new(list(&["no"]), false);
    assert_eq!(screen.push(&format!("ok n{flood} more")), Release { text: "ok ".into(), blocked: true });
}

#[test]
fn errors_name_the_phrase() {
    for (phrases, field) in [
        (vec!["ok".to_owned(), " \u{200b}".to_owned()], "deny_list.phrases[1]"),
        (vec!["x".repeat(300)], "deny_list.phrases[0]"),
        (vec!["\u{301}x".to_owned()], "deny_list.phrases[0]"),
        (vec!["x".to_owned(); 131_073], "deny_list.phrases"),
    ] {
        assert_eq!(DenyList::new(&DenyListConfig { phrases }).expect_err(field).field, field);
    }
}

/// Few letters, so that phrases and texts meet often; some of each troublesome kind.
fn letters(least: usize, most: usize) -> impl Strategy<Value = String> {
    let alphabet = "aabbABßsS  σςΣ\u{200b}\u{130}i毒品.+\neé\u{301}\u{323}Ａ가각かが\u{3099}क\u{94d}ि";
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
            .map(|phrase| phrase.trim_matches(|c: char| c.is_whitespace() || is_invisible(c)))
            .filter(|phrase| phrase.chars().next().is_some_and(|first| !goes_on(first)))
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

/// Text of words that are passed over, words that are not quite phrases, and what joins or parts them.
fn words() -> impl Strategy<Value = String> {
    let pieces = [
        "red",
        "Red",
        "redirect",
        "redirections",
        "redirection",
        "button",
        "bu",
        "café",
        "cafe",
        "e\u{301}",
        "straße",
        "STRASSE",
        "river",
        "turbines",
        "a",
        "x1",
        "$",
        "$top",
        "-",
        ".",
        " ",
        "  ",
        " ",
        "\n",
        "\u{1}",
        "\u{200b}",
        "毒品",
        "가",
        "ｒｅｄ",
        "\u{b4}",
        "\u{338}",
        "=",
        "r\u{435}d",
        "r\u{435}",
        "сор",
        "ё",
        "\u{E0072}\u{E0065}",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_is_passed_over_begins_no_phrase(phrases in prop::collection::vec(words(), 1..4), text in words()) {
        // The ends of long texts are looked at character by character.
        let text = format!("{text}{text} river river ");
        let Ok(Some(list)) = DenyList::new(&DenyListConfig { phrases }) else { return Ok(()) };
        let mut plain = Cursor::new();
        let slowly = text.char_indices().find_map(|(at, character)| plain.character(&list.0, character, at));
        let slowly = slowly.or_else(|| plain.finish(&list.0, text.len()));
        prop_assert_eq!(list.find(&text).map(|found| found.start), slowly);
    }
}

/// Few letters that look alike, and some that are not seen.
fn lookalikes(least: usize, most: usize) -> impl Strategy<Value = String> {
    let alphabet = "aocpаосрСОво бб.  e\u{301}ё\u{200b}\u{E0061}\u{E006F}\u{E0020}\u{E0151}毒";
    let letters: Vec<char> = alphabet.chars().collect();
    prop::collection::vec(prop::sample::select(letters), least..=most).prop_map(String::from_iter)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_text_is_blocked_if_either_of_its_shadows_holds_a_phrase(
        phrases in prop::collection::vec(lookalikes(1, 4), 1..4),
        text in lookalikes(0, 24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut patterns = Patterns::default();
        let readings = ReadingsConfig::default();
        if add_phrases(&mut patterns, "phrases", &phrases, Kind::Denied, readings).is_err() { return Ok(()) }
        let list = list(&phrases.iter().map(String::as_str).collect::<Vec<_>>());
        let shadows = [Folder::default(), Folder::by_look()].map(|folder| folder.all(&text));
        let holds = |(pattern, _): (&[u8], Kind)| {
            shadows.iter().any(|shadow| shadow.windows(pattern.len()).any(|part| part == pattern))
        };
        let whole = screen(&list, &[&text]);
        prop_assert_eq!(whole.1, patterns.iter().any(holds));
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| places[cut.index(places.len())]).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let pieces: Vec<&str> = at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        prop_assert_eq!(screen(&list, &pieces), whole);
    }
}
