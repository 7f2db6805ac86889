//! DNS: addresses of a host, or SRV records, asked again and again.
//!
//! Names are resolved as the system's resolver is configured, search domains and hosts file included. Every answer is a
//! sample: servers may give a part of the records. A host with addresses of both kinds is asked for IPv4 alone, since
//! nothing tells which two belong to one member.

use crate::address::is_reachable;
use crate::config::{DiscoveryConfig, DnsName};
use crate::member::Member;
use crate::roster::Found;
use crate::source::{Answer, Ask};
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as DnsFault, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use thiserror::Error;

/// Errors of asking DNS.
#[derive(Debug, Error)]
pub(crate) enum DnsError {
    #[error("asking DNS for {name}")]
    Lookup {
        name: String,
        #[source]
        source: NetError,
    },
    #[error("asking DNS for {name}: no answer within {timeout:?}")]
    TimedOut { name: String, timeout: Duration },
}

/// A name that is asked for.
#[derive(Debug)]
pub(crate) struct Dns {
    name: DnsName,
    servers: Vec<SocketAddr>,
    timeout: Duration,
}

impl Dns {
    pub(crate) fn new(name: DnsName, config: &DiscoveryConfig) -> Self {
        Self { name, servers: config.dns_servers.clone(), timeout: config.timeout() }
    }

    /// A resolver without a cache, made for each question: so it follows changes of the system's settings, and holds no
    /// sockets in between.
    fn resolver(&self, kind: LookupIpStrategy) -> Result<TokioResolver, NetError> {
        let builder = if self.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = self.servers.iter().copied().map(server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let mut builder = builder;
        let options = builder.options_mut();
        options.cache_size = 0;
        options.ip_strategy = kind;
        // Two tries fit into the time that one question has.
        options.timeout = options.timeout.min(self.timeout / 2);
        options.attempts = options.attempts.min(2);
        options.edns0 = true;
        builder.build()
    }

    async fn look_up(&self) -> Result<Answer, NetError> {
        match &self.name {
            DnsName::Host { host, port } => self.addresses(host).await.map(|found| hosts(found, host, *port)),
            DnsName::Service(name) => {
                let resolver = self.resolver(LookupIpStrategy::Ipv4Only)?;
                let records = none_is_empty(resolver.srv_lookup(name.as_str()).await)?;
                let records = records.iter().flat_map(|records| records.answers());
                Ok(services(records.map(|record| &record.data)))
            }
        }
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        for kind in [LookupIpStrategy::Ipv4Only, LookupIpStrategy::Ipv6Only] {
            if let Some(addresses) = none_is_empty(self.resolver(kind)?.lookup_ip(host).await)? {
                return Ok(addresses.iter().collect());
            }
        }
        Ok(Vec::new())
    }
}

impl Ask for Dns {
    type Error = DnsError;

    async fn ask(&mut self) -> Result<Answer, DnsError> {
        let name = match &self.name {
            DnsName::Host { host, .. } => host.clone(),
            DnsName::Service(name) => name.clone(),
        };
        match tokio::time::timeout(self.timeout, self.look_up()).await {
            Ok(answer) => answer.map_err(|source| DnsError::Lookup { name, source }),
            Err(_) => Err(DnsError::TimedOut { name, timeout: self.timeout }),
        }
    }
}

/// A name without records is an answer: a Service without pods has none.
fn none_is_empty<T>(looked_up: Result<T, NetError>) -> Result<Option<T>, NetError> {
    match looked_up {
        Err(NetError::Dns(DnsFault::NoRecordsFound(NoRecords {
            response_code: ResponseCode::NoError | ResponseCode::NXDomain,
            ..
        }))) => Ok(None),
        other => other.map(Some),
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

/// A host's addresses, each as a member under the host's name.
fn hosts(addresses: Vec<IpAddr>, host: &str, port: u16) -> Answer {
    let mut answer = Answer::default();
    for address in addresses {
        if !is_reachable(address) {
            answer.refused += 1;
            continue;
        }
        let address = SocketAddr::new(address, port).to_string();
        let (id, name) = (address.clone(), host.trim_end_matches('.').to_owned());
        let member = Member { id, address, zone: None, name, is_near: false };
        answer.found.push(Found { member, for_zones: Vec::new() });
    }
    answer
}

/// Targets of SRV records. Whoever connects looks up their addresses.
fn services<'a>(records: impl Iterator<Item = &'a RData>) -> Answer {
    let mut answer = Answer::default();
    for record in records {
        let RData::SRV(record) = record else { continue };
        let target = record.target.to_ascii();
        match Member::at(&format!("{}:{}", target.trim_end_matches('.'), record.port)) {
            Ok(member) => answer.found.push(Found { member, for_zones: Vec::new() }),
            Err(_) => answer.refused += 1,
        }
    }
    answer
}
