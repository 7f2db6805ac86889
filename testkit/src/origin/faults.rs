//! Faults and their times: rates, scripts and caps as one value, and the pure function that draws
//! a request's fault from them. It opens no socket; others do what is decided here.

use super::account::Numbers;
use super::draw::{Draw, mix, name_number};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Everything an origin can be told to do wrong. The default does nothing wrong.
///
/// Rates are fractions of requests and exclude one another: a request draws once, so they add up to
/// at most 1. A draw depends on the seed, the object, the range and how often that range was asked
/// for, never on the order of arrival: a retry draws anew, a second run draws the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Body bytes per second of one connection.
    pub connection_bytes_per_second: Option<u64>,
    /// Body bytes per second of all connections together.
    pub total_bytes_per_second: Option<u64>,
    /// Milliseconds before the head of every answer.
    pub first_byte_ms: f64,
    /// More of them, drawn for each request.
    pub first_byte_spread: Option<Lognormal>,
    /// Requests per second of one object; more are refused. Azure documents 500 for a blob.
    pub object_requests_per_second: Option<f64>,
    /// Requests per second of one account (the first part of an S3 or Azure name; else the origin).
    pub account_requests_per_second: Option<f64>,
    /// The status of a refusal by cap, burst or rate; 503 if none.
    pub refusal_status: Option<u16>,
    /// Seconds in `Retry-After` of a refusal; without it, a cap says the time rounded up, others nothing.
    pub retry_after_seconds: Option<u64>,
    /// Refusals in a row.
    pub burst: Option<Burst>,
    /// Rate of refusals.
    pub unavailable: f64,
    /// Rate of bodies that stop at a drawn place with the connection open.
    pub stall: f64,
    /// How long they stop, in milliseconds; for ever if none.
    pub stall_ms: Option<u64>,
    /// Rate of bodies cut at a drawn place by a TCP reset.
    pub reset: f64,
    /// Rate of bodies that end at a drawn place as if they were done (the connection closes).
    pub short: f64,
    /// Rate of connections closed without a word.
    pub close: f64,
    /// Rate of ranges with a `Content-Range` that names other bytes than asked.
    pub wrong_content_range: f64,
    /// Rate of ranges answered by 200 and the whole object.
    pub whole_body: f64,
    /// Rate of ranges answered with the bytes one place further on, under the right head.
    pub shifted: f64,
    /// Rate of bodies with one bit flipped at a drawn place.
    pub flip: f64,
    /// True if a flipped range stays flipped in every attempt, rather than being drawn anew.
    pub flip_always: bool,
    /// Rate of answers that say the object does not exist.
    pub missing: f64,
    /// Bits of objects that arrive flipped.
    pub flips: Vec<BitFlip>,
    /// Faults of certain requests; the first that fits is done, before any rate is drawn.
    pub scripts: Vec<Script>,
}

/// A lognormal time: half are below the median; sigma is the spread of its logarithm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Lognormal {
    /// Milliseconds.
    pub median_ms: f64,
    /// 0 is a constant; 1 puts one in fifty above eight medians.
    pub sigma: f64,
}

/// Of every `every` requests for an object, `length` in a row are refused; where is drawn by object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Burst {
    /// The period, in requests for the object.
    pub every: u64,
    /// How many of them are refused.
    pub length: u64,
}

/// A bit of an object that arrives flipped, whatever range carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BitFlip {
    /// The object's name.
    pub object: String,
    /// The byte, from the object's start.
    pub offset: u64,
    /// 0 to 7.
    pub bit: u8,
    /// How often; always if none.
    pub times: Option<u64>,
}

/// A fault of certain requests: the third to X, or every one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// The object's name; any if none.
    pub object: Option<String>,
    /// The first request for the object that is hit, from 1, HEAD included.
    pub first: u64,
    /// The last that is hit.
    pub last: u64,
    /// The fault they meet.
    pub fault: Fault,
}

impl Script {
    /// Hits the `number`th request (from 1) for this object.
    #[must_use]
    pub fn nth(object: &str, number: u64, fault: Fault) -> Self {
        Self { object: Some(object.to_owned()), first: number, last: number, fault }
    }

    /// Hits every request for this object.
    #[must_use]
    pub fn always(object: &str, fault: Fault) -> Self {
        Self { object: Some(object.to_owned()), first: 1, last: u64::MAX, fault }
    }

    fn fits(&self, object: &str, number: u64) -> bool {
        self.object.as_ref().is_none_or(|name| name == object) && (self.first..=self.last).contains(&number)
    }
}

/// A fault of one request. Places are counted from the start of the answer's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// This status, with the shape's error body, and `Retry-After` if given.
    Status {
        /// 400 to 599.
        status: u16,
        /// Seconds.
        retry_after_seconds: Option<u64>,
    },
    /// The head comes this much later.
    Delay {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// The connection is closed without a word.
    Close,
    /// Bytes stop; the connection stays open.
    Stall {
        /// After this many bytes of body.
        after: u64,
        /// For so long; for ever if none.
        milliseconds: Option<u64>,
    },
    /// A TCP reset. What the kernel had not yet delivered is lost with it.
    Reset {
        /// After this many bytes of body.
        after: u64,
    },
    /// The connection is closed in order, though the head promised more.
    Short {
        /// After this many bytes of body.
        after: u64,
    },
    /// `Content-Range` names the bytes one place further on; the bytes are those asked for.
    WrongContentRange,
    /// 200 and the whole object, though a range was asked for.
    WholeBody,
    /// The bytes are those from this many places further on; the head is right.
    Shifted {
        /// Bytes.
        by: u64,
    },
    /// One bit of the body is flipped.
    Flip {
        /// The byte of the body.
        at: u64,
        /// 0 to 7.
        bit: u8,
    },
    /// The object does not exist.
    Missing,
    /// The object is replaced, before this request is answered, by generated bytes of the same
    /// length and a new entity tag.
    Replace {
        /// Seed of the new bytes.
        seed: u64,
    },
}

impl Fault {
    /// Its name in the account.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Delay { .. } => "delay",
            Self::Close => "close",
            Self::Stall { .. } => "stall",
            Self::Reset { .. } => "reset",
            Self::Short { .. } => "short",
            Self::WrongContentRange => "wrong_content_range",
            Self::WholeBody => "whole_body",
            Self::Shifted { .. } => "shifted",
            Self::Flip { .. } => "flip",
            Self::Missing => "missing",
            Self::Replace { .. } => "replace",
        }
    }
}

/// A request, as far as drawing needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) object: &'a str,
    pub(super) numbers: Numbers,
    /// First byte and the one after the last, as asked.
    pub(super) range: (u64, u64),
    /// How many bytes a faultless answer would have.
    pub(super) body_bytes: u64,
}

impl Faults {
    /// The fault of this request, if any: scripts, then bursts, then rates.
    pub(super) fn decide(&self, seed: u64, asked: &Asked<'_>) -> Option<Fault> {
        if let Some(script) = self.scripts.iter().find(|script| script.fits(asked.object, asked.numbers.number)) {
            return Some(script.fault.clone());
        }
        if let Some(burst) = &self.burst
            && burst.every > 0
        {
            let phase = mix(seed ^ name_number(asked.object));
            if asked.numbers.number.wrapping_add(phase) % burst.every < burst.length {
                return Some(self.refusal());
            }
        }
        self.drawn(seed, asked)
    }

    fn drawn(&self, seed: u64, asked: &Asked<'_>) -> Option<Fault> {
        let flip_attempt = if self.flip_always { 0 } else { asked.numbers.attempt };
        let mut draw = asked.draw(seed, flip_attempt, 1);
        if draw.fraction() < self.flip {
            let bit = u8::try_from(draw.below(8)).unwrap_or(0);
            return Some(Fault::Flip { at: draw.below(asked.body_bytes), bit });
        }
        let mut draw = asked.draw(seed, asked.numbers.attempt, 2);
        let mut left = draw.fraction();
        let after = draw.below(asked.body_bytes);
        // What flips took is not left for the others.
        left *= 1.0 - self.flip;
        let choices = [
            (self.unavailable, self.refusal()),
            (self.stall, Fault::Stall { after, milliseconds: self.stall_ms }),
            (self.reset, Fault::Reset { after }),
            (self.short, Fault::Short { after }),
            (self.close, Fault::Close),
            (self.wrong_content_range, Fault::WrongContentRange),
            (self.whole_body, Fault::WholeBody),
            (self.shifted, Fault::Shifted { by: 1 }),
            (self.missing, Fault::Missing),
        ];
        choices.into_iter().find_map(|(rate, fault)| {
            left -= rate;
            (left < 0.0).then_some(fault)
        })
    }

    /// The answer to a request that is too many.
    pub(super) fn refusal(&self) -> Fault {
        Fault::Status { status: self.refusal_status.unwrap_or(503), retry_after_seconds: self.retry_after_seconds }
    }

    /// How long this request waits for its first byte.
    pub(super) fn first_byte(&self, seed: u64, asked: &Asked<'_>) -> Duration {
        let spread = self.first_byte_spread.map_or(0.0, |spread| {
            spread.median_ms * (spread.sigma * asked.draw(seed, asked.numbers.attempt, 3).normal()).exp()
        });
        // A day bounds what a wild sigma may draw.
        Duration::from_secs_f64(((self.first_byte_ms.max(0.0) + spread) / 1e3).min(86_400.0))
    }
}

impl Asked<'_> {
    fn draw(&self, seed: u64, attempt: u64, salt: u64) -> Draw {
        Draw::new(&[seed, name_number(self.object), self.range.0, self.range.1, attempt, salt])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(object: &str, number: u64, attempt: u64, start: u64) -> Asked<'_> {
        Asked { object, numbers: Numbers { number, attempt }, range: (start, start + 1000), body_bytes: 1000 }
    }

    #[test]
    fn a_draw_depends_on_the_range_and_the_attempt_and_not_on_the_order() {
        let faults = Faults { reset: 0.3, stall: 0.3, flip: 0.2, ..Faults::default() };
        let decide = |seed, number, attempt, start| faults.decide(seed, &ask("a", number, attempt, start));
        let many = |seed, attempt| (0..200).map(|start| decide(seed, 1, attempt, start * 7)).collect::<Vec<_>>();
        for start in 0..50 {
            assert_eq!(decide(1, 1, 1, start), decide(1, 99, 1, start), "the order of arrival does not matter");
        }
        assert_ne!(many(1, 1), many(2, 1), "another seed, other faults");
        assert_ne!(many(1, 1), many(1, 2), "a retry draws anew");
        assert_eq!(many(1, 1), many(1, 1));
    }

    #[test]
    fn rates_come_out_as_asked() {
        let faults = Faults { reset: 0.05, unavailable: 0.1, flip: 0.2, ..Faults::default() };
        let mut counts = std::collections::BTreeMap::<&str, u32>::new();
        for start in 0..20_000 {
            if let Some(fault) = faults.decide(3, &ask("a", 1, 1, start)) {
                *counts.entry(fault.kind()).or_default() += 1;
            }
        }
        for (kind, expected) in [("reset", 1000_i64), ("status", 2000), ("flip", 4000)] {
            let got = i64::from(counts[kind]);
            assert!((got - expected).abs() < 200, "{kind}: {got} where {expected} were meant");
        }
    }

    #[test]
    fn a_flip_that_is_always_there_survives_a_retry() {
        let faults = Faults { flip: 0.5, flip_always: true, ..Faults::default() };
        for start in 0..100 {
            assert_eq!(faults.decide(1, &ask("a", 1, 1, start)), faults.decide(1, &ask("a", 2, 2, start)));
        }
    }

    #[test]
    fn bursts_refuse_in_a_row() {
        let faults = Faults { burst: Some(Burst { every: 10, length: 3 }), ..Faults::default() };
        let refused: Vec<bool> = (1..=40).map(|n| faults.decide(5, &ask("a", n, 1, 0)).is_some()).collect();
        assert_eq!(refused.iter().filter(|refused| **refused).count(), 12);
        assert_eq!(refused[..30], refused[10..], "with a period of ten");
    }

    #[test]
    fn scripts_come_first_and_hit_the_request_they_name() {
        let scripts = vec![Script::nth("a", 3, Fault::Reset { after: 9 })];
        let faults = Faults { scripts, missing: 1.0, ..Faults::default() };
        assert_eq!(faults.decide(1, &ask("a", 3, 1, 0)), Some(Fault::Reset { after: 9 }));
        assert_eq!(faults.decide(1, &ask("a", 2, 1, 0)), Some(Fault::Missing));
        assert_eq!(faults.decide(1, &ask("b", 3, 1, 0)), Some(Fault::Missing));
    }

    #[test]
    fn latency_is_fixed_plus_spread() {
        let fixed = Faults { first_byte_ms: 20.0, ..Faults::default() };
        assert_eq!(fixed.first_byte(1, &ask("a", 1, 1, 0)), Duration::from_millis(20));
        let spread = Some(Lognormal { median_ms: 10.0, sigma: 1.0 });
        let spread = Faults { first_byte_spread: spread, ..Faults::default() };
        let below =
            (0..1000).filter(|start| spread.first_byte(1, &ask("a", 1, 1, *start)).as_secs_f64() < 0.01).count();
        assert!((430..570).contains(&below), "{below} of 1000 below the median");
    }
}
