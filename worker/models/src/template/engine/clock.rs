//! `strftime_now`: the date a template may ask for, in C's format language and the C locale.

use time::OffsetDateTime;

const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Formats a moment, in UTC, as C's `strftime` would; a directive we do not know stays as it is.
pub(super) fn strftime(format: &str, unix_s: u64) -> String {
    let moment = i64::try_from(unix_s).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let moment = moment.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut text = String::with_capacity(format.len() * 2);
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        // `%-d` is glibc's `%d` without padding.
        let rest = characters.as_str();
        let (padded, rest) = rest.strip_prefix('-').map_or((true, rest), |rest| (false, rest));
        match rest.chars().next().and_then(|directive| expand(directive, moment).map(|field| (directive, field))) {
            Some((directive, field)) => {
                text.push_str(if padded { &field } else { without_padding(&field) });
                characters = rest[directive.len_utf8()..].chars();
            }
            None => text.push('%'),
        }
    }
    text
}

fn without_padding(field: &str) -> &str {
    let bare = field.trim_start_matches(['0', ' ']);
    if bare.is_empty() { "0" } else { bare }
}

fn expand(directive: char, moment: OffsetDateTime) -> Option<String> {
    let weekday = WEEKDAYS[usize::from(moment.weekday().number_days_from_monday())];
    let month = MONTHS[usize::from(u8::from(moment.month())) - 1];
    let hour_of_twelve = (moment.hour() + 11) % 12 + 1;
    Some(match directive {
        'A' => weekday.to_owned(),
        'a' => weekday[..3].to_owned(),
        'B' => month.to_owned(),
        'b' | 'h' => month[..3].to_owned(),
        'c' => strftime("%a %b %e %H:%M:%S %Y", moment.unix_timestamp().unsigned_abs()),
        'd' => format!("{:02}", moment.day()),
        'D' | 'x' => format!("{:02}/{:02}/{:02}", u8::from(moment.month()), moment.day(), moment.year() % 100),
        'e' => format!("{:2}", moment.day()),
        'F' => format!("{:04}-{:02}-{:02}", moment.year(), u8::from(moment.month()), moment.day()),
        'H' => format!("{:02}", moment.hour()),
        'I' => format!("{hour_of_twelve:02}"),
        'j' => format!("{:03}", moment.ordinal()),
        'm' => format!("{:02}", u8::from(moment.month())),
        'M' => format!("{:02}", moment.minute()),
        'n' => "\n".to_owned(),
        'p' => if moment.hour() < 12 { "AM" } else { "PM" }.to_owned(),
        's' => moment.unix_timestamp().to_string(),
        'S' => format!("{:02}", moment.second()),
        't' => "\t".to_owned(),
        'T' | 'X' => format!("{:02}:{:02}:{:02}", moment.hour(), moment.minute(), moment.second()),
        'u' => moment.weekday().number_from_monday().to_string(),
        'w' => moment.weekday().number_days_from_sunday().to_string(),
        'y' => format!("{:02}", moment.year() % 100),
        'Y' => moment.year().to_string(),
        'z' => "+0000".to_owned(),
        'Z' => "UTC".to_owned(),
        '%' => "%".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_as_c_writes_them() {
        // 2026-03-05 07:08:09 UTC, a Thursday.
        let now = 1_772_694_489;
        assert_eq!(strftime("%d %b %Y", now), "05 Mar 2026");
        assert_eq!(strftime("%-d %B %Y, %A, %I:%M %p", now), "5 March 2026, Thursday, 07:08 AM");
        assert_eq!(strftime("%c|%x|%j|%e|%u%w", now), "Thu Mar  5 07:08:09 2026|03/05/26|064| 5|44");
        assert_eq!(strftime("100% %Q %", now), "100% %Q %");
        assert_eq!(strftime("%I%p", 0), "12AM");
    }
}
