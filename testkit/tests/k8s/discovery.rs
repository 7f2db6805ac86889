//! The rules of discovery and of peers: who follows EndpointSlices may, can, and reaches what it finds.

use crate::lint::{Object, Workload, broken, configuration, policies, port_number, selects, settings};
use crate::render::Rendered;
use k8s_openapi::api::core::v1::{PodSpec, Service};
use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use toml::{Table, Value};

/// Where a pod's account is looked for.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The longest life of a token, in seconds; kubelets renew it long before.
const TOKEN_SECONDS_MAX: i64 = 3_600;
/// The ports of an API server: of its Service, and of what is behind it.
const API_PORTS: [i32; 2] = [443, 6_443];

/// Everything that is wrong with discovery.
pub(crate) fn faults(workloads: &[Workload], objects: &[Object], rendered: &Rendered) -> Vec<String> {
    let mut faults = Vec::new();
    for workload in workloads {
        let (own, configuration) = (settings(workload, rendered), configuration(workload, rendered));
        let peers = configuration.get("peers").and_then(Value::as_table).filter(|_| workload.component != "router");
        let places = [kubernetes(Some(&own)), kubernetes(peers)];
        for place in places.into_iter().flatten() {
            faults.extend(may_follow(workload, objects));
            faults.extend(can_follow(workload, objects));
            faults.extend(leads_somewhere(place, found_by(workload, workloads), objects));
        }
        if workload.component == "router" && own.contains_key("discovery") {
            faults.extend(speaks_as_workers_do(&own, workloads, rendered));
        }
        if own.contains_key("peers") {
            faults.extend(peers_reach_each_other(workload, &own, kubernetes(peers), objects));
        }
    }
    faults
}

/// The Service that a table's discovery follows.
fn kubernetes(table: Option<&Table>) -> Option<&str> {
    table?.get("discovery")?.get("kubernetes")?.as_str()
}

/// The account has a Role for EndpointSlices, which allows what is asked and nothing else.
fn may_follow(workload: &Workload, objects: &[Object]) -> Vec<String> {
    let account = workload.pod.service_account_name.clone().unwrap_or_default();
    let is_bound = |binding: &&RoleBinding| {
        let mut subjects = binding.subjects.iter().flatten();
        subjects.any(|subject| subject.kind == "ServiceAccount" && subject.name == account)
    };
    let bindings = objects.iter().filter_map(|object| match object {
        Object::RoleBinding(binding) => Some(&**binding),
        _ => None,
    });
    let bound: Vec<&str> = bindings.filter(is_bound).map(|binding| binding.role_ref.name.as_str()).collect();
    let roles = objects.iter().filter_map(|object| match object {
        Object::Role(role) => Some(&**role),
        _ => None,
    });
    let is_of = |role: &&Role| role.metadata.name.as_deref().is_some_and(|name| bound.contains(&name));
    let roles: Vec<&Role> = roles.filter(is_of).collect();
    if roles.is_empty() {
        return vec![format!("{}: no Role is bound to its ServiceAccount {account}", workload.title)];
    }
    let rules: Vec<_> = roles.iter().flat_map(|role| role.rules.iter().flatten()).collect();
    let is_minimal = rules.iter().all(|rule| {
        let slices = rule.resources.as_deref() == Some(&["endpointslices".to_owned()]);
        let group = rule.api_groups.as_deref() == Some(&["discovery.k8s.io".to_owned()]);
        group && slices && rule.verbs == ["list", "watch"]
    });
    let fault = format!("{}: its Role must allow `list` and `watch` of endpointslices, and no more", workload.title);
    if is_minimal && !rules.is_empty() { Vec::new() } else { vec![fault] }
}

/// The account's files are mounted, and a policy lets it out to the API server.
fn can_follow(workload: &Workload, objects: &[Object]) -> Vec<String> {
    let is_block = |peer: &NetworkPolicyPeer| peer.ip_block.is_some();
    let reaches = |port: i32| {
        let of = |spec: &&k8s_openapi::api::networking::v1::NetworkPolicySpec| {
            spec.pod_selector.as_ref().is_some_and(|selector| selects(selector, &workload.labels))
        };
        let mut rules = policies(objects).filter(of).flat_map(|spec| spec.egress.iter().flatten());
        rules.any(|rule| rule.to.iter().flatten().any(is_block) && has_port(rule.ports.as_deref(), port))
    };
    let rules = [
        (
            has_account(&workload.pod),
            "the token, the API server's authorities and the namespace are not mounted, or live long",
        ),
        (API_PORTS.into_iter().all(reaches), "no NetworkPolicy lets it out to the API server"),
    ];
    broken(&rules).into_iter().map(|rule| format!("{}: {rule}", workload.title)).collect()
}

fn has_account(pod: &PodSpec) -> bool {
    let mut mounts = pod.containers[0].volume_mounts.iter().flatten();
    let Some(mount) = mounts.find(|mount| mount.mount_path == ACCOUNT) else { return false };
    let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name);
    let sources = volume.and_then(|volume| volume.projected.as_ref()?.sources.clone()).unwrap_or_default();
    let has_token = sources.iter().filter_map(|source| source.service_account_token.as_ref()).any(|token| {
        token.path == "token" && token.expiration_seconds.is_some_and(|seconds| seconds <= TOKEN_SECONDS_MAX)
    });
    let has_authorities = sources
        .iter()
        .filter_map(|source| source.config_map.as_ref())
        .any(|map| map.name == "kube-root-ca.crt" && map.items.iter().flatten().any(|item| item.path == "ca.crt"));
    let mut fields = sources.iter().filter_map(|source| source.downward_api.as_ref()?.items.as_ref()).flatten();
    has_token && has_authorities && fields.any(|item| item.path == "namespace")
}

pub(crate) fn has_port(ports: Option<&[NetworkPolicyPort]>, port: i32) -> bool {
    ports.into_iter().flatten().any(|known| known.port == Some(IntOrString::Int(port)))
}

/// The workload that another looks for: routers and workers look for workers, nodes for nodes.
fn found_by<'a>(seeker: &'a Workload, workloads: &'a [Workload]) -> &'a Workload {
    let is_worker = |workload: &&Workload| workload.component == "worker";
    if seeker.component == "node" { seeker } else { workloads.iter().find(is_worker).unwrap_or(seeker) }
}

/// The Service is there, has the port, and leads to what is looked for.
fn leads_somewhere(place: &str, wanted: &Workload, objects: &[Object]) -> Vec<String> {
    let (name, port) = place.split_once(':').unwrap_or((place, ""));
    let component = &wanted.component;
    match target(name, port, wanted, objects) {
        Some(_) => Vec::new(),
        None => vec![format!("there is no Service {name} with a port `{port}` that leads to a {component}")],
    }
}

/// The number of a workload's port that a Service's port leads to.
fn target(name: &str, port: &str, worker: &Workload, objects: &[Object]) -> Option<i32> {
    let service = objects.iter().find_map(|object| match object {
        Object::Service(service) if service.metadata.name.as_deref() == Some(name) => Some(&**service),
        _ => None,
    })?;
    let Service { spec: Some(spec), .. } = service else { return None };
    let is_of_workers = spec.selector.as_ref()?.iter().all(|(key, value)| worker.labels.get(key) == Some(value));
    let port = spec.ports.iter().flatten().find(|known| known.name.as_deref() == Some(port))?;
    let target = port.target_port.clone().unwrap_or(IntOrString::Int(port.port));
    port_number(&worker.pod.containers[0], &target).filter(|_| is_of_workers)
}

/// The router speaks TLS with what it finds exactly where workers do.
fn speaks_as_workers_do(router: &Table, workloads: &[Workload], rendered: &Rendered) -> Vec<String> {
    let worker = workloads.iter().find(|workload| workload.component == "worker");
    let is_tls = worker.is_some_and(|worker| crate::certificates::speaks_tls(&settings(worker, rendered)));
    let speaks = router.get("discovery_tls") == Some(&Value::Boolean(true));
    broken(&[(is_tls == speaks, "router.discovery_tls does not say what workers speak")])
}

/// Peers find each other at the port where they serve, are let through, and have a right.
fn peers_reach_each_other(worker: &Workload, settings: &Table, place: Option<&str>, objects: &[Object]) -> Vec<String> {
    let listen = settings["peers"].get("listen").and_then(Value::as_str).unwrap_or_default();
    let port = listen.rsplit_once(':').and_then(|(_, port)| port.parse::<i32>().ok()).unwrap_or_default();
    let found = place.and_then(|place| place.split_once(':'));
    let found = found.and_then(|(service, name)| target(service, name, worker, objects));
    let of: Vec<_> = policies(objects)
        .filter(|spec| spec.pod_selector.as_ref().is_some_and(|selector| selects(selector, &worker.labels)))
        .collect();
    let is_worker =
        |peer: &NetworkPolicyPeer| peer.pod_selector.as_ref().is_some_and(|selector| selects(selector, &worker.labels));
    let ingress = of
        .iter()
        .flat_map(|spec| spec.ingress.iter().flatten())
        .any(|rule| rule.from.iter().flatten().any(is_worker) && has_port(rule.ports.as_deref(), port));
    let egress = of
        .iter()
        .flat_map(|spec| spec.egress.iter().flatten())
        .any(|rule| rule.to.iter().flatten().any(is_worker) && has_port(rule.ports.as_deref(), port));
    broken(&[
        (found == Some(port), "peers.discovery does not lead to the port of peers.listen"),
        (ingress && egress, "no NetworkPolicy lets peers through to each other"),
        (may_have(worker, settings, objects), "no identities of peers.rights are those of the own certificate"),
    ])
    .into_iter()
    .map(|rule| format!("{}: {rule}", worker.title))
    .collect()
}

/// A right names the identity that peers show.
fn may_have(worker: &Workload, settings: &Table, objects: &[Object]) -> bool {
    let rules = settings["peers"].get("rights").and_then(|rights| rights.get("allow")).and_then(Value::as_array);
    let named = rules.into_iter().flatten().filter_map(|rule| rule.get("identities")?.as_array()).flatten();
    let mut named = named.filter_map(Value::as_str);
    let is_shown = |identity: &str| {
        let mut certificates = objects.iter().filter_map(|object| match object {
            Object::Certificate(certificate) => Some(certificate),
            _ => None,
        });
        certificates.any(|certificate| certificate.has_uri(&format!("forebay-{}", worker.component), identity))
    };
    named.any(is_shown)
}
