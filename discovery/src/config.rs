//! The settings of discovery, each default with its reason, and the places that they name.

use crate::member::{AddressError, Member};
use crate::members::MEMBERS_MAX;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Errors of the settings: the key, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{field}` {problem}")]
pub struct ConfigError {
    /// The key.
    pub field: &'static str,
    /// The problem with it, and the fix.
    pub problem: String,
}

/// How the members of a fleet are found. Sources add up; where two name one member, the earlier in this list counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscoveryConfig {
    /// Members that are always there, each as `HOST:PORT`.
    #[serde(rename = "static")]
    pub fixed: Vec<String>,
    /// A JSON file of members, as `GET /fleet` of a router answers it: `{"members": [{"address": "10.0.0.5:8082",
    /// "id": "a", "zone": "z", "name": "a.example"}]}`; only `address` must be there. It is read again when it changes.
    pub file: Option<PathBuf>,
    /// A name to ask DNS for: `HOST:PORT` for the addresses of a host, such as a headless Service, or
    /// `_SERVICE._PROTOCOL.HOST` for SRV records, which name the ports.
    pub dns: Option<String>,
    /// DNS servers to ask in place of the system's, each as `ADDRESS:PORT`.
    pub dns_servers: Vec<SocketAddr>,
    /// The base URL of a router that knows the workers, `http://HOST:PORT` or `https://HOST:PORT`. It is asked for
    /// `/fleet`, with the key that routers and workers share.
    pub router: Option<String>,
    /// A Service of Kubernetes whose EndpointSlices are watched: `SERVICE:PORT` or `NAMESPACE/SERVICE:PORT`, where
    /// `PORT` is a port's name or number. Without a namespace it is the pod's own.
    pub kubernetes: Option<String>,
    /// The base URL of the API server, e.g. `http://127.0.0.1:8001` of `kubectl proxy`. Absent by default: the one that a
    /// pod's environment names.
    pub kubernetes_api: Option<String>,
    /// A PEM file with the authorities of the API server. Absent by default: the pod's service account's.
    pub kubernetes_ca_file: Option<PathBuf>,
    /// A file with the token that is shown to the API server; it is read again for every question. Absent by default: the
    /// pod's service account's, which is never sent in the clear.
    pub kubernetes_token_file: Option<PathBuf>,
    /// How long one watch of Kubernetes lasts, in milliseconds, before it goes on in a new request. 4 minutes: a
    /// thousand processes ask four times a second. A connection that broke without a word is noticed within a minute.
    pub watch_ms: u64,
    /// The name that members' certificates must hold. Absent by default: the name that each was found by, such as
    /// `POD.SERVICE.NAMESPACE.svc`, `SERVICE.NAMESPACE.svc`, or the host of its address.
    pub tls_name: Option<String>,
    /// The zone that this process runs in. Absent, or empty, by default: the zone that the source gives for this process itself.
    /// Members of the zone are asked first.
    pub zone: Option<String>,
    /// Names and addresses of this process's own machine or pod. A member that has one of them, and the port that this
    /// process listens on, is this process, and left out. The machine's name and addresses count without being listed.
    pub own_hosts: Vec<String>,
    /// How often DNS and the router are asked, and the file is looked at, in milliseconds, give or take a fifth so that
    /// a fleet does not ask in step. 5 s: a new member is rarely awaited. An answer's time to live is not waited for:
    /// caches in between heed it anyway.
    pub interval_ms: u64,
    /// How long an answer may take, in milliseconds. 5 s covers a lost packet and a second server.
    pub timeout_ms: u64,
    /// How long a member stays that DNS or the router names no more, in milliseconds. Either may answer with a part of
    /// the fleet. While a source does not answer, no time passes: its last list stands.
    pub forget_after_ms: u64,
    /// The most members; further ones are left out, those of other zones first. 8,192, which is also the most there
    /// may be: a list of them is 1 MB.
    pub members_max: usize,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            fixed: Vec::new(),
            file: None,
            dns: None,
            dns_servers: Vec::new(),
            router: None,
            kubernetes: None,
            kubernetes_api: None,
            kubernetes_ca_file: None,
            kubernetes_token_file: None,
            watch_ms: 240_000,
            tls_name: None,
            zone: None,
            own_hosts: Vec::new(),
            interval_ms: 5_000,
            timeout_ms: 5_000,
            forget_after_ms: 30_000,
            members_max: MEMBERS_MAX,
        }
    }
}

impl DiscoveryConfig {
    /// Returns true if it names a source.
    #[must_use]
    pub fn is_on(&self) -> bool {
        let named = [self.dns.is_some(), self.router.is_some(), self.kubernetes.is_some(), self.file.is_some()];
        !self.fixed.is_empty() || named.contains(&true)
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// The first key that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.fixed_members()?;
        self.dns_name()?;
        self.router_url()?;
        self.api_url()?;
        self.service()?;
        self.check_bounds()
    }

    fn check_bounds(&self) -> Result<(), ConfigError> {
        /// A longer time is a mistake, and beyond what clocks can add.
        const DAY_MS: u64 = 86_400_000;
        let times = [
            ("interval_ms", self.interval_ms),
            ("timeout_ms", self.timeout_ms),
            ("forget_after_ms", self.forget_after_ms),
            ("watch_ms", self.watch_ms),
        ];
        if let Some((field, _)) = times.into_iter().find(|(_, ms)| !(1..=DAY_MS).contains(ms)) {
            return Err(wrong(field, "must be at least 1 and at most a day"));
        }
        if !(1..=MEMBERS_MAX).contains(&self.members_max) {
            return Err(wrong("members_max", "must be at least 1 and at most 8,192"));
        }
        if self.fixed.len() > self.members_max {
            return Err(wrong("static", "has more entries than `members_max`"));
        }
        Ok(())
    }

    pub(crate) fn fixed_members(&self) -> Result<Vec<Member>, ConfigError> {
        let parse = |address: &String| Member::at(address);
        let members: Result<_, AddressError> = self.fixed.iter().map(parse).collect();
        members.map_err(|cause| wrong("static", &format!("has an entry that is wrong: {cause}")))
    }

    pub(crate) fn dns_name(&self) -> Result<Option<DnsName>, ConfigError> {
        self.dns.as_deref().map(DnsName::parse).transpose()
    }

    pub(crate) fn router_url(&self) -> Result<Option<BaseUrl>, ConfigError> {
        self.router.as_deref().map(|url| BaseUrl::parse("router", url)).transpose()
    }

    pub(crate) fn api_url(&self) -> Result<Option<BaseUrl>, ConfigError> {
        self.kubernetes_api.as_deref().map(|url| BaseUrl::parse("kubernetes_api", url)).transpose()
    }

    pub(crate) fn service(&self) -> Result<Option<Service>, ConfigError> {
        self.kubernetes.as_deref().map(Service::parse).transpose()
    }

    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(crate) fn forget_after(&self) -> Duration {
        Duration::from_millis(self.forget_after_ms)
    }
}

/// A name to ask DNS for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DnsName {
    /// A host's addresses, each with this port.
    Host { host: String, port: u16 },
    /// SRV records.
    Service(String),
}

impl DnsName {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let form = "is neither HOST:PORT nor a name of SRV records such as _peers._tcp.HOST";
        if let Some((service, _)) = text.split_once("._tcp.").filter(|_| text.starts_with('_')) {
            let is_name = Member::at(&format!("{text}:1")).is_ok();
            return if is_name && service.len() > 1 { Ok(Self::Service(text.into())) } else { Err(wrong("dns", form)) };
        }
        let member = Member::at(text).map_err(|_| wrong("dns", form))?;
        let port = member.port().ok_or_else(|| wrong("dns", form))?;
        Ok(Self::Host { host: member.host().into(), port })
    }
}

/// The base URL of a server, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    pub(crate) is_tls: bool,
    /// `HOST:PORT`.
    pub(crate) authority: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl BaseUrl {
    pub(crate) fn parse(field: &'static str, text: &str) -> Result<Self, ConfigError> {
        let fail = || wrong(field, "is no base URL; write http://HOST:PORT or https://HOST:PORT");
        let (scheme, rest) = text.split_once("://").ok_or_else(fail)?;
        let (is_tls, default_port) = match scheme {
            "http" => (false, 80),
            "https" => (true, 443),
            _ => return Err(fail()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let with_port = || Member::at(&format!("{authority}:{default_port}"));
        let member = Member::at(authority).or_else(|_| with_port()).map_err(|_| fail())?;
        let (host, port) = (member.host().to_owned(), member.port().ok_or_else(fail)?);
        Ok(Self { is_tls, authority: member.address, host, port })
    }
}

/// A Service of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// None for the pod's own.
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) port: Port,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Port {
    Number(u16),
    Name(String),
}

impl Service {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let fail = || wrong("kubernetes", "is no Service with a port; write SERVICE:PORT or NAMESPACE/SERVICE:PORT");
        let (service, port) = text.rsplit_once(':').ok_or_else(fail)?;
        let (namespace, name) = match service.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, service),
        };
        if !is_label(name) || !namespace.is_none_or(is_label) || !is_label(port) {
            return Err(fail());
        }
        let port = match port.parse::<u16>() {
            Ok(0) => return Err(fail()),
            Ok(number) => Port::Number(number),
            Err(_) => Port::Name(port.into()),
        };
        Ok(Self { namespace: namespace.map(str::to_owned), name: name.into(), port })
    }
}

/// Returns true for a label as Kubernetes' names have them (RFC 1123). Nothing else gets into a request's path.
fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn wrong(field: &'static str, problem: &str) -> ConfigError {
    ConfigError { field, problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(adjust: impl FnOnce(&mut DiscoveryConfig)) -> DiscoveryConfig {
        let mut config = DiscoveryConfig::default();
        adjust(&mut config);
        config
    }

    #[test]
    fn a_wrong_setting_is_named() {
        assert_eq!(DiscoveryConfig::default().check(), Ok(()));
        assert!(!DiscoveryConfig::default().is_on());
        for (config, field) in [
            (with(|config| config.fixed = vec!["a:1".into(), "b".into()]), "static"),
            (with(|config| (config.fixed, config.members_max) = (vec!["a:1".into(), "b:1".into()], 1)), "static"),
            (with(|config| config.dns = Some("host".into())), "dns"),
            (with(|config| config.dns = Some("_._tcp.host".into())), "dns"),
            (with(|config| config.dns = Some("_peers._tcp.a b".into())), "dns"),
            (with(|config| config.router = Some("host:80".into())), "router"),
            (with(|config| config.router = Some("ftp://host".into())), "router"),
            (with(|config| config.router = Some("http://user:secret@host".into())), "router"),
            (with(|config| config.router = Some("http://host/v1".into())), "router"),
            (with(|config| config.kubernetes_api = Some("https://host/api".into())), "kubernetes_api"),
            (with(|config| config.kubernetes = Some("service".into())), "kubernetes"),
            (with(|config| config.kubernetes = Some("a/b/c:1".into())), "kubernetes"),
            (with(|config| config.kubernetes = Some("../x:1".into())), "kubernetes"),
            (with(|config| config.kubernetes = Some("x:0".into())), "kubernetes"),
            (with(|config| config.interval_ms = 0), "interval_ms"),
            (with(|config| config.timeout_ms = u64::MAX), "timeout_ms"),
            (with(|config| config.members_max = 8_193), "members_max"),
        ] {
            let error = config.check().expect_err(field);
            assert_eq!(error.field, field, "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn places_are_read_from_their_names() {
        let name = |text: &str| DnsName::parse(text).expect(text);
        assert_eq!(name("workers.svc:8081"), DnsName::Host { host: "workers.svc".into(), port: 8_081 });
        assert_eq!(name("_peers._tcp.workers.svc"), DnsName::Service("_peers._tcp.workers.svc".into()));
        let url = |text: &str| BaseUrl::parse("router", text).expect(text);
        let expected = |is_tls, authority: &str, host: &str, port| BaseUrl {
            is_tls,
            authority: authority.into(),
            host: host.into(),
            port,
        };
        assert_eq!(
            url("https://forebay.forebay.svc/"),
            expected(true, "forebay.forebay.svc:443", "forebay.forebay.svc", 443)
        );
        assert_eq!(url("http://[::1]:8080"), expected(false, "[::1]:8080", "::1", 8_080));
        let service = |text: &str| Service::parse(text).expect(text);
        let expected =
            Service { namespace: Some("ns".into()), name: "workers".into(), port: Port::Name("peers".into()) };
        assert_eq!(service("ns/workers:peers"), expected);
        assert_eq!(service("workers:8082").port, Port::Number(8_082));
    }
}
