//! Letters in the dress of digits and signs: `b0mb`, `$p4ce`. Only whole texts are read so, for a sign at a word's edge is
//! part of it or not, and `1` is an `i` or an `l`: every reading is a text of its own, as long as the first.

/// The number of readings.
pub(super) const READINGS: usize = 4;

/// The readings of a text in which some letter may be dressed; `None` where it has none.
pub(super) fn readings(text: &str) -> Option<[String; READINGS]> {
    if !is_dressed(text.as_bytes()) {
        return None;
    }
    Some([(b'i', true), (b'i', false), (b'l', true), (b'l', false)].map(|(one, edges)| undressed(text, one, edges)))
}

/// True if a letter stands beside a digit or sign that may be one.
fn is_dressed(text: &[u8]) -> bool {
    // Without branches within a piece, so that many bytes are compared at once.
    let pairs = |piece: &[u8]| {
        piece.iter().zip(&piece[1..]).fold(false, |any, (left, right)| {
            any | (is_letter(*left) & may_be_letter(*right)) | (may_be_letter(*left) & is_letter(*right))
        })
    };
    let mut rest = text;
    while rest.len() > 1 {
        let (piece, _) = rest.split_at(rest.len().min(257));
        if pairs(piece) {
            return true;
        }
        rest = &rest[piece.len() - 1..];
        if rest.len() == 1 {
            break;
        }
    }
    false
}

/// A letter of ASCII, or a part of another.
#[inline]
fn is_letter(byte: u8) -> bool {
    (byte | 0x20).wrapping_sub(b'a') < 26 || byte >= 0x80
}

#[inline]
fn may_be_letter(byte: u8) -> bool {
    byte.wrapping_sub(b'0') < 10 || is_sign(byte)
}

#[inline]
fn is_sign(byte: u8) -> bool {
    matches!(byte, b'@' | b'$' | b'!' | b'|')
}

/// A text whose words have letters for what stands for them; `one` is that of `1`. Where `edges`, also for `@` and `$` at
/// a word's ends.
fn undressed(text: &str, one: u8, edges: bool) -> String {
    let mut out = text.as_bytes().to_vec();
    let mut at = 0;
    while at < out.len() {
        let length = out[at..].iter().take_while(|byte| is_letter(**byte) || may_be_letter(**byte)).count();
        let word = &mut out[at..at + length];
        if word.iter().any(|byte| is_letter(*byte)) {
            // An exclamation follows a word more often than it is one of its letters.
            let word = trimmed(word, |byte| matches!(byte, b'!' | b'|'));
            let word = if edges { word } else { trimmed(word, is_sign) };
            word.iter_mut().for_each(|byte| *byte = letter(*byte, one));
        }
        at += length + 1;
    }
    // Bytes of ASCII took the places of such.
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// A word without such bytes at its ends.
fn trimmed(word: &mut [u8], is_off: impl Fn(u8) -> bool) -> &mut [u8] {
    let from = word.iter().take_while(|byte| is_off(**byte)).count();
    let off = word[from..].iter().rev().take_while(|byte| is_off(**byte)).count();
    let to = word.len() - off;
    &mut word[from..to]
}

fn letter(byte: u8, one: u8) -> u8 {
    match byte {
        b'0' => b'o',
        b'1' => one,
        b'3' => b'e',
        b'4' | b'@' => b'a',
        b'5' | b'$' => b's',
        b'7' => b't',
        b'8' => b'b',
        b'9' => b'g',
        b'!' => b'i',
        b'|' => b'l',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn some_reading_has_the_letters() {
        for (dressed, meant) in [
            ("the b0mb", "the bomb"),
            ("k1ll", "kill"),
            ("k!ll!", "kill!"),
            ("p11l", "pill"),
            ("$top it", "stop it"),
            ("@b0mb", "@bomb"),
            ("a$$!", "ass!"),
            ("h3||0", "hello"),
            ("b0mbe9é", "bombegé"),
        ] {
            let readings = readings(dressed).expect(dressed);
            // `p11l` is an i and an l: no reading has both.
            assert_eq!(readings.contains(&meant.to_owned()), meant != "pill", "{dressed}: {readings:?}");
            assert!(readings.iter().all(|reading| reading.len() == dressed.len()));
        }
    }

    #[test]
    fn numbers_and_marks_stay_as_they_are() {
        for plain in ["", "a", "4", "455 in 2024!", "wait - 5, or $5", "stop !", "毒 5"] {
            assert_eq!(readings(plain), None, "{plain}");
        }
        assert_eq!(readings("x1 455").expect("dressed")[0], "xi 455");
    }

    proptest! {
        #[test]
        fn a_pair_is_found_wherever_it_stands(before in 0_usize..600, after in 0_usize..600) {
            let text = format!("{}a4{}", "-".repeat(before), "-".repeat(after));
            prop_assert!(is_dressed(text.as_bytes()));
            prop_assert!(!is_dressed(text.replace('4', "-").as_bytes()));
        }
    }
}
