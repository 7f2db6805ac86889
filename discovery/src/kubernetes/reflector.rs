//! Listing and watching as a state machine: what to ask next, and what an answer changes. No clock, no dice, no I/O.
//!
//! A list is taken page by page and replaces the one before when it is whole; a watch goes on from its version. A version
//! that the server has forgotten (410) begins a new list. Whatever fails, the last whole list stands.

#![warn(clippy::disallowed_methods)]

use crate::kubernetes::slices::{Slice, members};
use crate::roster::Found;
use std::collections::BTreeMap;
use std::time::Duration;

/// The most slices that are held; Kubernetes puts 100 endpoints into one.
const SLICES_MAX: usize = 16_384;
/// The most pages of one list.
const PAGES_MAX: u32 = 4_096;
/// The wait after a failure; it doubles.
const WAIT_MIN: Duration = Duration::from_millis(500);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The next question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A page of the list: the first, or the one that follows.
    List { token: Option<String> },
    /// The changes after this version.
    Watch { version: String },
}

/// An answer, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A page of the list.
    Page(Page),
    /// A slice as it is now.
    Put { name: String, slice: Slice, version: String },
    /// A slice is gone.
    Remove { name: String, version: String },
    /// Nothing changed up to this version.
    Bookmark { version: String },
    /// The watch ended in order.
    Ended,
    /// The version, or the page's token, is forgotten.
    Expired,
    /// Anything else.
    Failed,
}

/// A page of the list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Page {
    pub(crate) slices: Vec<(String, Slice)>,
    /// The version that it shows.
    pub(crate) version: String,
    /// For the page that follows.
    pub(crate) token: Option<String>,
    /// Slices that could not be read.
    pub(crate) refused: usize,
}

/// The slices of a Service, and how they are followed.
#[derive(Debug)]
pub(crate) struct Reflector {
    endpoints_max: usize,
    /// The last whole list, with the changes since.
    held: Held,
    /// The list that is being taken.
    fresh: Option<Fresh>,
    version: Option<String>,
    failures: u32,
}

#[derive(Debug, Default)]
struct Held {
    slices: BTreeMap<String, Slice>,
    endpoints: usize,
    /// Endpoints and slices that were left out: beyond a bound, or unreadable.
    refused: usize,
    /// True if a bound was reached: only a new list knows what is there now.
    is_partial: bool,
}

#[derive(Debug, Default)]
struct Fresh {
    held: Held,
    /// Of the first page: should later ones show a later moment, the watch brings what lies between again.
    version: String,
    token: Option<String>,
    pages: u32,
}

impl Reflector {
    pub(crate) fn new(endpoints_max: usize) -> Self {
        let (held, fresh) = (Held::default(), Some(Fresh::default()));
        Self { endpoints_max, held, fresh, version: None, failures: 0 }
    }

    /// The next question.
    pub(crate) fn next(&self) -> Step {
        match (&self.fresh, &self.version) {
            (None, Some(version)) => Step::Watch { version: version.clone() },
            (fresh, _) => Step::List { token: fresh.as_ref().and_then(|fresh| fresh.token.clone()) },
        }
    }

    /// How long to wait before it, for a `random` number from 0 to 1.
    pub(crate) fn wait(&self, random: f64) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else { return Duration::ZERO };
        let whole = WAIT_MIN.saturating_mul(1 << doublings.min(10)).min(WAIT_MAX);
        whole.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// Takes in an answer; returns true if the members may be others now.
    pub(crate) fn hear(&mut self, heard: Heard) -> bool {
        match heard {
            Heard::Page(page) => self.take_page(page),
            Heard::Put { name, slice, version } => {
                self.advance(version);
                self.held.put(name, slice, self.endpoints_max);
                true
            }
            Heard::Remove { name, version } => {
                self.advance(version);
                self.held.remove(&name);
                true
            }
            Heard::Bookmark { version } => {
                self.advance(version);
                false
            }
            Heard::Ended => {
                self.failures = 0;
                if self.held.is_partial {
                    self.relist();
                }
                false
            }
            Heard::Expired => {
                // A server that forgets at once is not asked in a loop.
                self.failures = self.failures.saturating_add(1);
                self.relist();
                false
            }
            Heard::Failed => {
                self.failures = self.failures.saturating_add(1);
                false
            }
        }
    }

    /// The members now.
    pub(crate) fn members(&self) -> Vec<Found> {
        members(self.held.slices.values().flat_map(|slice| &slice.endpoints))
    }

    /// How many endpoints and slices were left out.
    pub(crate) fn refused(&self) -> usize {
        self.held.refused + self.held.slices.values().map(|slice| slice.refused).sum::<usize>()
    }

    fn relist(&mut self) {
        self.version = None;
        self.fresh = Some(Fresh::default());
    }

    fn advance(&mut self, version: String) {
        self.failures = 0;
        // An empty one would ask for changes since any time.
        if !version.is_empty() {
            self.version = Some(version);
        }
    }

    fn take_page(&mut self, page: Page) -> bool {
        let mut fresh = self.fresh.take().unwrap_or_default();
        fresh.held.refused += page.refused;
        for (name, slice) in page.slices {
            fresh.held.put(name, slice, self.endpoints_max);
        }
        if fresh.pages == 0 {
            fresh.version = page.version;
        }
        fresh.pages += 1;
        fresh.token = page.token;
        if fresh.token.is_some() && fresh.pages < PAGES_MAX {
            self.fresh = Some(fresh);
            return false;
        }
        if fresh.token.is_some() || fresh.version.is_empty() {
            // A list without end, or one that no watch can go on from.
            self.failures = self.failures.saturating_add(1);
            self.relist();
            return false;
        }
        self.failures = 0;
        self.held = fresh.held;
        self.version = Some(fresh.version);
        true
    }
}

impl Held {
    fn put(&mut self, name: String, mut slice: Slice, endpoints_max: usize) {
        self.remove(&name);
        let room = endpoints_max - self.endpoints;
        if slice.endpoints.len() > room || self.slices.len() >= SLICES_MAX {
            let room = if self.slices.len() >= SLICES_MAX { 0 } else { room };
            self.refused += slice.endpoints.len() - room;
            self.is_partial = true;
            slice.endpoints.truncate(room);
        }
        if self.slices.len() < SLICES_MAX {
            self.endpoints += slice.endpoints.len();
            self.slices.insert(name, slice);
        }
    }

    fn remove(&mut self, name: &str) {
        if let Some(slice) = self.slices.remove(name) {
            self.endpoints -= slice.endpoints.len();
        }
    }
}

#[cfg(test)]
mod tests;
