//! Descriptors: how many this process may open, and some kept in reserve.
//!
//! A client's connection takes one, and at a router one more to the worker. A process that runs out
//! of them can neither say that it lives nor whose fault it is; so connections are bounded below
//! the limit, and the accept loop keeps a few to give away.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::{AsFd, OwnedFd};

/// Descriptors kept for everything that is no connection of a client: weights, logs, health
/// checks, the connections that ask for health when everything else is full.
const RESERVED: u64 = 256;
/// Descriptors that the accept loop gives away when there are no others.
const SPARES: usize = 8;

/// Raises this process's limit of open files as far as the system lets it; returns the limit.
///
/// Call it once, before anything listens.
pub fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        if let Err(cause) = raised {
            tracing::warn!(%cause, ?current, "raising the limit of open files");
        }
    }
    descriptor_limit()
}

/// How many files this process may open.
fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many of `wanted` connections fit into the limit of open files, where each takes
/// `per_connection` descriptors; at least one.
#[must_use]
pub fn connections_within_limit(wanted: usize, per_connection: u64) -> usize {
    fitting(wanted, per_connection, descriptor_limit())
}

fn fitting(wanted: usize, per_connection: u64, limit: u64) -> usize {
    // A very low limit is shared in halves.
    let reserved = RESERVED.min(limit / 2);
    let most = (limit - reserved) / per_connection.max(1);
    wanted.min(usize::try_from(most).unwrap_or(usize::MAX)).max(1)
}

/// Open descriptors without a use, to be closed when one is needed badly.
#[derive(Debug, Default)]
pub(crate) struct Spares(Vec<OwnedFd>);

impl Spares {
    /// Opens spares until there are enough of them; copies of `model` take no other resource.
    pub(crate) fn refill(&mut self, model: &impl AsFd) {
        while self.0.len() < SPARES {
            match model.as_fd().try_clone_to_owned() {
                Ok(copy) => self.0.push(copy),
                Err(_) => return,
            }
        }
    }

    /// Frees a descriptor; returns whether there was one.
    pub(crate) fn give(&mut self) -> bool {
        self.0.pop().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_the_limit() {
        for (wanted, each, limit, expected) in [
            (10_000, 2, 1 << 20, 10_000),
            (10_000, 2, 20_256, 10_000),
            (10_000, 2, 1_024, 384),
            (10_000, 1, 1_024, 768),
            (10_000, 2, 100, 25),
            (10_000, 2, 0, 1),
            (8, 1, 1_024, 8),
        ] {
            assert_eq!(fitting(wanted, each, limit), expected, "{wanted} of {each} in {limit}");
        }
    }

    #[test]
    fn the_limit_is_raised_to_what_is_allowed() {
        let limit = raise_descriptor_limit();
        assert_eq!(Some(limit), getrlimit(Resource::Nofile).maximum.or(Some(u64::MAX)));
    }
}
