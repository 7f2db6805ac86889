//! The address of a file's bytes at the hub: signed, and expiring.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Uri;
use parking_lot::Mutex;
use url::Url;

/// The life of an address that does not say when it expires.
const DEFAULT_LIFE: Duration = Duration::from_secs(600);
/// No address is asked for more often than this, whatever the clocks say.
const SHORTEST_LIFE: Duration = Duration::from_secs(30);
/// A request must begin this long before its address expires.
const MARGIN: Duration = Duration::from_secs(60);

/// A file's address, as long as it may be used.
#[derive(Debug, Default)]
pub(super) struct Location {
    known: Option<Known>,
    /// The entity tag of the bytes behind any of the file's addresses, once one was read.
    pub etag: Arc<Mutex<Option<String>>>,
}

#[derive(Debug)]
struct Known {
    address: Uri,
    until: Instant,
}

impl Location {
    /// The address, if it may still be used.
    pub(super) fn address(&self, now: Instant) -> Option<&Uri> {
        self.known.as_ref().filter(|known| now < known.until).map(|known| &known.address)
    }

    /// Notes a new address, of which the hub told just `now`.
    pub(super) fn set(&mut self, address: Uri, now: Instant, clock: SystemTime) {
        let life = life(&address, clock).unwrap_or(DEFAULT_LIFE).saturating_sub(MARGIN).max(SHORTEST_LIFE);
        self.known = Some(Known { address, until: now + life });
    }

    /// Forgets `address`, unless another has taken its place.
    pub(super) fn refused(&mut self, address: &Uri) {
        if self.known.as_ref().is_some_and(|known| known.address == *address) {
            self.known = None;
        }
    }
}

/// The life of a signed address that was made just now: `X-Amz-Expires` and
/// `X-Goog-Expires` are seconds from then, `Expires` (CloudFront) is a time.
fn life(address: &Uri, clock: SystemTime) -> Option<Duration> {
    let url = Url::parse(&address.to_string()).ok()?;
    url.query_pairs().find_map(|(name, value)| {
        let seconds = || value.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()));
        match &*name {
            "X-Amz-Expires" | "X-Goog-Expires" => seconds(),
            "Expires" => seconds().map(|since| (UNIX_EPOCH + since).duration_since(clock).unwrap_or_default()),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lasts(address: &str) -> u64 {
        let (now, clock) = (Instant::now(), UNIX_EPOCH + Duration::from_secs(1_000_000));
        let mut location = Location::default();
        location.set(address.parse().expect("a URL"), now, clock);
        let lasts = |seconds: &u64| location.address(now + Duration::from_secs(*seconds)).is_some();
        (0..10_000).take_while(lasts).count() as u64
    }

    #[test]
    fn an_address_is_used_until_shortly_before_it_expires() {
        assert_eq!(lasts("https://cdn.example/a?X-Amz-Expires=3600&X-Amz-Signature=s"), 3540);
        assert_eq!(lasts("https://cdn.example/a?Expires=1000900&Policy=p"), 840);
        assert_eq!(lasts("https://cdn.example/a"), 540);
        assert_eq!(lasts("https://cdn.example/a?Expires=5"), 30, "a wrong clock does not make it ask for ever");
    }

    #[test]
    fn only_the_address_that_was_refused_is_forgotten() {
        let now = Instant::now();
        let [old, new]: [Uri; 2] =
            ["https://cdn.example/1", "https://cdn.example/2"].map(|url| url.parse().expect("a URL"));
        let mut location = Location::default();
        location.set(new.clone(), now, SystemTime::now());
        location.refused(&old);
        assert_eq!(location.address(now), Some(&new));
        location.refused(&new);
        assert_eq!(location.address(now), None);
    }
}
