//! The configuration of seeding.

use crate::hours::Hours;
use listen::{ListenConfig, MinVersion, TlsConfig, parse_address};
use policy::{Peers, PeersConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::net::SocketAddr;

/// The longest life of a connection: what was taken from a peer is out of its hands within the hour.
const CONNECTION_AGE_MAX_MS: u64 = 3_600_000;
/// The most threads and places, beyond which a number is a mistake.
const THREADS_MAX: usize = 64;
const QUEUE_MAX: usize = 1_024;
/// The longest name of a tenant, as policy has it.
const TENANT_BYTES_MAX: usize = 64;

/// Weights for peers. Off unless an address is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SeedingConfig {
    /// Address and port for peers. Absent by default: nobody is given weights. Beyond loopback `tls` must have a
    /// certificate and `client_ca_file`.
    #[serde(deserialize_with = "address")]
    pub listen: Option<SocketAddr>,
    /// The most open connections of peers; further ones are closed at once. Half of them are one peer's at most. 64: two
    /// or three of each of 24 neighbours.
    pub connections_max: usize,
    /// How long a peer's connection may be unused between two requests, in milliseconds. 30 s: within a load it is used
    /// all the time, and the next load makes another.
    pub idle_timeout_ms: u64,
    /// The tenant whose weights these are, as the rules of `rights` name it.
    pub tenant: String,
    /// Gives peers the digests of extents of files that were proven as wholes, as Hugging Face's are, so that they can load
    /// them from here: those peers that may have the files anyway, and that know the wholes' digests.
    pub attest: bool,
    /// The zone that this machine is in, for peers to prefer their own; empty where nobody says.
    pub zone: Option<String>,
    /// The most extents of 4 MiB that are being sent or wait for it; beyond them the answer is 503, and says who else
    /// took the extent. Half of them are one peer's at most, and half are for extents that nobody took from here yet.
    /// 8: with fewer a link runs dry between two requests, with more peers wait for what others would give sooner.
    pub queue_extents_max: usize,
    /// The most bytes a second sent to all peers together; as many as the link and running requests allow where
    /// absent.
    pub bytes_per_second_max: Option<u64>,
    /// Times of the day in UTC, e.g. `08:00-18:30`, at which `quiet_bytes_per_second` is the most.
    pub quiet_hours: Vec<String>,
    /// The most bytes a second in quiet hours. 0: none.
    pub quiet_bytes_per_second: u64,
    /// Threads that send, at a lower priority than those that compute.
    pub threads: usize,
    /// The peers that may have weights. On loopback without TLS every process of this machine is `local:loopback`.
    pub rights: PeersConfig,
    /// The certificate to show, and the authorities of peers.
    pub tls: TlsConfig,
}

impl Default for SeedingConfig {
    fn default() -> Self {
        Self {
            listen: None,
            connections_max: 64,
            idle_timeout_ms: 30_000,
            tenant: "default".into(),
            attest: true,
            zone: None,
            queue_extents_max: 8,
            bytes_per_second_max: None,
            quiet_hours: Vec::new(),
            quiet_bytes_per_second: 0,
            threads: 2,
            rights: PeersConfig::default(),
            tls: TlsConfig {
                min_version: MinVersion::Tls13,
                connection_age_max_ms: CONNECTION_AGE_MAX_MS,
                ..TlsConfig::default()
            },
        }
    }
}

impl SeedingConfig {
    /// Describes the first mistake in it: the key below this table, and what is wrong with it.
    #[must_use]
    pub fn problem(&self) -> Option<(String, String)> {
        let own = |(key, problem): (&str, &str)| (key.to_owned(), problem.to_owned());
        if let Some((field, problem)) = self.to_listen(SocketAddr::from(([127, 0, 0, 1], 0))).problem() {
            return Some((field, problem.to_owned()));
        }
        if let Some(problem) = self.exposure_problem().or_else(|| self.number_problem()) {
            return Some(own(problem));
        }
        if let Err(problem) = Hours::read(&self.quiet_hours) {
            return Some(("quiet_hours".to_owned(), problem));
        }
        let wrong = Peers::new(&self.rights).err();
        wrong.map(|error| (format!("rights.{}", error.field), error.problem))
    }

    /// The zone, where one is given.
    pub(crate) fn zone(&self) -> Option<&str> {
        self.zone.as_deref().filter(|zone| !zone.is_empty())
    }

    fn exposure_problem(&self) -> Option<(&'static str, &'static str)> {
        let address = self.listen?;
        let is_mutual = self.tls.certificate_file.is_some() && self.tls.client_ca_file.is_some();
        (!is_mutual && !address.ip().is_loopback()).then_some((
            "tls.client_ca_file",
            "is needed beyond loopback, with `certificate_file` and `key_file`: peers are known by their certificates; \
             `forebay peers init` makes some to try",
        ))
    }

    fn number_problem(&self) -> Option<(&'static str, &'static str)> {
        if self.tls.connection_age_max_ms > CONNECTION_AGE_MAX_MS {
            return Some((
                "tls.connection_age_max_ms",
                "must be at most an hour: a right that was taken back ends with it",
            ));
        }
        if self.tls.health_without_certificate {
            return Some(("tls.health_without_certificate", "has no meaning here: there is no health to ask for"));
        }
        if !(1..=TENANT_BYTES_MAX).contains(&self.tenant.len()) {
            return Some(("tenant", "must have 1 to 64 bytes"));
        }
        if self.zone().is_some_and(|zone| !wire::peers::is_name(zone)) {
            return Some(("zone", "must be a name without spaces and commas"));
        }
        let numbers = [
            ("connections_max", self.connections_max, usize::MAX),
            ("queue_extents_max", self.queue_extents_max, QUEUE_MAX),
            ("threads", self.threads, THREADS_MAX),
        ];
        let wrong = numbers.into_iter().find(|(_, number, most)| !(1..=*most).contains(number));
        wrong.map(|(key, ..)| (key, "must be at least 1, and not absurdly many"))
    }

    /// The bounds of the listener.
    pub(crate) fn to_listen(&self, address: SocketAddr) -> ListenConfig {
        ListenConfig {
            address,
            connections_max: self.connections_max,
            idle_timeout_ms: self.idle_timeout_ms,
            write_timeout_ms: 20_000,
            body_bytes_max: 0,
            // Extents are fetched elsewhere sooner than they are waited for.
            drain_timeout_ms: 5_000,
            tls: self.tls.clone(),
            ..ListenConfig::default()
        }
    }
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_address(&text).map_err(serde::de::Error::custom)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::PeerRule;
    use std::path::PathBuf;

    #[test]
    fn beyond_loopback_peers_show_certificates() {
        let at = |address: &str| SeedingConfig { listen: address.parse().ok(), ..SeedingConfig::default() };
        assert_eq!(SeedingConfig::default().problem(), None);
        assert_eq!(at("127.0.0.1:8082").problem(), None);
        let (key, _) = at("0.0.0.0:8082").problem().expect("a problem");
        assert_eq!(key, "tls.client_ca_file");
        let path = || Some(PathBuf::from("x.pem"));
        let mut config = at("0.0.0.0:8082");
        (config.tls.certificate_file, config.tls.key_file) = (path(), path());
        assert!(config.problem().is_some(), "peers without certificates");
        config.tls.client_ca_file = path();
        assert_eq!(config.problem(), None);
    }

    #[test]
    fn a_mistake_is_named_by_its_key() {
        let wrong = |change: &dyn Fn(&mut SeedingConfig)| {
            let mut config = SeedingConfig::default();
            change(&mut config);
            config.problem().expect("a problem").0
        };
        let rule = PeerRule { identities: vec!["A".into()], tenants: vec!["*".into()] };
        assert_eq!(wrong(&|config| config.rights.allow = vec![rule.clone()]), "rights.allow[0].identities[0]");
        assert_eq!(wrong(&|config| config.tls.connection_age_max_ms = 3_600_001), "tls.connection_age_max_ms");
        assert_eq!(wrong(&|config| config.quiet_hours = vec!["8-9".into()]), "quiet_hours");
        assert_eq!(wrong(&|config| config.queue_extents_max = 0), "queue_extents_max");
        assert_eq!(wrong(&|config| config.connections_max = 0), "connections_max");
        assert_eq!(wrong(&|config| config.tenant = String::new()), "tenant");
        assert_eq!(wrong(&|config| config.zone = Some("a,b".into())), "zone");
        assert_eq!(wrong(&|config| config.tls.health_without_certificate = true), "tls.health_without_certificate");
    }
}
