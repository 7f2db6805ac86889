//! Requests that broke a worker: a poison request is not replayed onto every worker.
//!
//! A strike is filed by the digest of the request's body; the first may be chance (the worker was
//! killed), so the request may go to one more worker. After the second it is answered with an
//! error. Pure: time is an argument. The number of files is bounded.

#![warn(clippy::disallowed_methods)]

use policy::Moment;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// How long a strike counts.
const STRIKE_AGE: Duration = Duration::from_secs(600);
/// How long a poison request is refused without asking any worker.
const DO_NOT_RETRY: Duration = Duration::from_secs(60);
/// The strikes of one body after which it is not sent again.
const STRIKES_MAX: u32 = 2;
/// The poison bodies of one tenant after which none of its requests is replayed.
const POISONS_MAX: u32 = 3;
/// The most files kept; the oldest goes first.
const FILES_MAX: usize = 4_096;

/// The digest of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BodyDigest(u64);

/// Digests bodies under a key of this process: no client can aim at another's request.
#[derive(Debug, Default)]
pub(crate) struct Digester(RandomState);

impl Digester {
    pub(crate) fn digest(&self, body: &[u8]) -> BodyDigest {
        BodyDigest(self.0.hash_one(body))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum File {
    Body(BodyDigest),
    Tenant(String),
}

/// Recent strikes, by request and by tenant.
#[derive(Debug, Default)]
pub(crate) struct Strikes {
    files: HashMap<File, (u32, Moment)>,
    order: VecDeque<(File, Moment)>,
}

impl Strikes {
    /// Files a strike; returns whether the request may still go to another worker.
    pub(crate) fn strike(&mut self, body: BodyDigest, tenant: &str, now: Moment) -> bool {
        let strikes = self.count(File::Body(body), now);
        if strikes == STRIKES_MAX {
            self.count(File::Tenant(tenant.to_owned()), now);
        }
        strikes < STRIKES_MAX && self.of(&File::Tenant(tenant.to_owned()), now).0 < POISONS_MAX
    }

    /// True if the request broke two workers within the last minute.
    pub(crate) fn is_poison(&self, body: BodyDigest, now: Moment) -> bool {
        let (strikes, at) = self.of(&File::Body(body), now);
        strikes >= STRIKES_MAX && at.0 + DO_NOT_RETRY > now.0
    }

    /// How many files are kept.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    fn of(&self, file: &File, now: Moment) -> (u32, Moment) {
        let fresh = |(_, at): &&(u32, Moment)| at.0 + STRIKE_AGE > now.0;
        self.files.get(file).filter(fresh).copied().unwrap_or((0, now))
    }

    fn count(&mut self, file: File, now: Moment) -> u32 {
        self.forget(now);
        let strikes = self.of(&file, now).0 + 1;
        self.files.insert(file.clone(), (strikes, now));
        self.order.push_back((file, now));
        strikes
    }

    /// Drops what is too old, and the oldest where there are too many.
    fn forget(&mut self, now: Moment) {
        while let Some((file, at)) = self.order.front() {
            if at.0 + STRIKE_AGE > now.0 && self.order.len() < FILES_MAX {
                return;
            }
            // A later strike of the same file has an entry of its own.
            if self.files.get(file).is_some_and(|(_, last)| last == at) {
                self.files.remove(file);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Moment {
        Moment(Duration::from_secs(s))
    }

    fn digest(number: u64) -> BodyDigest {
        BodyDigest(number)
    }

    #[test]
    fn the_second_strike_ends_the_replays() {
        let mut strikes = Strikes::default();
        assert!(strikes.strike(digest(1), "t", at(0)));
        assert!(!strikes.is_poison(digest(1), at(0)));
        assert!(!strikes.strike(digest(1), "t", at(9)));
        assert!(strikes.is_poison(digest(1), at(9)));
        assert!(!strikes.is_poison(digest(1), at(70)), "a client may try again after a minute");
        assert!(!strikes.strike(digest(1), "t", at(80)), "but breaks no two workers more");
        assert!(strikes.strike(digest(1), "t", at(700)), "ten minutes later it is forgotten");
        assert!(strikes.strike(digest(2), "t", at(700)));
    }

    #[test]
    fn many_requests_that_wait_at_one_killed_worker_are_all_replayed() {
        let mut strikes = Strikes::default();
        assert!((0..500).all(|number| strikes.strike(digest(number), "t", at(1))));
    }

    #[test]
    fn a_tenant_of_three_poison_requests_gets_no_replays() {
        let mut strikes = Strikes::default();
        for number in 0..3 {
            assert!(strikes.strike(digest(number), "red", at(1)));
            assert!(!strikes.strike(digest(number), "red", at(1)));
        }
        assert!(!strikes.strike(digest(9), "red", at(2)));
        assert!(strikes.strike(digest(10), "blue", at(2)));
        assert!(strikes.strike(digest(11), "red", at(700)));
    }

    #[test]
    fn the_files_are_bounded() {
        let mut strikes = Strikes::default();
        for number in 0..20_000 {
            strikes.strike(digest(number), "t", at(1));
        }
        assert!(strikes.len() <= FILES_MAX && strikes.order.len() <= FILES_MAX);
        assert!(strikes.strike(digest(3), "t", at(1)), "the oldest were forgotten");
    }

    #[test]
    fn equal_bodies_have_one_digest() {
        let digester = Digester::default();
        assert_eq!(digester.digest(b"a"), digester.digest(b"a"));
        assert_ne!(digester.digest(b"a"), digester.digest(b"b"));
    }
}
