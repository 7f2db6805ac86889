//! Text of models and servers on a terminal: as text, whatever it holds. Escape sequences would move the cursor, change
//! colours, rename the window, or answer as if the user had typed.

/// The text with its control characters made visible, but for line breaks and tabs.
pub(crate) fn visible(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() && !matches!(char, '\n' | '\t') { stand_in(char) } else { char })
        .collect()
}

/// A picture of a control character; those of the second set have none.
fn stand_in(char: char) -> char {
    const PICTURES: u32 = 0x2400;
    match u32::from(char) {
        code @ 0..0x20 => char::from_u32(PICTURES + code).unwrap_or(char::REPLACEMENT_CHARACTER),
        0x7f => '\u{2421}',
        _ => char::REPLACEMENT_CHARACTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_escape_reaches_a_terminal() {
        assert_eq!(visible("a\u{1b}[31mred\u{1b}]0;title\u{7}"), "a␛[31mred␛]0;title␇");
        assert_eq!(visible("one\rtwo\u{8}\u{7f}"), "one␍two␈␡");
        assert_eq!(visible("\u{9b}2J\u{9d}x"), "\u{fffd}2J\u{fffd}x");
    }

    #[test]
    fn text_stays_text() {
        let text = "Zeilen\n\tund\u{a0}Ümlaute, 日本語, 👩‍👩‍👧";
        assert_eq!(visible(text), text);
    }
}
