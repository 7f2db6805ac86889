//! The protocol's version.

/// The newest version that this release speaks.
pub const VERSION: u16 = 1;
/// The oldest.
const OLDEST: u16 = 1;

/// The version to answer in, to an asker that speaks `theirs` and older ones: the newest that both speak. Askers that
/// name none speak the first.
///
/// None where the asker is too old, or the header is not a number.
///
/// ```
/// assert_eq!(wire::peers::agree(None), Some(1));
/// assert_eq!(wire::peers::agree(Some("2")), Some(1));
/// assert_eq!(wire::peers::agree(Some("0")), None);
/// ```
#[must_use]
pub fn agree(theirs: Option<&str>) -> Option<u16> {
    let theirs = match theirs {
        None => 1,
        Some(text) => parse(text)?,
    };
    (theirs >= OLDEST).then_some(theirs.min(VERSION))
}

/// Digits alone: `u16`'s own parser takes a sign.
fn parse(text: &str) -> Option<u16> {
    let is_number = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}
