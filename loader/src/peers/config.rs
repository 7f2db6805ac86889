//! The bounds of loading from peers, every default with its reason.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fetch::NeighbourBounds;
use crate::remote::http::HttpConfig;

/// Bounds of loading from peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NeighboursConfig {
    /// The most peers that one load has to do with at a time. 24: with 8, simulated loads took a fifth longer.
    pub neighbours_max: usize,
    /// How many of them may be far ones (another zone) while near ones are to be had. 2 keep parts of a fleet together.
    pub far_max: usize,
    /// Requests in flight at one peer at the start. One is being sent while the next one waits there.
    pub in_flight_start: usize,
    /// The most that growing throughput raises it to. 8 extents are what a peer queues by default.
    pub in_flight_max: usize,
    /// The time that an urgent extent waits for a peer that has it before storage is tried, in milliseconds. With 1,000,
    /// peers that together bring 256 MiB in a second are left alone; storage goes on helping others if more comes with it.
    pub patience_ms: u64,
    /// The time that connecting to a peer may take, in milliseconds. Peers are near: a second is a lost packet or two.
    pub connect_timeout_ms: u64,
    /// Loads files that are known by a digest of the whole alone, as Hugging Face's are, from peers that attest the
    /// digests of their extents. Nothing is shown before the whole was found right, so a peer that attests wrongly costs
    /// one download of the files and is left alone for `ban_ms`.
    pub attested: bool,
    /// The time for which a member that sent or attested wrong bytes is asked for nothing by later loads, in milliseconds.
    /// Ten minutes: a machine with bad memory is out of the way, and one that was mended comes back by itself. In the load
    /// in which it did so it is asked no more in any case.
    pub ban_ms: u64,
    /// A file with a capability to show to peers, read at the beginning of each load.
    pub capability_file: Option<PathBuf>,
}

impl Default for NeighboursConfig {
    fn default() -> Self {
        Self {
            neighbours_max: 24,
            far_max: 2,
            in_flight_start: 2,
            in_flight_max: 8,
            patience_ms: 1_000,
            connect_timeout_ms: 1_500,
            attested: true,
            ban_ms: 600_000,
            capability_file: None,
        }
    }
}

impl NeighboursConfig {
    /// Checks the bounds.
    ///
    /// # Errors
    /// The field that is wrong, and its fix.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if !(1..=NEIGHBOURS_MAX).contains(&self.neighbours_max) {
            return Err(format!("neighbours_max is {}; it must be 1 to {NEIGHBOURS_MAX}", self.neighbours_max));
        }
        if self.in_flight_start == 0 || self.in_flight_start > self.in_flight_max || self.in_flight_max > IN_FLIGHT_MAX
        {
            return Err(format!(
                "in_flight_start must be at least 1 and at most in_flight_max, which is at most {IN_FLIGHT_MAX}"
            ));
        }
        Ok(())
    }

    pub(super) fn bounds(&self) -> NeighbourBounds {
        NeighbourBounds {
            in_flight_start: self.in_flight_start,
            in_flight_max: self.in_flight_max,
            patience: Duration::from_millis(self.patience_ms),
        }
    }

    pub(super) fn ban(&self) -> Duration {
        Duration::from_millis(self.ban_ms)
    }

    /// The bounds of connections to one peer.
    pub(super) fn http(&self, http: &HttpConfig) -> HttpConfig {
        HttpConfig {
            connect_timeout_ms: self.connect_timeout_ms,
            first_byte_timeout_ms: millis(wire::peers::SILENCE_MAX),
            idle_timeout_ms: millis(wire::peers::SILENCE_MAX),
            // Those of extents, of hedges, and the one of news.
            connections_per_host_max: 2 * self.in_flight_max + 1,
            pool_idle_max: self.in_flight_max,
            ..http.clone()
        }
    }
}

/// The most neighbours that can be configured: each has a stream of news and a map of extents.
const NEIGHBOURS_MAX: usize = 64;

/// The most requests in flight at one peer that can be configured.
const IN_FLIGHT_MAX: usize = 64;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_what_cannot_work_is_refused() {
        assert_eq!(NeighboursConfig::default().validate(), Ok(()));
        let refused = |change: fn(&mut NeighboursConfig)| {
            let mut config = NeighboursConfig::default();
            change(&mut config);
            config.validate().is_err()
        };
        assert!(refused(|config| config.neighbours_max = 0));
        assert!(refused(|config| config.neighbours_max = 65));
        assert!(refused(|config| config.in_flight_start = 0));
        assert!(refused(|config| config.in_flight_start = 9));
        assert!(refused(|config| config.in_flight_max = 65));
    }
}
