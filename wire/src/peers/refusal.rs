//! Refusals, and what their status and headers say.

use super::{OTHERS_MAX, is_name};
use std::time::Duration;

/// The reasons for which a peer gives nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 404: not here, not shared, or not for this asker. One answer, after the same work.
    Unknown,
    /// 409: this extent is not here, or not yet.
    Absent,
    /// 416: the range is not 1 to 4 whole extents of the file.
    Range,
    /// 426: the asker's version is no longer spoken.
    Version,
    /// 503: enough others are being served.
    Busy(Others),
}

/// The way on for an asker that is sent away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Others {
    /// The time after which asking again makes sense.
    pub retry_after: Duration,
    /// Ids of members that took this extent.
    pub members: Vec<String>,
}

impl Refusal {
    /// Its status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Unknown => 404,
            Self::Absent => 409,
            Self::Range => 416,
            Self::Version => 426,
            Self::Busy(_) => 503,
        }
    }
}

impl Others {
    /// The value of `Retry-After`: whole seconds, at least one.
    #[must_use]
    pub fn retry_after_s(&self) -> u64 {
        self.retry_after.as_millis().div_ceil(1_000).max(1).try_into().unwrap_or(u64::MAX)
    }

    /// The value of the header that names members: the first few of those that are names.
    #[must_use]
    pub fn names(&self) -> String {
        let names = self.members.iter().filter(|name| is_name(name)).take(OTHERS_MAX);
        names.map(String::as_str).collect::<Vec<_>>().join(",")
    }

    /// Reads the two headers of a 503. Times beyond `longest` become `longest`; what is no name is left out.
    #[must_use]
    pub fn read(retry_after_ms: Option<&str>, names: Option<&str>, longest: Duration) -> Self {
        let digits = retry_after_ms.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let retry_after = digits.and_then(|text| text.parse().ok()).map_or(longest, Duration::from_millis).min(longest);
        let names = names.unwrap_or_default().split(',').map(str::trim).filter(|name| is_name(name));
        Self { retry_after, members: names.take(OTHERS_MAX).map(str::to_owned).collect() }
    }
}
