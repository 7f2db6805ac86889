//! Guesses at keys: how many wrong ones a client may send before it has to wait, by its address.
//!
//! Wrong keys are never given back, which is what the generic cell rate algorithm of `governor` is
//! for. A client that waits is not heard at all, or a guess that is right would be told from the
//! others. Clients share addresses, so a wrong key that is only repeated is one guess: a program
//! with a revoked key does not lock out its neighbours.
//!
//! Nothing is known here of connections: the caller names the peer and what proxies wrote.

use crate::config::{ConfigError, WrongKeysConfig};
use crate::moment::Moment;
use core::net::{IpAddr, Ipv6Addr};
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use ipnet::IpNet;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most addresses that can be remembered: about 5 MB.
const ADDRESSES_MAX: usize = 65_536;
/// The most hops of a `x-forwarded-for` that are looked at.
const HOPS_MAX: usize = 32;
/// How many different wrong keys of an address are recognised when they are repeated.
const RECENT: usize = 4;
/// The fingerprint of a header that holds no key, and so no guess.
pub(crate) const NO_KEY: u64 = 0;

/// A client, as far as its address tells: an IPv4 address, or the /64 of an IPv6 address, which is
/// what one client has at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl Client {
    fn at(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from(network))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// The clients that sent wrong keys.
#[derive(Debug)]
pub(crate) struct Guesses {
    config: WrongKeysConfig,
    proxies: Vec<IpNet>,
    /// None where guesses are not limited.
    limiter: Option<Limiter>,
}

type Rate<Cells> = RateLimiter<Client, Cells, ToldClock, NoOpMiddleware<Nanos>>;

#[derive(Debug)]
struct Limiter {
    clock: ToldClock,
    clients: Arc<Clients>,
    /// Takes a cell for each guess.
    take: Rate<Take>,
    /// Says what taking one would say, over the same cells.
    look: Rate<Look>,
}

impl Guesses {
    pub(crate) fn new(config: &WrongKeysConfig) -> Result<Self, ConfigError> {
        let in_range = 1..=ADDRESSES_MAX;
        if !in_range.contains(&config.addresses_max) {
            let problem = format!("must be from 1 to {ADDRESSES_MAX}");
            return Err(ConfigError::new("wrong_keys.addresses_max", problem));
        }
        let proxies = config.proxies.iter().enumerate().map(network).collect::<Result<_, _>>()?;
        let limit = NonZeroU32::new(config.per_minute);
        let limiter = limit.map(|limit| Limiter::new(limit, config.addresses_max));
        Ok(Self { config: config.clone(), proxies, limiter })
    }

    /// True if they are counted by this configuration.
    pub(crate) fn are_of(&self, config: &WrongKeysConfig) -> bool {
        self.config == *config
    }

    /// The client behind a connection: the peer, or where that is a proxy, the last address in its
    /// `x-forwarded-for` that is none. `None` where only proxies are known.
    pub(crate) fn client<'a>(&self, peer: IpAddr, forwarded: impl Iterator<Item = &'a [u8]>) -> Option<Client> {
        if !self.is_proxy(peer) {
            return Some(Client::at(peer));
        }
        let lines: Vec<&[u8]> = forwarded.take(HOPS_MAX).collect();
        let hops = lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
        for hop in hops.take(HOPS_MAX) {
            // What stands before something that is no address is nobody's word.
            let address = address(hop)?;
            if !self.is_proxy(address) {
                return Some(Client::at(address));
            }
        }
        None
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxies.iter().any(|network| network.contains(&address))
    }

    /// The time that a client has to wait until its keys are looked at again, if it has to.
    pub(crate) fn wait(&self, client: Option<Client>, now: Moment) -> Option<Duration> {
        let (limiter, client) = (self.limiter.as_ref()?, client?);
        limiter.clock.tell(now);
        let refusal = limiter.look.check_key(&client).err()?;
        Some(refusal.wait_time_from(limiter.clock.now()))
    }

    /// Records a wrong key, which `fingerprint` tells from others.
    pub(crate) fn note(&self, client: Option<Client>, fingerprint: u64, now: Moment) {
        let (Some(limiter), Some(client)) = (&self.limiter, client) else { return };
        limiter.clock.tell(now);
        if limiter.clients.is_news(client, fingerprint) {
            // One over the limit takes nothing: its client waits already.
            let _ = limiter.take.check_key(&client);
        }
    }

    /// How many addresses are remembered.
    pub(crate) fn addresses(&self) -> usize {
        self.limiter.as_ref().map_or(0, |limiter| limiter.clients.by_address.lock().len())
    }
}

impl Limiter {
    fn new(limit: NonZeroU32, addresses_max: usize) -> Self {
        let clock = ToldClock::default();
        let clients = Arc::new(Clients { by_address: Mutex::default(), addresses_max, clock: clock.clone() });
        let quota = Quota::per_minute(limit);
        let take = RateLimiter::new(quota, Take(Arc::clone(&clients)), clock.clone());
        let look = RateLimiter::new(quota, Look(Arc::clone(&clients)), clock.clone());
        Self { clock, clients, take, look }
    }
}

/// A clock that shows the latest time anybody told it.
#[derive(Debug, Clone, Default)]
struct ToldClock(Arc<AtomicU64>);

impl ToldClock {
    fn tell(&self, now: Moment) {
        self.0.fetch_max(u64::try_from(now.0.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for ToldClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed).into()
    }
}

/// The cells of all clients, bounded.
#[derive(Debug)]
struct Clients {
    by_address: Mutex<HashMap<Client, Guesser>>,
    addresses_max: usize,
    clock: ToldClock,
}

#[derive(Debug, Clone, Copy, Default)]
struct Guesser {
    /// When its cells are all free again (governor's theoretical arrival time).
    free_at: Option<Nanos>,
    /// Its last wrong keys.
    recent: [u64; RECENT],
}

impl Clients {
    /// Remembers a wrong key; false if it is one of the client's last, or none at all (0).
    fn is_news(&self, client: Client, fingerprint: u64) -> bool {
        if fingerprint == NO_KEY {
            return false;
        }
        let mut by_address = self.by_address.lock();
        if !by_address.contains_key(&client) && by_address.len() >= self.addresses_max {
            self.forget(&mut by_address);
        }
        let recent = &mut by_address.entry(client).or_default().recent;
        if recent.contains(&fingerprint) {
            return false;
        }
        recent.rotate_right(1);
        recent[0] = fingerprint;
        true
    }

    /// Makes room: forgets those whose cells are free again, and where all are at it, everybody.
    /// A client with so many addresses gains little by a few more guesses at each.
    fn forget(&self, by_address: &mut HashMap<Client, Guesser>) {
        let now = self.clock.now();
        by_address.retain(|_, guesser| guesser.free_at.is_some_and(|at| at > now));
        if by_address.len() >= self.addresses_max {
            by_address.clear();
        }
    }

    fn free_at(&self, client: &Client) -> Option<Nanos> {
        self.by_address.lock().get(client).and_then(|guesser| guesser.free_at)
    }
}

/// The cells as taking one sees them.
#[derive(Debug)]
struct Take(Arc<Clients>);

impl StateStore for Take {
    type Key = Client;

    fn measure_and_replace<T, F, E>(&self, client: &Client, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut by_address = self.0.by_address.lock();
        let Some(guesser) = by_address.get_mut(client) else { return judge(None).map(|(verdict, _)| verdict) };
        let (verdict, free_at) = judge(guesser.free_at)?;
        guesser.free_at = Some(free_at);
        Ok(verdict)
    }
}

/// The cells as looking sees them: it takes none.
#[derive(Debug)]
struct Look(Arc<Clients>);

impl StateStore for Look {
    type Key = Client;

    fn measure_and_replace<T, F, E>(&self, client: &Client, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        judge(self.0.free_at(client)).map(|(verdict, _)| verdict)
    }
}

fn network((place, text): (usize, &String)) -> Result<IpNet, ConfigError> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| {
        let problem = format!("is {text:?}; write an address or a network, as `10.1.2.3` or `10.0.0.0/8`");
        ConfigError::new(format!("wrong_keys.proxies[{place}]"), problem)
    })
}

/// Reads one hop of a `x-forwarded-for`: an address; some proxies add a port.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let with_port = || text.parse().ok().map(|socket: core::net::SocketAddr| socket.ip());
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guesses(per_minute: u32, addresses_max: usize) -> Guesses {
        let config = WrongKeysConfig { per_minute, addresses_max, ..WrongKeysConfig::default() };
        Guesses::new(&config).expect("valid")
    }

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    fn client(address: &str) -> Option<Client> {
        Some(Client::at(address.parse().expect("an address")))
    }

    #[test]
    fn different_wrong_keys_make_a_client_wait_and_no_other() {
        let guesses = guesses(3, 10);
        let (one, other) = (client("203.0.113.1"), client("203.0.113.2"));
        for guess in 1..=3 {
            assert_eq!(guesses.wait(one, at(0)), None, "before guess {guess}");
            guesses.note(one, guess, at(0));
        }
        assert_eq!(guesses.wait(one, at(0)), Some(Duration::from_secs(20)));
        assert_eq!(guesses.wait(one, at(19_999)), Some(Duration::from_millis(1)));
        assert_eq!(guesses.wait(one, at(20_000)), None, "one guess came back");
        guesses.note(one, 4, at(20_000));
        assert_eq!(guesses.wait(one, at(20_000)), Some(Duration::from_secs(20)));
        assert_eq!(guesses.wait(other, at(20_000)), None);
        assert_eq!(guesses.wait(None, at(20_000)), None);
    }

    #[test]
    fn a_key_that_is_only_repeated_is_one_guess() {
        let guesses = guesses(2, 10);
        let office = client("203.0.113.1");
        for round in 0..1_000 {
            guesses.note(office, 7, at(round));
        }
        assert_eq!(guesses.wait(office, at(1_000)), None);
        guesses.note(office, 8, at(1_000));
        assert!(guesses.wait(office, at(1_000)).is_some());
    }

    #[test]
    fn looking_takes_nothing() {
        let guesses = guesses(1, 10);
        let one = client("203.0.113.1");
        for _ in 0..100 {
            assert_eq!(guesses.wait(one, at(0)), None);
        }
        assert_eq!(guesses.addresses(), 0, "who sent no wrong key is not remembered");
    }

    #[test]
    fn the_addresses_are_bounded_and_those_that_waited_longest_go_first() {
        let guesses = guesses(1, 100);
        for number in 0..10_000_u32 {
            guesses.note(Some(Client::at(core::net::Ipv4Addr::from(number).into())), 1, at(0));
            assert!(guesses.addresses() <= 100);
        }
        let waiting = client("203.0.113.9");
        guesses.note(waiting, 1, at(59_000));
        for number in 0..90_u32 {
            guesses.note(Some(Client::at(core::net::Ipv4Addr::from(number).into())), 1, at(61_000));
        }
        assert!(guesses.wait(waiting, at(61_000)).is_some(), "others made room");
    }

    #[test]
    fn zero_limits_nothing() {
        let guesses = guesses(0, 10);
        for guess in 1..100 {
            guesses.note(client("203.0.113.1"), guess, at(0));
        }
        assert_eq!((guesses.wait(client("203.0.113.1"), at(0)), guesses.addresses()), (None, 0));
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(client("::ffff:203.0.113.1"), client("203.0.113.1"));
    }

    #[test]
    fn the_client_behind_proxies_is_the_last_that_is_none() {
        let guesses = guesses(1, 10);
        let found = |peer: &str, lines: &[&str]| {
            guesses.client(peer.parse().expect("an address"), lines.iter().map(|line| line.as_bytes()))
        };
        for (peer, lines, expected) in [
            ("203.0.113.1", vec![], client("203.0.113.1")),
            ("203.0.113.1", vec!["198.51.100.7"], client("203.0.113.1")),
            ("10.0.0.1", vec!["198.51.100.7"], client("198.51.100.7")),
            ("::ffff:10.0.0.1", vec!["198.51.100.7"], client("198.51.100.7")),
            ("10.0.0.1", vec!["192.0.2.1, 198.51.100.7, 10.0.0.2"], client("198.51.100.7")),
            ("10.0.0.1", vec!["192.0.2.1", "198.51.100.7:1234"], client("198.51.100.7")),
            ("127.0.0.1", vec!["[2001:db8::1]:9, 172.16.0.1"], client("2001:db8::1")),
            ("127.0.0.1", vec!["2001:db8::1"], client("2001:db8::1")),
            ("10.0.0.1", vec!["192.0.2.1, unknown"], None),
            ("10.0.0.1", vec!["192.0.2.1,"], None),
            ("10.0.0.1", vec!["10.0.0.9"], None),
            ("10.0.0.1", vec![], None),
        ] {
            assert_eq!(found(peer, &lines), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn a_wrong_proxy_is_named() {
        let config = WrongKeysConfig { proxies: vec!["::1".into(), "balancer".into()], ..WrongKeysConfig::default() };
        let error = Guesses::new(&config).expect_err("refused");
        assert_eq!(error.field, "wrong_keys.proxies[1]");
    }

    proptest! {
        /// The bound that `governor` promises, through our store: a burst, and then evenly.
        #[test]
        fn no_window_grants_more_guesses_than_its_bound(
            limit in 1_u32..60,
            gaps_ms in prop::collection::vec(prop_oneof![Just(0_u64), 0..50_u64, 0..5_000_u64], 1..300),
        ) {
            let guesses = guesses(limit, 4);
            let one = client("203.0.113.1");
            let (mut now_ms, mut heard) = (0, Vec::new());
            for (number, gap) in gaps_ms.into_iter().enumerate() {
                now_ms += gap;
                if guesses.wait(one, at(now_ms)).is_none() {
                    guesses.note(one, number as u64 + 1, at(now_ms));
                    heard.push(now_ms);
                }
            }
            for (first, start) in heard.iter().enumerate() {
                for (last, end) in heard.iter().enumerate().skip(first) {
                    let granted = (last - first + 1) as f64;
                    // A nanosecond a guess: the interval is a whole number of them, rounded down.
                    let window_s = (end - start) as f64 / 1e3 + granted * 1e-9 * f64::from(limit);
                    prop_assert!(granted <= f64::from(limit) * (1.0 + window_s / 60.0) + 1e-6);
                }
            }
        }
    }
}
