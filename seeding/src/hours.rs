//! Quiet hours: times of the day, in UTC, with another bound on what is sent. Pure.

const MINUTES_A_DAY: u32 = 24 * 60;
/// The most spans.
const SPANS_MAX: usize = 32;

/// Spans of the day, in minutes. One that ends before it begins goes over midnight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hours(Vec<(u32, u32)>);

impl Hours {
    /// Reads spans such as `08:00-18:30`.
    pub(crate) fn read(texts: &[String]) -> Result<Self, String> {
        if texts.len() > SPANS_MAX {
            return Err(format!("has more than {SPANS_MAX} entries"));
        }
        let span = |text: &String| {
            let (start, end) = text.split_once('-')?;
            let (start, end) = (minutes(start)?, minutes(end)?);
            (start != end && start < MINUTES_A_DAY).then_some((start, end))
        };
        let problem = |text: &String| format!("has {text:?}; write HH:MM-HH:MM in UTC, as in \"08:00-18:30\"");
        texts.iter().map(|text| span(text).ok_or_else(|| problem(text))).collect::<Result<_, _>>().map(Self)
    }

    /// Returns true if the moment, in seconds since 1970, is in one of them.
    pub(crate) fn contain(&self, unix_s: u64) -> bool {
        let minute = u32::try_from(unix_s / 60 % u64::from(MINUTES_A_DAY)).unwrap_or(0);
        self.0.iter().any(|&(start, end)| match start < end {
            true => (start..end).contains(&minute),
            false => minute >= start || minute < end,
        })
    }
}

/// Reads `HH:MM`, up to `24:00`.
fn minutes(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse::<u32>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= MINUTES_A_DAY).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64, minutes: u64) -> u64 {
        1_800_000_000 / 86_400 * 86_400 + hours * 3_600 + minutes * 60
    }

    #[test]
    fn spans_may_go_over_midnight_and_end_with_the_day() {
        let hours = Hours::read(&["22:30-06:00".into(), "12:00-13:00".into(), "20:00-24:00".into()]).expect("good");
        for (hour, minute, is_quiet) in
            [(22, 30, true), (0, 0, true), (5, 59, true), (6, 0, false), (12, 59, true), (13, 0, false), (20, 0, true)]
        {
            assert_eq!(hours.contain(at(hour, minute)), is_quiet, "{hour}:{minute}");
        }
        assert!(!Hours::default().contain(at(3, 0)));
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for wrong in
            ["", "8:00-9:00", "08:00", "08:00-08:00", "25:00-26:00", "08:60-09:00", "24:01-01:00", "+8:00-09:00"]
        {
            assert!(Hours::read(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
