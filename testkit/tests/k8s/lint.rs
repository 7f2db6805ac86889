//! The rules. Each returns what is wrong, in words that say the fix; all of them work on rendered
//! documents, so that an overlay cannot undo what the base promises.

use crate::certificates::{self, Certificate, Issuer};
use crate::discovery;
use crate::node;
use crate::render::Rendered;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Container, Namespace, PodSpec, PodTemplateSpec, Probe, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPort};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

/// Seconds between the end of a drain and SIGKILL: flushing logs, closing, a slow node.
const GRACE_SPARE_S: i64 = 5;

/// Where NodeLocal DNSCache listens on every node, unless its operator says otherwise.
const NODE_LOCAL_DNS: &str = "169.254.20.10/32";

pub(crate) type Labels = BTreeMap<String, String>;

/// One document, as the API server's type.
#[derive(Debug)]
pub(crate) enum Object {
    Namespace(Box<Namespace>),
    ServiceAccount(Box<ServiceAccount>),
    Service(Box<Service>),
    Deployment(Box<Deployment>),
    StatefulSet(Box<StatefulSet>),
    DaemonSet(Box<DaemonSet>),
    Budget(Box<PodDisruptionBudget>),
    Autoscaler(Box<HorizontalPodAutoscaler>),
    NetworkPolicy(Box<NetworkPolicy>),
    Role(Box<Role>),
    RoleBinding(Box<RoleBinding>),
    Issuer(Box<Issuer>),
    Certificate(Box<Certificate>),
}

/// Pods under one controller.
pub(crate) struct Workload {
    pub(crate) title: String,
    name: String,
    /// `router`, `worker` or `node`: the table of forebay.toml that it reads.
    pub(crate) component: String,
    replicas: i32,
    selector: LabelSelector,
    pub(crate) service: Option<String>,
    pub(crate) labels: Labels,
    pub(crate) pod: PodSpec,
}

/// Parses a document; an unknown field is an error, and so is a kind that nobody expects.
pub(crate) fn parse(document: &Value) -> Result<Object, String> {
    match (document["apiVersion"].as_str(), document["kind"].as_str()) {
        (Some("v1"), Some("Namespace")) => strict(document).map(Object::Namespace),
        (Some("v1"), Some("ServiceAccount")) => strict(document).map(Object::ServiceAccount),
        (Some("v1"), Some("Service")) => strict(document).map(Object::Service),
        (Some("apps/v1"), Some("Deployment")) => strict(document).map(Object::Deployment),
        (Some("apps/v1"), Some("StatefulSet")) => strict(document).map(Object::StatefulSet),
        (Some("apps/v1"), Some("DaemonSet")) => strict(document).map(Object::DaemonSet),
        (Some("policy/v1"), Some("PodDisruptionBudget")) => strict(document).map(Object::Budget),
        (Some("autoscaling/v2"), Some("HorizontalPodAutoscaler")) => strict(document).map(Object::Autoscaler),
        (Some("networking.k8s.io/v1"), Some("NetworkPolicy")) => strict(document).map(Object::NetworkPolicy),
        (Some("rbac.authorization.k8s.io/v1"), Some("Role")) => strict(document).map(Object::Role),
        (Some("rbac.authorization.k8s.io/v1"), Some("RoleBinding")) => strict(document).map(Object::RoleBinding),
        (Some(certificates::VERSION), Some("Issuer")) => strict(document).map(Object::Issuer),
        (Some(certificates::VERSION), Some("Certificate")) => strict(document).map(Object::Certificate),
        (version, kind) => Err(format!("{version:?} {kind:?} is not expected here; teach the test about it")),
    }
}

/// `Deployment forebay-router`.
pub(crate) fn title(document: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{} {}", word(&document["kind"]), word(&document["metadata"]["name"]))
}

fn strict<T: DeserializeOwned>(document: &Value) -> Result<Box<T>, String> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(document, &mut track);
    let parsed = serde_ignored::deserialize(tracked, |path| unknown.push(path.to_string()));
    let parsed = parsed.map_err(|error| format!("{}: {error}", track.path()))?;
    if unknown.is_empty() { Ok(Box::new(parsed)) } else { Err(format!("unknown fields: {}", unknown.join(", "))) }
}

/// Everything that is wrong.
pub(crate) fn faults(rendered: &Rendered) -> Vec<String> {
    let mut objects = Vec::new();
    let mut faults = Vec::new();
    for document in &rendered.documents {
        match parse(document) {
            Ok(object) => objects.push(object),
            Err(problem) => faults.push(format!("{}: {problem}", title(document))),
        }
    }
    let mut workloads: Vec<Workload> = objects.iter().filter_map(workload).collect();
    scale(&mut workloads, &objects);
    if workloads.len() < 2 {
        faults.push("there are a router and a worker".into());
    }
    for workload in &workloads {
        faults.extend(selectors(workload));
        faults.extend(grace(workload, rendered));
        faults.extend(restricted_pod(workload));
        faults.extend(configured(workload, rendered));
        for container in &workload.pod.containers {
            let of_container = [probes(container), resources(container), restricted(container), image(container)];
            faults.extend(of_container.concat().into_iter().map(|fault| format!("{}: {fault}", workload.title)));
        }
        faults.extend(reachable(workload, &objects));
    }
    faults.extend(objects.iter().flat_map(|object| references(object, &workloads, &objects)));
    faults.extend(worker_list(&workloads, rendered));
    faults.extend(shared_key(&workloads));
    faults.extend(router_reaches_workers(&workloads, &objects));
    faults.extend(certificates::faults(&workloads, &objects, rendered));
    faults.extend(discovery::faults(&workloads, &objects, rendered));
    faults.extend(node::faults(&workloads, &objects, rendered));
    faults
}

fn workload(object: &Object) -> Option<Workload> {
    let of =
        |kind, name: &Option<String>, replicas: Option<i32>, selector: &LabelSelector, template: &PodTemplateSpec| {
            let labels = template.metadata.clone().and_then(|metadata| metadata.labels).unwrap_or_default();
            let name = name.clone().unwrap_or_default();
            Workload {
                title: format!("{kind} {name}"),
                component: name.rsplit('-').next().unwrap_or_default().to_owned(),
                name,
                replicas: replicas.unwrap_or(1),
                selector: selector.clone(),
                service: None,
                labels,
                pod: template.spec.clone().unwrap_or_default(),
            }
        };
    match object {
        Object::Deployment(deployment) => {
            let spec = deployment.spec.as_ref()?;
            Some(of("Deployment", &deployment.metadata.name, spec.replicas, &spec.selector, &spec.template))
        }
        Object::StatefulSet(set) => {
            let spec = set.spec.as_ref()?;
            let workload = of("StatefulSet", &set.metadata.name, spec.replicas, &spec.selector, &spec.template);
            Some(Workload { service: spec.service_name.clone(), ..workload })
        }
        Object::DaemonSet(set) => {
            let spec = set.spec.as_ref()?;
            Some(of("DaemonSet", &set.metadata.name, None, &spec.selector, &spec.template))
        }
        _ => None,
    }
}

/// An autoscaler has the last word on how many there are at least.
fn scale(workloads: &mut [Workload], objects: &[Object]) {
    for object in objects {
        let Object::Autoscaler(autoscaler) = object else { continue };
        let Some(spec) = &autoscaler.spec else { continue };
        let target = format!("{} {}", spec.scale_target_ref.kind, spec.scale_target_ref.name);
        workloads.iter_mut().filter(|workload| workload.title == target).for_each(|workload| {
            workload.replicas = spec.min_replicas.unwrap_or(1);
        });
    }
}

pub(crate) fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    assert!(selector.match_expressions.is_none(), "the rules read matchLabels only; teach them about expressions");
    selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
}

fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
}

fn selectors(workload: &Workload) -> Vec<String> {
    let mut faults = Vec::new();
    if is_empty(&workload.selector) || !selects(&workload.selector, &workload.labels) {
        faults.push(format!("{}: its selector does not match its pods' labels", workload.title));
    }
    // There is one of a DaemonSet's on each machine anyway.
    if workload.component == "node" {
        return faults;
    }
    let spread = workload.pod.topology_spread_constraints.iter().flatten();
    let spread: Vec<_> = spread.filter_map(|constraint| constraint.label_selector.as_ref()).collect();
    if spread.is_empty() || spread.iter().any(|selector| is_empty(selector) || !selects(selector, &workload.labels)) {
        faults.push(format!("{}: its topology spread does not select its own pods", workload.title));
    }
    faults
}

/// The table of forebay.toml that a workload reads.
pub(crate) fn settings(workload: &Workload, rendered: &Rendered) -> toml::Table {
    configuration(workload, rendered)[&workload.component].as_table().expect("a table for each component").clone()
}

/// The whole of a workload's forebay.toml.
pub(crate) fn configuration(workload: &Workload, rendered: &Rendered) -> toml::Table {
    let maps = workload.pod.volumes.iter().flatten().filter_map(|volume| volume.config_map.as_ref());
    let mut files = maps.filter_map(|map| rendered.config_maps.get(&map.name)?.get("forebay.toml"));
    files.next().expect("a generated configuration is mounted").parse().expect("forebay.toml is TOML")
}

fn listen_ms(settings: &toml::Table, key: &str) -> i64 {
    settings["listen"][key].as_integer().unwrap_or_else(|| panic!("forebay.toml sets listen.{key} in the open"))
}

fn grace(workload: &Workload, rendered: &Rendered) -> Vec<String> {
    let settings = settings(workload, rendered);
    let drain_ms = listen_ms(&settings, "drain_notice_ms") + listen_ms(&settings, "drain_timeout_ms");
    let sleeps = workload.pod.containers.iter().filter_map(|container| container.lifecycle.as_ref()?.pre_stop.as_ref());
    let sleep_s: i64 = sleeps.filter_map(|hook| hook.sleep.as_ref()).map(|sleep| sleep.seconds).sum();
    let needed_s = sleep_s + (drain_ms + 999) / 1000 + GRACE_SPARE_S;
    let given_s = workload.pod.termination_grace_period_seconds.unwrap_or(30);
    if given_s >= needed_s {
        return Vec::new();
    }
    vec![format!(
        "{}: a grace period of {given_s} s cuts streams; notice, drain and margin need {needed_s} s",
        workload.title
    )]
}

fn restricted_pod(workload: &Workload) -> Vec<String> {
    let pod = &workload.pod;
    let context = pod.security_context.clone().unwrap_or_default();
    let seccomp = context.seccomp_profile.map(|profile| profile.type_);
    let unsized_volume = pod.volumes.iter().flatten().any(|volume| {
        volume.host_path.is_some() || volume.empty_dir.as_ref().is_some_and(|folder| folder.size_limit.is_none())
    });
    let rules = [
        (context.run_as_non_root == Some(true), "its pods may run as root: set runAsNonRoot"),
        (context.run_as_user.is_some_and(|user| user > 0), "a numeric runAsUser is needed to prove it is not root"),
        (seccomp.as_deref() == Some("RuntimeDefault"), "its seccomp profile is not RuntimeDefault"),
        (pod.automount_service_account_token == Some(false), "its pods get a token for the API that they do not use"),
        (
            pod.enable_service_links == Some(false),
            "set enableServiceLinks: false, or Services become FOREBAY_… variables",
        ),
        (!unsized_volume, "an emptyDir without sizeLimit, or a hostPath, can fill the node"),
        (pod.host_network != Some(true) && pod.host_pid != Some(true), "it shares the host's namespaces"),
        (
            pod.containers
                .iter()
                .flat_map(|container| container.ports.iter().flatten())
                .all(|port| port.host_port.is_none()),
            "it takes a host's port, which `restricted` does not allow",
        ),
        (pod.init_containers.is_none(), "init containers are not checked; teach the rules about them"),
    ];
    broken(&rules).into_iter().map(|rule| format!("{}: {rule}", workload.title)).collect()
}

fn restricted(container: &Container) -> Vec<String> {
    let context = container.security_context.clone().unwrap_or_default();
    let capabilities = context.capabilities.unwrap_or_default();
    broken(&[
        (context.allow_privilege_escalation == Some(false), "privilege escalation is not switched off"),
        (context.read_only_root_filesystem == Some(true), "its root filesystem is not read-only"),
        (context.privileged != Some(true), "it is privileged"),
        (capabilities.drop.is_some_and(|drop| drop.contains(&"ALL".to_owned())), "it does not drop ALL capabilities"),
        (capabilities.add.is_none(), "it adds capabilities"),
    ])
}

pub(crate) fn broken(rules: &[(bool, &str)]) -> Vec<String> {
    rules.iter().filter(|(holds, _)| !holds).map(|(_, rule)| (*rule).to_owned()).collect()
}

fn image(container: &Container) -> Vec<String> {
    let image = container.image.as_deref().unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default();
    match name.split_once([':', '@']) {
        None => vec![format!("the image {image} has no tag")],
        Some((_, "latest")) => vec![format!("the image {image} is whatever is latest; name a release")],
        Some(_) => Vec::new(),
    }
}

fn resources(container: &Container) -> Vec<String> {
    let resources = container.resources.clone().unwrap_or_default();
    let has = |map: &Option<BTreeMap<_, _>>, key: &str| map.as_ref().is_some_and(|map| map.contains_key(key));
    broken(&[
        (has(&resources.requests, "cpu"), "it requests no cpu"),
        (has(&resources.requests, "memory"), "it requests no memory"),
        (has(&resources.limits, "memory"), "its memory has no limit"),
    ])
}

fn probes(container: &Container) -> Vec<String> {
    let mut faults = Vec::new();
    let all = [
        ("startup", &container.startup_probe, "/livez"),
        ("readiness", &container.readiness_probe, "/readyz"),
        ("liveness", &container.liveness_probe, "/livez"),
    ];
    for (name, probe, path) in all {
        let Some(get) = probe.as_ref().and_then(|probe| probe.http_get.as_ref()) else {
            faults.push(format!("there is no {name} probe over HTTP"));
            continue;
        };
        if get.path.as_deref() != Some(path) {
            faults.push(format!("the {name} probe asks {:?}, not {path}", get.path));
        }
        if port_number(container, &get.port).is_none() {
            faults.push(format!("the {name} probe's port {:?} is none of the container's", get.port));
        }
    }
    let window_s = |probe: &Option<Probe>| {
        probe.as_ref().map_or(0, |probe| probe.period_seconds.unwrap_or(10) * probe.failure_threshold.unwrap_or(3))
    };
    if window_s(&container.liveness_probe) < 5 * window_s(&container.readiness_probe) {
        faults.push(
            "liveness must give up at least five times later than readiness, or a busy moment becomes a restart".into(),
        );
    }
    faults
}

pub(crate) fn port_number(container: &Container, port: &IntOrString) -> Option<i32> {
    let mut ports = container.ports.iter().flatten();
    match port {
        IntOrString::Int(number) => ports.find(|port| port.container_port == *number),
        IntOrString::String(name) => ports.find(|port| port.name.as_ref() == Some(name)),
    }
    .map(|port| port.container_port)
}

/// The ConfigMap is mounted where `--config` looks, and the port is the one that is configured.
fn configured(workload: &Workload, rendered: &Rendered) -> Vec<String> {
    let mut faults = Vec::new();
    let container = &workload.pod.containers[0];
    let volumes = workload.pod.volumes.iter().flatten();
    let config_volume = volumes.filter_map(|volume| Some((&volume.name, volume.config_map.as_ref()?.name.clone())));
    let files: Vec<String> = config_volume
        .filter_map(|(volume, map)| {
            let mount = container.volume_mounts.iter().flatten().find(|mount| mount.name == *volume)?;
            let files = rendered.config_maps.get(&map)?;
            Some(files.keys().map(|file| format!("{}/{file}", mount.mount_path)).collect::<Vec<_>>())
        })
        .flatten()
        .collect();
    let args = container.args.clone().unwrap_or_default();
    let config = args.iter().position(|word| word == "--config").and_then(|at| args.get(at + 1));
    if config.is_none_or(|config| !files.contains(config)) {
        faults.push(format!("{}: --config {config:?} is none of the mounted files {files:?}", workload.title));
    }
    if args.first() != Some(&workload.component) {
        faults.push(format!("{}: it runs {:?}, not {}", workload.title, args.first(), workload.component));
    }
    let settings = settings(workload, rendered);
    let peers = settings.get("peers").and_then(|peers| peers.get("listen"));
    let addresses: Vec<&str> =
        [settings["listen"].get("address"), peers].into_iter().flatten().filter_map(toml::Value::as_str).collect();
    for port in container.ports.iter().flatten() {
        let number = port.container_port;
        if !addresses.contains(&format!("0.0.0.0:{number}").as_str()) {
            let title = &workload.title;
            faults.push(format!("{title}: port {number} is not where forebay.toml listens, {}", addresses.join(" ")));
        }
    }
    let open = container.ports.iter().flatten().count();
    if open != addresses.len() {
        faults.push(format!("{}: it listens at {}, and has {open} ports", workload.title, addresses.join(" and ")));
    }
    faults
}

/// Every container port has an ingress rule: under default-deny, one without is closed.
fn reachable(workload: &Workload, objects: &[Object]) -> Vec<String> {
    let rules = policies(objects)
        .filter(|spec| spec.pod_selector.as_ref().is_some_and(|selector| selects(selector, &workload.labels)))
        .flat_map(|spec| spec.ingress.iter().flatten())
        .flat_map(|rule| rule.ports.iter().flatten());
    let rules: Vec<&NetworkPolicyPort> = rules.collect();
    let mut faults = Vec::new();
    for container in &workload.pod.containers {
        for port in container.ports.iter().flatten() {
            if !rules.iter().any(|rule| rule.port == Some(IntOrString::Int(port.container_port))) {
                let number = port.container_port;
                faults.push(format!("{}: no NetworkPolicy lets anybody in on port {number}", workload.title));
            }
        }
    }
    faults
}

pub(crate) fn policies(
    objects: &[Object],
) -> impl Iterator<Item = &k8s_openapi::api::networking::v1::NetworkPolicySpec> {
    objects.iter().filter_map(|object| match object {
        Object::NetworkPolicy(policy) => policy.spec.as_ref(),
        _ => None,
    })
}

/// References between documents hold.
fn references(object: &Object, workloads: &[Workload], objects: &[Object]) -> Vec<String> {
    match object {
        Object::Namespace(namespace) => {
            let label = "pod-security.kubernetes.io/enforce";
            let enforced = namespace.metadata.labels.as_ref().and_then(|labels| labels.get(label));
            broken(&[(
                enforced.map(String::as_str) == Some("restricted"),
                "the namespace does not enforce `restricted`",
            )])
        }
        Object::ServiceAccount(account) => {
            let off = account.automount_service_account_token == Some(false);
            broken(&[(off, "a ServiceAccount mounts its token by default")])
        }
        Object::Service(service) => of_service(service, workloads),
        Object::Deployment(_) | Object::StatefulSet(_) | Object::DaemonSet(_) => {
            workload(object).map(|workload| of_workload(&workload, objects)).unwrap_or_default()
        }
        Object::Budget(budget) => of_budget(budget, workloads),
        Object::Autoscaler(autoscaler) => of_autoscaler(autoscaler, workloads),
        Object::NetworkPolicy(policy) => of_policy(policy, workloads),
        Object::Role(_) | Object::RoleBinding(_) | Object::Issuer(_) | Object::Certificate(_) => Vec::new(),
    }
}

fn of_service(service: &Service, workloads: &[Workload]) -> Vec<String> {
    let name = service.metadata.name.clone().unwrap_or_default();
    let spec = service.spec.clone().unwrap_or_default();
    let selector = LabelSelector { match_labels: spec.selector, ..LabelSelector::default() };
    let Some(workload) = workloads.iter().find(|workload| !is_empty(&selector) && selects(&selector, &workload.labels))
    else {
        return vec![format!("Service {name} selects no pod of ours")];
    };
    let container = &workload.pod.containers[0];
    let ports = spec.ports.unwrap_or_default();
    let missing = ports.iter().filter_map(|port| {
        let target = port.target_port.clone().unwrap_or(IntOrString::Int(port.port));
        port_number(container, &target)
            .is_none()
            .then(|| format!("Service {name} leads to port {target:?}, which no container has"))
    });
    missing.collect()
}

fn of_workload(workload: &Workload, objects: &[Object]) -> Vec<String> {
    let mut faults = Vec::new();
    let account = workload.pod.service_account_name.clone().unwrap_or_default();
    let known = objects.iter().any(
        |object| matches!(object, Object::ServiceAccount(known) if known.metadata.name.as_ref() == Some(&account)),
    );
    if !known {
        faults.push(format!("{}: there is no ServiceAccount {account:?}", workload.title));
    }
    if let Some(name) = &workload.service {
        let service = objects.iter().find_map(|object| match object {
            Object::Service(service) if service.metadata.name.as_ref() == Some(name) => service.spec.as_ref(),
            _ => None,
        });
        if service.is_none_or(|spec| spec.cluster_ip.as_deref() != Some("None")) {
            faults.push(format!("{}: its Service {name} is not headless, so its pods have no names", workload.title));
        } else if service.is_none_or(|spec| spec.publish_not_ready_addresses != Some(true)) {
            faults.push(format!(
                "{}: Service {name} lacks publishNotReadyAddresses: a starting worker looks gone",
                workload.title
            ));
        }
    }
    faults
}

fn of_autoscaler(autoscaler: &HorizontalPodAutoscaler, workloads: &[Workload]) -> Vec<String> {
    let name = format!("HorizontalPodAutoscaler {}", autoscaler.metadata.name.clone().unwrap_or_default());
    let Some(spec) = &autoscaler.spec else { return vec![format!("{name} scales nothing")] };
    let target = format!("{} {}", spec.scale_target_ref.kind, spec.scale_target_ref.name);
    let is_known = workloads.iter().any(|workload| workload.title == target);
    let rules = [
        (is_known, "scales a workload that is none of ours"),
        (spec.min_replicas.is_some_and(|least| least <= spec.max_replicas), "has more replicas at least than at most"),
        (spec.metrics.as_ref().is_some_and(|metrics| !metrics.is_empty()), "has no metric to scale by"),
    ];
    broken(&rules).into_iter().map(|rule| format!("{name} {rule}")).collect()
}

fn of_budget(budget: &PodDisruptionBudget, workloads: &[Workload]) -> Vec<String> {
    let name = format!("PodDisruptionBudget {}", budget.metadata.name.clone().unwrap_or_default());
    let spec = budget.spec.clone().unwrap_or_default();
    let selector = spec.selector.unwrap_or_default();
    let selected: Vec<&Workload> = workloads.iter().filter(|workload| selects(&selector, &workload.labels)).collect();
    let [workload] = selected[..] else {
        return vec![format!("{name} selects {} workloads, not one", selected.len())];
    };
    let feasible = match (&spec.min_available, &spec.max_unavailable) {
        (Some(IntOrString::Int(least)), None) => *least < workload.replicas,
        (None, Some(IntOrString::Int(most))) => *most >= 1,
        _ => false,
    };
    let always = spec.unhealthy_pod_eviction_policy.as_deref() == Some("AlwaysAllow");
    let rules = [
        (feasible, "blocks every drain of a node: it never allows an eviction"),
        (always, "lets an unhealthy pod block a drain: set unhealthyPodEvictionPolicy: AlwaysAllow"),
    ];
    broken(&rules).into_iter().map(|rule| format!("{name} {rule}")).collect()
}

fn of_policy(policy: &NetworkPolicy, workloads: &[Workload]) -> Vec<String> {
    let name = format!("NetworkPolicy {}", policy.metadata.name.clone().unwrap_or_default());
    let spec = policy.spec.clone().unwrap_or_default();
    let selector = spec.pod_selector.unwrap_or_default();
    let types = spec.policy_types.unwrap_or_default();
    let both = ["Ingress", "Egress"].iter().all(|kind| types.contains(&(*kind).to_owned()));
    if !is_empty(&selector) {
        let known = workloads.iter().any(|workload| selects(&selector, &workload.labels));
        return if known && both { Vec::new() } else { vec![format!("{name} selects no pod, or not both directions")] };
    }
    let denies = both && spec.ingress.is_none() && spec.egress.is_none();
    if denies { Vec::new() } else { vec![format!("{name} selects all pods but denies less than everything")] }
}

/// The router's list is the StatefulSet's pods: no more, no fewer, on the right port.
fn worker_list(workloads: &[Workload], rendered: &Rendered) -> Vec<String> {
    let component = |name: &str| workloads.iter().find(|workload| workload.component == name);
    let (Some(router), Some(worker)) = (component("router"), component("worker")) else {
        return vec!["there is no router, or no worker".into()];
    };
    let settings = settings(router, rendered);
    if settings.contains_key("discovery") {
        return Vec::new();
    }
    let listed = settings["workers"].as_array().cloned().unwrap_or_default();
    let listed: Vec<&str> = listed.iter().filter_map(toml::Value::as_str).collect();
    let service = worker.service.clone().unwrap_or_default();
    let port = worker.pod.containers[0].ports.iter().flatten().map(|port| port.container_port).next().unwrap_or(0);
    // A certificate names pods by their Service's whole name: no wildcard stands before a single label.
    let (scheme, domain) = match certificates::speaks_tls(&self::settings(worker, rendered)) {
        true => ("https", format!("{service}.{}.svc", rendered.namespace())),
        false => ("http", service),
    };
    let pods: Vec<String> =
        (0..worker.replicas).map(|number| format!("{scheme}://{}-{number}.{domain}:{port}", worker.name)).collect();
    if listed == pods { Vec::new() } else { vec![format!("router.workers is {listed:?}, the pods are {pods:?}")] }
}

/// Router and worker take their common key from one entry of one Secret, by the names they read.
fn shared_key(workloads: &[Workload]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut entries = Vec::new();
    for (component, variable) in [("router", "FOREBAY_ROUTER__WORKER_API_KEY"), ("worker", "FOREBAY_WORKER__API_KEY")] {
        let containers = workloads.iter().filter(|workload| workload.component == component);
        let mut variables = containers.flat_map(|workload| workload.pod.containers[0].env.iter().flatten());
        let variable_entry = variables.find(|entry| entry.name == variable);
        match variable_entry.and_then(|entry| entry.value_from.as_ref()?.secret_key_ref.as_ref()) {
            Some(entry) => entries.push((entry.name.clone(), entry.key.clone())),
            None => faults.push(format!("the {component} does not get {variable} from a Secret")),
        }
    }
    if entries.windows(2).any(|pair| pair[0] != pair[1]) {
        faults.push(format!("router and worker do not take the same key: {entries:?}"));
    }
    faults
}

fn router_reaches_workers(workloads: &[Workload], objects: &[Object]) -> Vec<String> {
    let component = |name: &str| workloads.iter().find(|workload| workload.component == name);
    let (Some(router), Some(worker)) = (component("router"), component("worker")) else { return Vec::new() };
    let rules: Vec<_> = policies(objects)
        .filter(|spec| spec.pod_selector.as_ref().is_some_and(|selector| selects(selector, &router.labels)))
        .flat_map(|spec| spec.egress.iter().flatten())
        .collect();
    let allows = |port: i32, to_workers: bool| {
        rules.iter().any(|rule| {
            let leads = rule.to.iter().flatten().any(|peer| {
                peer.pod_selector.as_ref().is_some_and(|selector| selects(selector, &worker.labels)) == to_workers
            });
            leads && rule.ports.iter().flatten().any(|rule| rule.port == Some(IntOrString::Int(port)))
        })
    };
    let ports = worker.pod.containers[0].ports.iter().flatten().filter(|port| port.name.as_deref() == Some("http"));
    let mut faults: Vec<String> = ports
        .map(|port| port.container_port)
        .filter(|port| !allows(*port, true))
        .map(|port| format!("no NetworkPolicy lets the router out to workers on port {port}"))
        .collect();
    if !allows(53, false) {
        faults.push("no NetworkPolicy lets the router ask DNS for its workers".into());
    }
    let to_node_local = |rule: &NetworkPolicyEgressRule| {
        let mut blocks = rule.to.iter().flatten().filter_map(|peer| peer.ip_block.as_ref());
        let is_dns = rule.ports.iter().flatten().any(|port| port.port == Some(IntOrString::Int(53)));
        is_dns && blocks.any(|block| block.cidr == NODE_LOCAL_DNS)
    };
    if !rules.iter().any(|rule| to_node_local(rule)) {
        faults.push("no NetworkPolicy lets the router ask node-local DNS for its workers".into());
    }
    faults
}
