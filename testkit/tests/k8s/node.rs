//! The rules of nodes: engines reach the one of their own machine, it reaches the hub, and its cache fits its volume.

use crate::discovery::has_port;
use crate::lint::{Object, Workload, broken, configuration, policies, selects};
use crate::render::Rendered;
use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::networking::v1::NetworkPolicyEgressRule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use toml::Value;

/// Every address of the Internet, in a policy's words.
const ANYWHERE: &str = "0.0.0.0/0";

/// Everything that is wrong with nodes.
pub(crate) fn faults(workloads: &[Workload], objects: &[Object], rendered: &Rendered) -> Vec<String> {
    let nodes = workloads.iter().filter(|workload| workload.component == "node");
    nodes.flat_map(|node| [reached(node, objects), reaches(node, objects), cache(node, rendered)].concat()).collect()
}

/// The Service for engines never leads to another machine.
fn reached(node: &Workload, objects: &[Object]) -> Vec<String> {
    let is_for_engines = |spec: &&ServiceSpec| {
        let selector = LabelSelector { match_labels: spec.selector.clone(), ..LabelSelector::default() };
        let has_hub = spec.ports.iter().flatten().any(|port| port.name.as_deref() == Some("hub"));
        has_hub && selects(&selector, &node.labels)
    };
    let services = objects.iter().filter_map(|object| match object {
        Object::Service(service) => service.spec.as_ref(),
        _ => None,
    });
    let services: Vec<&ServiceSpec> = services.filter(is_for_engines).collect();
    let is_local = services.iter().all(|spec| spec.internal_traffic_policy.as_deref() == Some("Local"));
    let rule = "a Service for engines is missing, or may lead to another machine: set internalTrafficPolicy: Local";
    titled(node, &[(is_local && !services.is_empty(), rule)])
}

/// A policy lets it out to DNS, and to the hub wherever that is.
fn reaches(node: &Workload, objects: &[Object]) -> Vec<String> {
    let of = policies(objects)
        .filter(|spec| spec.pod_selector.as_ref().is_some_and(|selector| selects(selector, &node.labels)));
    let rules: Vec<&NetworkPolicyEgressRule> = of.flat_map(|spec| spec.egress.iter().flatten()).collect();
    let has_block = |rule: &NetworkPolicyEgressRule, cidr: &str| {
        rule.to.iter().flatten().filter_map(|peer| peer.ip_block.as_ref()).any(|block| block.cidr == cidr)
    };
    let asks_dns = |rule: &&NetworkPolicyEgressRule| {
        let ports = rule.ports.iter().flatten().filter(|port| has_port(Some(std::slice::from_ref(port)), 53)).count();
        ports == 2 && rule.to.iter().flatten().any(|peer| peer.namespace_selector.is_some())
    };
    let asks_hub = |rule: &&NetworkPolicyEgressRule| has_block(rule, ANYWHERE) && has_port(rule.ports.as_deref(), 443);
    titled(
        node,
        &[
            (rules.iter().any(asks_dns), "no NetworkPolicy lets it ask DNS"),
            (rules.iter().any(asks_hub), "no NetworkPolicy lets it out to the hub"),
        ],
    )
}

/// The cache lies in a volume, and its quota is below the size at which a kubelet evicts the pod.
fn cache(node: &Workload, rendered: &Rendered) -> Vec<String> {
    let configuration = configuration(node, rendered);
    let cache = configuration.get("loader").and_then(|loader| loader.get("cache"));
    let root = cache.and_then(|cache| cache.get("root")?.as_str()).unwrap_or_default();
    let quota = cache.and_then(|cache| cache.get("quota_bytes").and_then(Value::as_integer)).unwrap_or(i64::MAX);
    let mut mounts = node.pod.containers[0].volume_mounts.iter().flatten();
    let mount = mounts.find(|mount| mount.mount_path == root && mount.read_only != Some(true));
    let volume = mount.and_then(|mount| node.pod.volumes.iter().flatten().find(|volume| volume.name == mount.name));
    let limit = volume.and_then(|volume| volume.empty_dir.as_ref()?.size_limit.clone());
    let limit = limit.and_then(|limit| limit.0.strip_suffix("Gi")?.parse::<i64>().ok()).unwrap_or(0) << 30;
    titled(
        node,
        &[
            (mount.is_some(), "no volume is mounted at loader.cache.root"),
            (quota < limit, "loader.cache.quota_bytes is not below the volume's sizeLimit"),
        ],
    )
}

fn titled(node: &Workload, rules: &[(bool, &str)]) -> Vec<String> {
    broken(rules).into_iter().map(|rule| format!("{}: {rule}", node.title)).collect()
}
