//! Readings of JSON values from their bytes, for the scan and for the fields that it finds.

/// An integer, also one that is written as a float, as long as a double holds it exactly.
#[must_use]
pub(super) fn integer(number: &[u8]) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let text = std::str::from_utf8(number).ok()?;
    if let Ok(integer) = text.parse() {
        return Some(integer);
    }
    if !text.contains(['.', 'e', 'E']) {
        return None;
    }
    let float: f64 = text.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, reason = "it has no fraction and is in range")]
    (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
}

/// Compares two JSON texts by value. Long texts are not parsed: values that ask for nothing are short.
pub(super) fn same(value: &[u8], harmless: &[u8]) -> bool {
    const SHORT: usize = 256;
    let read = |text| serde_json::from_slice::<serde_json::Value>(text).ok();
    if value == harmless {
        return true;
    }
    match (read(harmless), value.len() <= SHORT) {
        (Some(serde_json::Value::Number(number)), true) => {
            read(value).is_some_and(|value| value.as_f64() == number.as_f64())
        }
        (Some(harmless), true) => read(value) == Some(harmless),
        (_, false) | (None, _) => false,
    }
}
