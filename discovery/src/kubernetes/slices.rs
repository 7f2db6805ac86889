//! EndpointSlices, as far as they matter here, become members. No clock, no I/O.

#![warn(clippy::disallowed_methods)]

use crate::address::is_reachable;
use crate::config::Port;
use crate::member::{Member, is_host_name};
use crate::roster::Found;
use serde::{Deserialize, Deserializer};
use std::net::{IpAddr, SocketAddr};
use wire::peers::is_name;

/// An `EndpointSlice` of `discovery.k8s.io/v1`.
#[derive(Debug, Deserialize)]
pub(crate) struct EndpointSlice {
    pub(crate) metadata: Metadata,
    #[serde(default, deserialize_with = "null_is_empty")]
    endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "null_is_empty")]
    ports: Vec<EndpointPort>,
}

/// The metadata of an object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) resource_version: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(default, deserialize_with = "null_is_empty")]
    addresses: Vec<String>,
    conditions: Option<Conditions>,
    hostname: Option<String>,
    zone: Option<String>,
    hints: Option<Hints>,
    target_ref: Option<Target>,
}

#[derive(Debug, Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default, deserialize_with = "null_is_empty")]
    for_zones: Vec<ForZone>,
}

#[derive(Debug, Deserialize)]
struct ForZone {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct EndpointPort {
    name: Option<String>,
    port: Option<u16>,
}

/// The API server writes an empty list as `null`.
fn null_is_empty<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The part of a Service that members are named by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) namespace: String,
    pub(crate) service: String,
    pub(crate) port: Port,
}

/// The endpoints of one slice, and how many cannot be members.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Slice {
    pub(crate) endpoints: Vec<Listed>,
    pub(crate) refused: usize,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) found: Found,
    life: Life,
}

/// The life of an endpoint; a larger one is worth more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Life {
    /// It ends, and serves no more.
    Gone,
    /// It ends, and serves still.
    Leaving,
    /// It does not serve yet, or not just now.
    Unready,
    /// It serves.
    Serving,
}

/// The endpoints of a slice that has the port.
pub(crate) fn read(slice: EndpointSlice, named: &Named) -> Slice {
    let Some(port) = port(&slice, &named.port) else {
        return Slice { endpoints: Vec::new(), refused: slice.endpoints.len() };
    };
    let count = slice.endpoints.len();
    let endpoints = slice.endpoints.into_iter().filter_map(|endpoint| listed(endpoint, port, named));
    let endpoints: Vec<Listed> = endpoints.collect();
    Slice { refused: count - endpoints.len(), endpoints }
}

fn port(slice: &EndpointSlice, wanted: &Port) -> Option<u16> {
    match wanted {
        Port::Number(number) => Some(*number),
        Port::Name(name) => {
            let named = slice.ports.iter().find(|port| port.name.as_ref() == Some(name));
            named?.port.filter(|number| *number != 0)
        }
    }
}

fn listed(endpoint: Endpoint, port: u16, named: &Named) -> Option<Listed> {
    // The API promises that the addresses of one endpoint are interchangeable, and that clients may use the first.
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    if !is_reachable(address) {
        return None;
    }
    let address = SocketAddr::new(address, port).to_string();
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let pod = pod.and_then(|pod| pod.name.as_ref());
    let id = pod.map(|pod| format!("{}/{pod}", named.namespace)).filter(|id| is_name(id));
    let member = Member {
        id: id.unwrap_or_else(|| address.clone()),
        name: certificate_name(endpoint.hostname.as_deref(), named),
        zone: endpoint.zone.filter(|zone| is_name(zone)),
        address,
        is_near: false,
    };
    let hints = endpoint.hints.map(|hints| hints.for_zones).unwrap_or_default();
    let for_zones = hints.into_iter().map(|hint| hint.name).filter(|zone| is_name(zone)).take(ZONES_MAX).collect();
    let conditions = endpoint.conditions.unwrap_or_default();
    // As the API says: absent `ready` means yes, absent `serving` as `ready`, absent `terminating` no.
    let is_serving = conditions.serving.or(conditions.ready).unwrap_or(true);
    let life = match (conditions.terminating.unwrap_or(false), is_serving) {
        (false, true) => Life::Serving,
        (false, false) => Life::Unready,
        (true, true) => Life::Leaving,
        (true, false) => Life::Gone,
    };
    Some(Listed { found: Found { member, for_zones }, life })
}

/// The most zones of one hint; the API allows 8.
const ZONES_MAX: usize = 8;

/// The name in a pod's certificate: its own below the Service, or else the Service's.
fn certificate_name(hostname: Option<&str>, named: &Named) -> String {
    let service = format!("{}.{}.svc", named.service, named.namespace);
    let own = hostname.map(|hostname| format!("{hostname}.{service}")).filter(|name| is_host_name(name));
    own.unwrap_or(service)
}

/// The members among the endpoints of all slices. Of two that claim one identity (a pod has an endpoint in the slices of
/// either address family, and during moves in two slices) the livelier counts, then the one of IPv4. Those that are
/// ending are members only where nothing else serves, as kube-proxy has it.
pub(crate) fn members<'a>(endpoints: impl Iterator<Item = &'a Listed>) -> Vec<Found> {
    let mut sorted: Vec<&Listed> = endpoints.collect();
    sorted.sort_by_key(|listed| {
        let member = &listed.found.member;
        (&member.id, std::cmp::Reverse(listed.life), member.address.starts_with('['), &member.address)
    });
    sorted.dedup_by(|other, first| other.found.member.id == first.found.member.id);
    let least = match sorted.iter().any(|listed| listed.life == Life::Serving) {
        true => Life::Unready,
        false => Life::Leaving,
    };
    sorted.into_iter().filter(|listed| listed.life >= least).map(|listed| listed.found.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn named(port: Port) -> Named {
        Named { namespace: "forebay".into(), service: "workers".into(), port }
    }

    fn slice(endpoints: Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8081}, {"name": "peers", "port": 8082}]}))
        .expect("an EndpointSlice")
    }

    fn pod(name: &str, address: &str, conditions: Value) -> Value {
        json!({"addresses": [address], "conditions": conditions, "hostname": name, "zone": "a",
            "targetRef": {"kind": "Pod", "name": name}})
    }

    fn found(endpoints: Value) -> Vec<Found> {
        members(read(slice(endpoints), &named(Port::Name("peers".into()))).endpoints.iter())
    }

    fn addresses(endpoints: Value) -> Vec<String> {
        found(endpoints).into_iter().map(|found| found.member.address).collect()
    }

    #[test]
    fn an_endpoint_is_a_member_by_its_pod_its_zone_and_its_hints() {
        let mut endpoint = pod("w-0", "10.0.0.1", json!({"ready": true}));
        endpoint["hints"] = json!({"forZones": [{"name": "b"}]});
        let expected = Member {
            id: "forebay/w-0".into(),
            address: "10.0.0.1:8082".into(),
            zone: Some("a".into()),
            name: "w-0.workers.forebay.svc".into(),
            is_near: false,
        };
        assert_eq!(found(json!([endpoint])), [Found { member: expected, for_zones: vec!["b".into()] }]);
        let plain = &found(json!([{"addresses": ["fd00::1"]}]))[0].member;
        assert_eq!((plain.id.as_str(), plain.name.as_str()), ("[fd00::1]:8082", "workers.forebay.svc"));
    }

    #[test]
    fn those_that_end_are_members_only_where_nothing_else_serves() {
        let (serving, unready) = (json!({"ready": true}), json!({"ready": false, "serving": false}));
        let leaving = json!({"ready": false, "serving": true, "terminating": true});
        let gone = json!({"ready": false, "serving": false, "terminating": true});
        let all = json!([
            pod("a", "10.0.0.1", serving),
            pod("b", "10.0.0.2", unready.clone()),
            pod("c", "10.0.0.3", leaving.clone()),
            pod("d", "10.0.0.4", gone.clone())
        ]);
        assert_eq!(addresses(all), ["10.0.0.1:8082", "10.0.0.2:8082"]);
        let rest = json!([pod("b", "10.0.0.2", unready), pod("c", "10.0.0.3", leaving), pod("d", "10.0.0.4", gone)]);
        assert_eq!(addresses(rest), ["10.0.0.2:8082", "10.0.0.3:8082"]);
        assert_eq!(addresses(json!([pod("a", "10.0.0.1", json!({}))])), ["10.0.0.1:8082"], "nothing said means ready");
    }

    #[test]
    fn of_two_endpoints_of_one_pod_the_livelier_counts_and_then_ipv4() {
        let ready = || json!({"ready": true});
        let families = json!([pod("a", "fd00::1", ready()), pod("a", "10.0.0.1", ready())]);
        assert_eq!(addresses(families), ["10.0.0.1:8082"]);
        let old = json!({"ready": false, "serving": false, "terminating": true});
        let replaced = json!([pod("a", "10.0.0.1", old), pod("a", "10.0.0.2", ready())]);
        assert_eq!(addresses(replaced), ["10.0.0.2:8082"]);
    }

    #[test]
    fn what_cannot_be_a_member_is_counted() {
        let endpoints = json!([{"addresses": []}, {"addresses": ["worker.example"]}, {"addresses": ["0.0.0.0"]},
            {"addresses": ["169.254.169.254"]}, {"addresses": ["224.0.0.1"]}, {"addresses": ["10.0.0.1"]}]);
        let read_as = |port| read(slice(endpoints.clone()), &named(port));
        let slice = read_as(Port::Name("peers".into()));
        assert_eq!((slice.endpoints.len(), slice.refused), (1, 5));
        assert_eq!(read_as(Port::Name("other".into())).refused, 6, "a slice without the port");
        assert_eq!(read_as(Port::Number(9)).endpoints[0].found.member.address, "10.0.0.1:9");
    }
}
