//! Proxies, as the environment names them for other tools: which requests go through which. Pure.
//!
//! `HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY` name them, `NO_PROXY` the hosts that are reached without;
//! lower case goes first. What is on this machine or its link (its metadata service) is never asked for
//! through a proxy, which could not reach it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use url::Url;

use super::error::HttpError;
use super::target::Target;
use crate::remote::Env;

/// The proxies of one environment.
#[derive(Debug, Clone, Default)]
pub(super) struct Proxies {
    http: Option<Named>,
    https: Option<Named>,
    direct: Vec<Direct>,
}

/// A proxy, or the problem with one that is not spoken to. It is told to those alone who would go through it: what is
/// near needs none.
type Named = Result<Arc<Proxy>, String>;

/// One proxy.
#[derive(PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of `Proxy-Authorization`.
    pub(super) authorization: Option<HeaderValue>,
}

/// Hosts that are reached without a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Direct {
    Everything,
    /// A name and all names below it, at one port or any.
    Name(String, Option<u16>),
    /// The addresses that share their first bits with this one.
    Network(IpAddr, u8),
}

impl Proxies {
    /// Reads the environment.
    pub(super) fn from_env(env: &Env) -> Self {
        let named = |name: &str| {
            let lower = name.to_ascii_lowercase();
            env.get(&lower).or_else(|| env.get(name)).map(|value| (name.to_owned(), value.to_owned()))
        };
        let proxy = |name: &str| {
            let found = named(name).or_else(|| named("ALL_PROXY"));
            found.map(|(name, value)| Proxy::parse(&name, &value).map(Arc::new))
        };
        let direct = named("NO_PROXY").map(|(_, value)| value).unwrap_or_default();
        let direct = direct.split([',', ' ']).filter_map(Direct::parse).collect();
        Self { http: proxy("HTTP_PROXY"), https: proxy("HTTPS_PROXY"), direct }
    }

    /// The proxy through which a target is reached.
    ///
    /// # Errors
    /// It is not one that we speak to.
    pub(super) fn of(&self, target: &Target) -> Result<Option<&Arc<Proxy>>, HttpError> {
        let proxy = if target.tls { &self.https } else { &self.http };
        let Some(proxy) = proxy else { return Ok(None) };
        if is_near(&target.host) || self.direct.iter().any(|direct| direct.covers(target)) {
            return Ok(None);
        }
        proxy.as_ref().map(Some).map_err(|problem| HttpError::Config { problem: problem.clone() })
    }
}

impl Proxy {
    fn parse(variable: &str, value: &str) -> Result<Self, String> {
        let problem = |text: &str| format!("{variable} {text}; give http://HOST:PORT, or name the host in NO_PROXY");
        let text = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
        let url = Url::parse(&text).map_err(|_| problem("is no URL"))?;
        if url.scheme() != "http" {
            return Err(problem(&format!("names a proxy that speaks `{}`, which is not supported", url.scheme())));
        }
        let host = url.host_str().ok_or_else(|| problem("names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let authorization = (!url.username().is_empty()).then(|| {
            let pair = format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or_default()));
            HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(pair)))
        });
        let mut authorization = authorization.transpose().map_err(|_| problem("has a password that cannot be sent"))?;
        authorization.iter_mut().for_each(|value| value.set_sensitive(true));
        Ok(Self { host, port: url.port_or_known_default().unwrap_or(80), authorization })
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

impl Direct {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return Some(Self::Everything);
        }
        let bare = entry.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Self::Network(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        if let Some((address, bits)) = entry.split_once('/') {
            return Some(Self::Network(address.parse().ok()?, bits.parse().ok()?));
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) => (name.to_owned(), Some(port.parse().ok()?)),
            None => (entry, None),
        };
        let name = name.trim_start_matches('*').trim_start_matches('.').to_owned();
        (!name.is_empty()).then_some(Self::Name(name, port))
    }

    fn covers(&self, target: &Target) -> bool {
        match self {
            Self::Everything => true,
            Self::Network(network, bits) => {
                target.host.parse().is_ok_and(|address: IpAddr| is_within(address, *network, *bits))
            }
            Self::Name(name, port) => {
                let below = target.host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                below && port.is_none_or(|port| port == target.port)
            }
        }
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let bits_of = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let ((address, width), (network, network_width)) = (bits_of(address), bits_of(network));
    let bits = u32::from(bits).min(width);
    width == network_width && (bits == 0 || address >> (128 - bits) == network >> (128 - bits))
}

/// Returns true if a host is this machine or on its link, where no proxy can reach for us.
fn is_near(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        // The second is where EC2 answers over IPv6.
        Ok(IpAddr::V6(address)) => address.is_loopback() || address.to_string() == "fd00:ec2::254",
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// A user's name or password without its percent-encoding.
fn decoded(text: &str) -> String {
    let pair = format!("x={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    fn proxies(pairs: &[(&str, &str)]) -> Proxies {
        Proxies::from_env(&Env::from_pairs(pairs.iter().copied()))
    }

    fn through(proxies: &Proxies, url: &str) -> Option<String> {
        let target = Target::of(&url.parse().unwrap()).unwrap();
        proxies.of(&target).unwrap().map(|proxy| format!("{proxy:?}"))
    }

    #[test]
    fn each_scheme_has_its_proxy_and_lower_case_goes_first() {
        let all = [("HTTP_PROXY", "plain:1"), ("https_proxy", "http://low:2"), ("HTTPS_PROXY", "http://up:3")];
        let proxies = proxies(&all);
        assert_eq!(through(&proxies, "http://a.example/").as_deref(), Some("plain:1"));
        assert_eq!(through(&proxies, "https://a.example/").as_deref(), Some("low:2"));
        let all = self::proxies(&[("ALL_PROXY", "http://all")]);
        assert_eq!(through(&all, "https://a.example/").as_deref(), Some("all:80"));
        assert_eq!(through(&Proxies::default(), "https://a.example/"), None);
    }

    #[test]
    fn what_no_proxy_names_is_reached_without() {
        let direct = "internal.example, .corp.example,*.wild.example 10.0.0.0/8,[2001:db8::1],host:8080,192.0.2.7";
        let proxies = proxies(&[("HTTP_PROXY", "p:1"), ("HTTPS_PROXY", "p:1"), ("NO_PROXY", direct)]);
        for url in [
            "https://internal.example/",
            "https://a.internal.example/",
            "https://corp.example/",
            "https://a.b.corp.example/",
            "https://x.wild.example/",
            "http://10.1.2.3/",
            "http://[2001:db8::1]/",
            "http://host:8080/",
            "http://192.0.2.7:99/",
        ] {
            assert_eq!(through(&proxies, url), None, "{url}");
        }
        for url in ["https://notinternal.example/", "http://11.0.0.1/", "http://[2001:db8::2]/", "http://host:81/"] {
            assert!(through(&proxies, url).is_some(), "{url}");
        }
        let none = self::proxies(&[("HTTP_PROXY", "p:1"), ("no_proxy", "*")]);
        assert_eq!(through(&none, "http://a.example/"), None);
    }

    #[test]
    fn this_machine_and_its_metadata_are_never_behind_a_proxy() {
        let proxies = proxies(&[("HTTP_PROXY", "p:1"), ("HTTPS_PROXY", "p:1")]);
        for host in ["localhost", "a.localhost", "127.0.0.1", "[::1]", "169.254.169.254", "[fd00:ec2::254]"] {
            assert_eq!(through(&proxies, &format!("http://{host}:80/")), None, "{host}");
        }
    }

    #[test]
    fn a_password_is_sent_and_never_shown_and_other_kinds_of_proxy_are_refused() {
        let proxies = proxies(&[("HTTP_PROXY", "http://me:p%40ss+@proxy.example:3128")]);
        let proxy = proxies.http.as_ref().unwrap().as_ref().unwrap();
        assert_eq!(proxy.authorization.as_ref().unwrap(), &format!("Basic {}", BASE64_STANDARD.encode("me:p@ss+")));
        assert!(!format!("{proxies:?}").contains("p@ss"));
        for wrong in ["socks5://secret@h:1", "https://secret@h", "http://", "http://:x"] {
            let proxies = self::proxies(&[("HTTPS_PROXY", wrong), ("NO_PROXY", "near.example")]);
            let target = |url: &str| Target::of(&url.parse().unwrap()).unwrap();
            let error = proxies.of(&target("https://a.example/")).unwrap_err().to_string();
            for near in ["https://127.0.0.1/", "https://near.example/", "http://a.example/"] {
                assert_eq!(proxies.of(&target(near)).unwrap(), None, "{near}");
            }
            assert!(error.contains("HTTPS_PROXY") && !error.contains("secret"), "{wrong}: {error}");
            let scheme = wrong.split("://").next().unwrap();
            assert!(
                scheme == "http" || error.contains(&format!("speaks `{scheme}`, which is not supported")),
                "{error}"
            );
        }
    }
}
