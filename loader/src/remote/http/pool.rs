//! Idle connections, kept for the next request to the same target, and the bound on those in use.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::Connection;
use super::target::Target;

/// Idle connections. Generic over what is kept, so that its rules are tested without sockets.
pub(super) struct Pool<C = Connection> {
    bounds: Bounds,
    hosts: Mutex<HashMap<Target, Host<C>>>,
}

/// The bounds of the pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Connections in use to one target.
    pub in_use_max: usize,
    /// Idle connections, all targets together.
    pub idle_max: usize,
    /// The time that one stays idle.
    pub idle_timeout: Duration,
}

struct Host<C> {
    permits: Arc<Semaphore>,
    /// The longest idle first.
    idle: Vec<(Instant, C)>,
}

impl<C> Pool<C> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, hosts: Mutex::default() }
    }

    /// Waits until a connection to `target` may be in use; it may as long as the permit lives.
    pub(super) async fn permit(&self, target: &Target) -> OwnedSemaphorePermit {
        let permits = Arc::clone(&self.host(&mut self.hosts.lock(), target).permits);
        permits.acquire_owned().await.expect("nobody closes the semaphore")
    }

    /// The connection to `target` that was used last and that `is_good`.
    pub(super) fn take(&self, target: &Target, now: Instant, mut is_good: impl FnMut(&mut C) -> bool) -> Option<C> {
        let mut hosts = self.hosts.lock();
        let idle = &mut hosts.get_mut(target)?.idle;
        while let Some((since, mut connection)) = idle.pop() {
            if now.duration_since(since) >= self.bounds.idle_timeout {
                idle.clear();
                return None;
            }
            if is_good(&mut connection) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps `connection` for the next request, and lets go of those that are idle too long or
    /// too many.
    pub(super) fn put(&self, target: &Target, connection: C, now: Instant) {
        let mut hosts = self.hosts.lock();
        for host in hosts.values_mut() {
            host.idle.retain(|(since, _)| now.duration_since(*since) < self.bounds.idle_timeout);
        }
        hosts.retain(|_, host| !host.idle.is_empty() || Arc::strong_count(&host.permits) > 1);
        self.host(&mut hosts, target).idle.push((now, connection));
        if hosts.values().map(|host| host.idle.len()).sum::<usize>() > self.bounds.idle_max {
            let longest = hosts.values_mut().filter(|host| !host.idle.is_empty()).min_by_key(|host| host.idle[0].0);
            longest.map(|host| host.idle.remove(0));
        }
    }

    /// The number of idle connections.
    pub(super) fn idle(&self) -> usize {
        self.hosts.lock().values().map(|host| host.idle.len()).sum()
    }

    fn host<'a>(&self, hosts: &'a mut HashMap<Target, Host<C>>, target: &Target) -> &'a mut Host<C> {
        let in_use_max = self.bounds.in_use_max.max(1);
        hosts
            .entry(target.clone())
            .or_insert_with(|| Host { permits: Arc::new(Semaphore::new(in_use_max)), idle: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str) -> Target {
        Target { tls: false, host: host.to_owned(), port: 80 }
    }

    fn pool(idle_max: usize) -> Pool<u32> {
        Pool::new(Bounds { in_use_max: 1, idle_max, idle_timeout: Duration::from_secs(10) })
    }

    #[test]
    fn the_last_used_is_taken_first_and_the_broken_are_let_go() {
        let (pool, now) = (pool(9), Instant::now());
        for number in 1..=3 {
            pool.put(&target("a"), number, now);
        }
        assert_eq!(pool.take(&target("a"), now, |number| *number < 3), Some(2));
        assert_eq!((pool.idle(), pool.take(&target("b"), now, |_| true)), (1, None));
    }

    #[test]
    fn what_is_idle_too_long_is_let_go() {
        let (pool, now) = (pool(9), Instant::now());
        pool.put(&target("a"), 1, now);
        assert_eq!(pool.take(&target("a"), now + Duration::from_secs(10), |_| true), None);
        assert_eq!(pool.idle(), 0);
    }

    #[test]
    fn beyond_the_bound_the_longest_idle_of_all_targets_goes() {
        let (pool, now) = (pool(2), Instant::now());
        for (second, host) in ["a", "b", "c"].into_iter().enumerate() {
            pool.put(&target(host), 1, now + Duration::from_secs(second as u64));
        }
        let now = now + Duration::from_secs(3);
        let kept = ["a", "b", "c"].map(|host| pool.take(&target(host), now, |_| true).is_some());
        assert_eq!(kept, [false, true, true]);
    }

    #[tokio::test]
    async fn connections_in_use_are_bounded_per_target() {
        let pool = pool(9);
        let first = pool.permit(&target("a")).await;
        let _other = pool.permit(&target("b")).await;
        let again = target("a");
        let mut second = std::pin::pin!(pool.permit(&again));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        drop(first);
        assert!(futures_util::poll!(second.as_mut()).is_ready());
    }
}
