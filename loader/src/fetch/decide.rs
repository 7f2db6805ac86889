//! Decides what follows a failed attempt: pure, with time and randomness as arguments.

#![warn(clippy::disallowed_methods)]

use std::ops::Range;
use std::time::{Duration, Instant};

use rand::Rng;

use super::backoff;
use super::config::FetchConfig;
use super::error::FetchError;
use super::stall::Stall;
use crate::landing::LandingError;
use crate::source::SourceError;

/// The ways an attempt ends.
#[derive(Debug)]
pub(super) enum Ended {
    /// All has come.
    Complete,
    /// A hedge brought the next extent first; the rest is still missing.
    Overtaken,
    /// The supply called it back, to give the rest to another source.
    Recalled,
    /// The connection was given up.
    Stalled(Stall),
    /// The source failed.
    Failed(SourceError),
}

/// The failures of a fetch so far.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    /// Failed attempts, throttled ones not counted.
    pub(super) failures: u32,
    pub(super) throttles: u32,
    pub(super) stalls: u32,
    pub(super) first_failure: Option<Instant>,
    /// Bytes that the latest attempt landed before it ended.
    pub(super) brought: u64,
    /// The source of the next attempt.
    pub(super) source: usize,
    /// True if it is made on a connection of its own.
    pub(super) fresh: bool,
    /// The extent that came corrupt last, and where from.
    pub(super) corrupt: Option<(u64, String)>,
}

/// The position of a fetch, for decisions and messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position<'a> {
    pub(super) object: &'a str,
    /// The source of the attempt that ended.
    pub(super) url: &'a str,
    /// Bytes still missing.
    pub(super) missing: (u64, u64),
    pub(super) source_count: usize,
}

/// An attempt that landed so many bytes made progress. Each pays for the request it costs, so what
/// a fetch may cost stays bounded by its size.
const PROGRESS_BYTES: u64 = 4 << 10;

/// The next step of a fetch.
#[derive(Debug)]
pub(super) enum Next {
    /// Nothing: the fetch is complete.
    Done,
    /// Another attempt, after a while.
    Again(Duration),
    /// The load fails.
    Fail(FetchError),
}

/// Decides what follows an attempt, and notes it in the fetch's history.
pub(super) fn next(
    history: &mut History,
    ended: Ended,
    position: Position<'_>,
    now: Instant,
    config: &FetchConfig,
    random: &mut impl Rng,
) -> Next {
    if history.brought >= PROGRESS_BYTES {
        // A source that answers in small cuts gets there: only failures without progress add up.
        (history.failures, history.throttles, history.first_failure) = (0, 0, None);
    }
    match ended {
        Ended::Complete => Next::Done,
        Ended::Overtaken | Ended::Recalled => {
            history.fresh = false;
            Next::Again(Duration::ZERO)
        }
        Ended::Stalled(stall) => after_stall(history, stall, position, now, config),
        Ended::Failed(SourceError::Landing(corrupt @ LandingError::Corrupt { .. })) => {
            after_corruption(history, corrupt, position)
        }
        Ended::Failed(SourceError::Throttled { url, name, status, retry_after }) => {
            history.throttles += 1;
            let jittered = backoff::delay(history.throttles, config, random);
            let told = retry_after.map(|told| told.min(Duration::from_secs(config.retry_after_max_seconds)));
            let source = SourceError::Throttled { url, name, status, retry_after };
            retry(history, source, told.map_or(jittered, |told| told + jittered.min(told / 4)), position, now, config)
        }
        Ended::Failed(source) if source.is_retryable() => {
            history.failures += 1;
            history.fresh = false;
            // Twice in a row at one source: another one, where there is one.
            if history.failures.is_multiple_of(2) {
                history.source = (history.source + 1) % position.source_count;
            }
            // A connection that broke once says nothing about the store: go on at once.
            let delay = match history.failures {
                1 => Duration::ZERO,
                failures => backoff::delay(failures - 1, config, random),
            };
            retry(history, source, delay, position, now, config)
        }
        Ended::Failed(source) => {
            let (object, source) = (position.object.to_owned(), Box::new(source));
            Next::Fail(FetchError::Permanent { object, range: position.range(), source })
        }
    }
}

/// A stuck connection is given up and the rest asked for on a fresh one: what has landed is kept.
fn after_stall(
    history: &mut History,
    stall: Stall,
    position: Position<'_>,
    now: Instant,
    config: &FetchConfig,
) -> Next {
    history.stalls += 1;
    history.failures += 1;
    history.fresh = true;
    if history.stalls.is_multiple_of(2) {
        history.source = (history.source + 1) % position.source_count;
    }
    let problem = match stall {
        Stall::FirstByte => "no answer; the connection was given up",
        Stall::Body => "the body stopped; the connection was given up",
    };
    let (url, name) = (position.url.to_owned(), position.object.to_owned());
    let source = SourceError::Transient { url, name, problem: problem.to_owned(), source: None };
    retry(history, source, Duration::ZERO, position, now, config)
}

/// A corrupt extent is fetched once more, from elsewhere: another source, or a fresh connection.
fn after_corruption(history: &mut History, corrupt: LandingError, position: Position<'_>) -> Next {
    let LandingError::Corrupt { range, source_url, .. } = &corrupt else { return Next::Again(Duration::ZERO) };
    let extent = range.start / wire::extent::EXTENT_BYTES;
    match history.corrupt.replace((extent, source_url.clone())) {
        Some((before, first_url)) if before == extent => Next::Fail(FetchError::Corrupt {
            object: position.object.to_owned(),
            range: range.clone(),
            first_url,
            second_url: source_url.clone(),
            source: Box::new(corrupt),
        }),
        _ => {
            history.source = (history.source + 1) % position.source_count;
            history.fresh = true;
            Next::Again(Duration::ZERO)
        }
    }
}

fn retry(
    history: &mut History,
    source: SourceError,
    delay: Duration,
    position: Position<'_>,
    now: Instant,
    config: &FetchConfig,
) -> Next {
    let first = *history.first_failure.get_or_insert(now);
    let failing_for = now.saturating_duration_since(first);
    let out_of_time = failing_for + delay > Duration::from_secs(config.retry_seconds_max);
    if history.failures < config.tries_max && !out_of_time {
        return Next::Again(delay);
    }
    Next::Fail(FetchError::Exhausted {
        object: position.object.to_owned(),
        range: position.range(),
        tries: history.failures + history.throttles,
        seconds: failing_for.as_secs_f64(),
        source: Box::new(source),
    })
}

impl Position<'_> {
    fn range(&self) -> Range<u64> {
        self.missing.0..self.missing.1
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts at some moment")]
mod tests;
