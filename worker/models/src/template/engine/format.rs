//! `'…%s…' % values` and `'…{}…'.format(…)`.

use minijinja::formatting::{FormatStyle, format};
use minijinja::{Error, State, Value};

use super::words::wrong;
use super::{budget, text};

/// The widest field of a format. Wider ones only fill memory.
const WIDTH_MAX: usize = 10_000;

/// A text of a pattern and values, in either of Python's older ways.
pub(super) fn formatted(
    state: &mut State,
    style: FormatStyle,
    pattern: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let mut widths = pattern.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let is_wide = |width: &str| width.parse::<usize>().map_or(true, |width| width > WIDTH_MAX);
    if pattern.contains('*') || widths.any(is_wide) {
        return Err(wrong("a format of this width is not supported"));
    }
    let mut total = pattern.len().saturating_mul(2);
    for argument in arguments {
        total += text::of(state, argument)?.len();
    }
    budget::charge(state, total)?;
    let made = format(style, pattern, arguments)?;
    budget::charge(state, made.len())?;
    Ok(Value::from(made))
}
