//! The origin's books: what was asked, answered and sent, to the byte, in all and for each object.
//! It counts what others tell it; it knows neither sockets nor faults' meaning.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

/// More names than this share one line: the books stay bounded whatever is asked for.
const OBJECTS_MAX: usize = 1 << 16;
/// Attempts at this many ranges of an object are told apart.
const RANGES_MAX: usize = 1 << 20;
/// The log keeps this many requests, the latest.
const LOG_MAX: usize = 1 << 14;
/// The line of names beyond the bound.
const OTHERS: &str = "(others)";

/// Counts since the start or the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Requests for objects, HEAD included; control and metadata endpoints are not among them.
    pub requests: u64,
    /// Answers by status, interrupted ones included.
    pub responses: BTreeMap<u16, u64>,
    /// Body bytes of objects that the kernel took from us.
    pub bytes_sent: u64,
    /// Of these, bytes of a place that had been sent before.
    pub bytes_sent_twice: u64,
    /// Connections accepted, refused ones not included.
    pub connections: u64,
    /// Connections refused because too many were open.
    pub connections_refused: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// The most connections open at once.
    pub connections_maximum: u64,
    /// Requests for objects being answered now.
    pub in_flight: u64,
    /// The most requests for objects answered at once.
    pub in_flight_maximum: u64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Requests to metadata and token endpoints, by kind.
    pub metadata: BTreeMap<String, u64>,
    /// Each object asked for, by name.
    pub objects: BTreeMap<String, ObjectAccount>,
}

/// Counts of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectAccount {
    /// Requests, HEAD included.
    pub requests: u64,
    /// Answers by status.
    pub responses: BTreeMap<u16, u64>,
    /// Body bytes sent.
    pub bytes_sent: u64,
    /// Of these, bytes of a place that had been sent before.
    pub bytes_sent_twice: u64,
    /// The places sent at least once: half-open, in order, never adjacent.
    pub sent: Vec<(u64, u64)>,
    /// The places sent at least twice.
    pub sent_twice: Vec<(u64, u64)>,
    /// Faults injected, by kind.
    pub faults: BTreeMap<String, u64>,
}

/// One request, as it came and as it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// The object's name.
    pub object: String,
    /// `GET` or `HEAD`.
    pub method: String,
    /// The `Range` header as sent.
    pub range: Option<String>,
    /// The `If-Match` header as sent.
    pub if_match: Option<String>,
    /// The status of the answer.
    pub status: u16,
}

/// Which of its kind a request is; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Among the requests for the object.
    pub(super) number: u64,
    /// Among the requests for this very range of it: it does not depend on the order in which
    /// parallel requests arrive.
    pub(super) attempt: u64,
}

/// The books, shared by all connections.
#[derive(Debug, Default)]
pub(super) struct Books(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    totals: Account,
    objects: HashMap<String, Page>,
    log: VecDeque<Logged>,
}

#[derive(Debug, Default)]
struct Page {
    account: ObjectAccount,
    sent: Spans,
    twice: Spans,
    attempts: HashMap<(u64, u64), u64>,
}

impl Pages {
    fn page(&mut self, name: &str) -> &mut Page {
        let known = self.objects.contains_key(name) || self.objects.len() < OBJECTS_MAX;
        let name = if known { name } else { OTHERS };
        if !self.objects.contains_key(name) {
            self.objects.insert(name.to_owned(), Page::default());
        }
        self.objects.get_mut(name).expect("just inserted")
    }
}

impl Books {
    /// A request for an object began.
    pub(super) fn begin(&self, name: &str, range: (u64, u64)) -> Numbers {
        let mut pages = self.0.lock();
        let totals = &mut pages.totals;
        totals.requests += 1;
        totals.in_flight += 1;
        totals.in_flight_maximum = totals.in_flight_maximum.max(totals.in_flight);
        let page = pages.page(name);
        page.account.requests += 1;
        let number = page.account.requests;
        let known = page.attempts.len() < RANGES_MAX || page.attempts.contains_key(&range);
        let attempt = if known {
            let attempt = page.attempts.entry(range).or_default();
            *attempt += 1;
            *attempt
        } else {
            number
        };
        Numbers { number, attempt }
    }

    /// A request was given its status.
    pub(super) fn answered(&self, logged: Logged) {
        let mut pages = self.0.lock();
        *pages.totals.responses.entry(logged.status).or_default() += 1;
        *pages.page(&logged.object).account.responses.entry(logged.status).or_default() += 1;
        if pages.log.len() == LOG_MAX {
            pages.log.pop_front();
        }
        pages.log.push_back(logged);
    }

    /// A request for an object is over, one way or another.
    pub(super) fn end(&self) {
        let totals = &mut self.0.lock().totals;
        totals.in_flight = totals.in_flight.saturating_sub(1);
    }

    /// The kernel took these bytes of an object.
    pub(super) fn sent(&self, name: &str, range: Range<u64>) {
        let mut pages = self.0.lock();
        let count = range.end - range.start;
        let page = pages.page(name);
        let repeated = page.sent.add(range);
        let twice: u64 = repeated.iter().map(|again| again.end - again.start).sum();
        for again in repeated {
            page.twice.add(again);
        }
        page.account.bytes_sent += count;
        page.account.bytes_sent_twice += twice;
        pages.totals.bytes_sent += count;
        pages.totals.bytes_sent_twice += twice;
    }

    /// A fault was injected.
    pub(super) fn fault(&self, name: &str, kind: &str) {
        let mut pages = self.0.lock();
        *pages.totals.faults.entry(kind.to_owned()).or_default() += 1;
        *pages.page(name).account.faults.entry(kind.to_owned()).or_default() += 1;
    }

    /// A metadata endpoint was asked.
    pub(super) fn metadata(&self, kind: &str) {
        *self.0.lock().totals.metadata.entry(kind.to_owned()).or_default() += 1;
    }

    /// A connection was accepted.
    pub(super) fn connected(&self) {
        let totals = &mut self.0.lock().totals;
        totals.connections += 1;
        totals.connections_open += 1;
        totals.connections_maximum = totals.connections_maximum.max(totals.connections_open);
    }

    /// A connection was refused.
    pub(super) fn refused(&self) {
        self.0.lock().totals.connections_refused += 1;
    }

    /// A connection is gone.
    pub(super) fn disconnected(&self) {
        let totals = &mut self.0.lock().totals;
        totals.connections_open = totals.connections_open.saturating_sub(1);
    }

    /// How many connections are open.
    pub(super) fn open(&self) -> u64 {
        self.0.lock().totals.connections_open
    }

    /// A copy of the books.
    pub(super) fn account(&self) -> Account {
        let pages = self.0.lock();
        let objects = pages.objects.iter().map(|(name, page)| {
            let account =
                ObjectAccount { sent: page.sent.list(), sent_twice: page.twice.list(), ..page.account.clone() };
            (name.clone(), account)
        });
        Account { objects: objects.collect(), ..pages.totals.clone() }
    }

    /// The latest requests, oldest first.
    pub(super) fn log(&self) -> Vec<Logged> {
        self.0.lock().log.iter().cloned().collect()
    }

    /// Begins anew; what is open stays open, and request numbers count from 1 again.
    pub(super) fn reset(&self) {
        let mut pages = self.0.lock();
        let (open, in_flight) = (pages.totals.connections_open, pages.totals.in_flight);
        let totals = Account {
            connections_open: open,
            connections_maximum: open,
            in_flight,
            in_flight_maximum: in_flight,
            ..Account::default()
        };
        *pages = Pages { totals, ..Pages::default() };
    }
}

/// A set of places: half-open ranges that neither overlap nor touch.
#[derive(Debug, Default)]
struct Spans(BTreeMap<u64, u64>);

impl Spans {
    /// Adds a range and says which parts of it were there already, in order.
    fn add(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        if range.is_empty() {
            return Vec::new();
        }
        let (mut start, mut end) = (range.start, range.end);
        let mut again = Vec::new();
        // The ranges that overlap or touch; only the last one to begin before us may.
        let first = self.0.range(..=range.start).next_back().filter(|span| *span.1 >= range.start).map(|span| *span.0);
        let touched: Vec<(u64, u64)> =
            self.0.range(first.unwrap_or(range.start)..=range.end).map(|span| (*span.0, *span.1)).collect();
        for (from, to) in touched {
            let shared = from.max(range.start)..to.min(range.end);
            if !shared.is_empty() {
                again.push(shared);
            }
            (start, end) = (start.min(from), end.max(to));
            self.0.remove(&from);
        }
        self.0.insert(start, end);
        again
    }

    fn list(&self) -> Vec<(u64, u64)> {
        self.0.iter().map(|(start, end)| (*start, *end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn spans_agree_with_a_bitmap(ranges in prop::collection::vec((0_u64..64, 0_u64..20), 1..40)) {
            let mut spans = Spans::default();
            let mut bits = [false; 100];
            for (start, len) in ranges {
                let mut expected: Vec<u64> = Vec::new();
                for place in start..start + len {
                    let bit = &mut bits[usize::try_from(place).expect("small")];
                    if std::mem::replace(bit, true) {
                        expected.push(place);
                    }
                }
                let again: Vec<u64> = spans.add(start..start + len).into_iter().flatten().collect();
                prop_assert_eq!(again, expected);
                let covered: Vec<u64> = spans.list().into_iter().flat_map(|(from, to)| from..to).collect();
                let set: Vec<u64> = (0..100).filter(|place| bits[usize::try_from(*place).expect("small")]).collect();
                prop_assert_eq!(covered, set);
                prop_assert!(spans.list().windows(2).all(|pair| pair[0].1 < pair[1].0));
            }
        }
    }

    #[test]
    fn attempts_count_each_range_on_its_own() {
        let books = Books::default();
        assert_eq!(books.begin("a", (0, 9)), Numbers { number: 1, attempt: 1 });
        assert_eq!(books.begin("a", (10, 19)), Numbers { number: 2, attempt: 1 });
        assert_eq!(books.begin("a", (0, 9)), Numbers { number: 3, attempt: 2 });
        assert_eq!(books.begin("b", (0, 9)), Numbers { number: 1, attempt: 1 });
        assert_eq!(books.account().in_flight_maximum, 4);
    }

    #[test]
    fn a_reset_keeps_what_is_open() {
        let books = Books::default();
        books.connected();
        books.sent("a", 0..10);
        books.sent("a", 5..12);
        let account = books.account();
        assert_eq!((account.bytes_sent, account.bytes_sent_twice), (17, 5));
        assert_eq!(account.objects["a"].sent, [(0, 12)]);
        assert_eq!(account.objects["a"].sent_twice, [(5, 10)]);
        books.reset();
        let account = books.account();
        assert_eq!((account.bytes_sent, account.connections_open, account.connections), (0, 1, 0));
        assert!(account.objects.is_empty());
    }
}
