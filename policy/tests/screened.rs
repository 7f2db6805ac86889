//! Texts of strangers (see `claims/screen.rs`).

#[path = "claims/screen.rs"]
mod claims;

use proptest::prelude::*;

proptest! {
    #[test]
    fn no_text_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        claims::check(&bytes);
    }

    #[test]
    fn nor_is_one_that_nearly_holds_a_phrase(
        text in "([a-zA-Z0-9%\\\\xu{}&#;@$!|:=\n 毒가caféсор]|red|butt0n|\u{E0061}|\u{200b}|\\\\u00|%61){0,40}",
    ) {
        claims::check(text.as_bytes());
    }
}
