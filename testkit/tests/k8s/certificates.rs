//! cert-manager's documents, as far as we write them, and the rules of TLS: what the configuration reads is mounted,
//! names who it should, and is renewed in time.

use crate::lint::{Object, Workload, broken, configuration, settings};
use crate::render::Rendered;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use toml::{Table, Value};

pub(crate) const VERSION: &str = "cert-manager.io/v1";
/// The longest life of a certificate that a process shows, in hours.
const HOURS_MAX: u64 = 7 * 24;
/// Where both processes look for their files.
const FILES: [&str; 3] = ["certificate_file", "key_file", "client_ca_file"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Issuer {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: ObjectMeta,
    spec: IssuerSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IssuerSpec {
    #[serde(rename = "selfSigned")]
    _self_signed: Option<NoFields>,
    ca: Option<CaIssuer>,
}

#[derive(Debug, Deserialize)]
struct NoFields {}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CaIssuer {
    secret_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Certificate {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: ObjectMeta,
    spec: CertificateSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CertificateSpec {
    secret_name: String,
    #[serde(default, rename = "isCA")]
    is_ca: bool,
    #[serde(rename = "commonName")]
    _common_name: Option<String>,
    #[serde(default)]
    dns_names: Vec<String>,
    #[serde(default)]
    uris: Vec<String>,
    #[serde(default)]
    usages: Vec<String>,
    duration: String,
    renew_before: Option<String>,
    private_key: PrivateKey,
    issuer_ref: IssuerRef,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PrivateKey {
    #[serde(rename = "algorithm")]
    _algorithm: String,
    #[serde(rename = "size")]
    _size: u32,
    rotation_policy: Option<String>,
}

#[derive(Debug, Deserialize)]
struct IssuerRef {
    name: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "group")]
    _group: String,
}

impl Certificate {
    /// Returns true if it is of this name and has this URI.
    pub(crate) fn has_uri(&self, name: &str, uri: &str) -> bool {
        self.metadata.name.as_deref() == Some(name) && self.spec.uris.iter().any(|known| known == uri)
    }
}

/// Returns true if a process with these settings listens with TLS.
pub(crate) fn speaks_tls(settings: &Table) -> bool {
    listen_tls(settings).is_some_and(|tls| tls.contains_key("certificate_file"))
}

fn listen_tls(settings: &Table) -> Option<&Table> {
    settings.get("listen")?.get("tls")?.as_table()
}

/// Everything that is wrong with TLS.
pub(crate) fn faults(workloads: &[Workload], objects: &[Object], rendered: &Rendered) -> Vec<String> {
    let certificates: Vec<&Certificate> = objects.iter().filter_map(certificate).collect();
    let mut faults: Vec<String> =
        certificates.iter().flat_map(|certificate| of_certificate(certificate, &certificates, objects)).collect();
    for workload in workloads {
        let settings = settings(workload, rendered);
        let scheme = if speaks_tls(&settings) { "HTTPS" } else { "HTTP" };
        faults.extend(probe_schemes(workload, scheme));
        faults.extend(services(workload, scheme, objects));
        if let Some(tls) = listen_tls(&settings) {
            faults.extend(files(workload, tls, &certificates));
            let is_mutual = tls.contains_key("client_ca_file");
            if is_mutual && tls.get("health_without_certificate") != Some(&Value::Boolean(true)) {
                faults
                    .push(format!("{}: a kubelet has no certificate; set health_without_certificate", workload.title));
            }
        }
        if let Some(tls) = settings.get("worker_tls").and_then(Value::as_table) {
            faults.extend(files(workload, tls, &certificates));
        }
        for tls in [settings.get("peers"), configuration(workload, rendered).get("peers")].into_iter().flatten() {
            faults.extend(
                tls.get("tls")
                    .and_then(Value::as_table)
                    .map(|tls| files(workload, tls, &certificates))
                    .into_iter()
                    .flatten(),
            );
        }
        faults.extend(names(workload, &settings, &certificates, rendered));
    }
    faults.extend(between(workloads, rendered));
    faults
}

fn certificate(object: &Object) -> Option<&Certificate> {
    match object {
        Object::Certificate(certificate) => Some(certificate),
        _ => None,
    }
}

/// `24h` as a number.
fn hours(text: &str) -> u64 {
    text.strip_suffix('h').and_then(|hours| hours.parse().ok()).unwrap_or_else(|| panic!("{text:?} is no `24h`"))
}

fn of_certificate(certificate: &Certificate, all: &[&Certificate], objects: &[Object]) -> Vec<String> {
    let spec = &certificate.spec;
    let issuers = objects.iter().filter_map(|object| match object {
        Object::Issuer(issuer) => Some(issuer),
        _ => None,
    });
    let mut issuers = issuers.filter(|issuer| issuer.metadata.name.as_ref() == Some(&spec.issuer_ref.name));
    let issuer = issuers.next();
    let signs = |ca: &CaIssuer| all.iter().any(|other| other.spec.secret_name == ca.secret_name && other.spec.is_ca);
    let is_signed = issuer.is_some_and(|issuer| issuer.spec.ca.as_ref().is_none_or(signs));
    let has = |usage: &str| spec.is_ca || spec.usages.iter().any(|known| known == usage);
    let (life, before) = (hours(&spec.duration), spec.renew_before.as_deref().map_or(0, hours));
    let rules = [
        (issuer.is_some(), "there is no Issuer of the name that it refers to"),
        (is_signed, "its Issuer's Secret is of no Certificate with isCA"),
        (has("server auth"), "it has not the usage `server auth`"),
        (has("client auth"), "it has not the usage `client auth`"),
        (spec.is_ca || life <= HOURS_MAX, "it lives longer than a week, and so does a stolen copy"),
        (spec.is_ca || before > 0 && before < life, "renewBefore is not within its life: it does not renew in time"),
        (
            spec.is_ca || spec.private_key.rotation_policy.as_deref() == Some("Always"),
            "it is not renewed under a new key: set rotationPolicy: Always",
        ),
    ];
    let name = certificate.metadata.name.clone().unwrap_or_default();
    broken(&rules).into_iter().map(|rule| format!("Certificate {name}: {rule}")).collect()
}

fn probe_schemes(workload: &Workload, wanted: &str) -> Vec<String> {
    let of = |container: &Container| {
        let probes = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
        let gets = probes.into_iter().filter_map(|probe| probe.as_ref()?.http_get.as_ref());
        gets.filter(|get| get.scheme.as_deref().unwrap_or("HTTP") != wanted).count()
    };
    let wrong: usize = workload.pod.containers.iter().map(of).sum();
    if wrong == 0 { Vec::new() } else { vec![format!("{}: {wrong} probes do not speak {wanted}", workload.title)] }
}

/// Services say what is spoken behind them.
fn services(workload: &Workload, scheme: &str, objects: &[Object]) -> Vec<String> {
    let services = objects.iter().filter_map(|object| match object {
        Object::Service(service) => service.spec.as_ref().map(|spec| (service, spec)),
        _ => None,
    });
    let component = |labels: &std::collections::BTreeMap<String, String>| {
        labels.get("app.kubernetes.io/component") == Some(&workload.component)
    };
    let mut faults = Vec::new();
    for (service, spec) in services.filter(|(_, spec)| spec.selector.as_ref().is_some_and(component)) {
        // The headless one leads nobody anywhere; it names pods.
        let is_headless = spec.cluster_ip.as_deref() == Some("None");
        for port in spec.ports.iter().flatten().filter(|_| !is_headless) {
            if !port.app_protocol.as_deref().is_some_and(|protocol| protocol.eq_ignore_ascii_case(scheme)) {
                let name = service.metadata.name.clone().unwrap_or_default();
                faults.push(format!("Service {name}: its appProtocol is not what is spoken, {scheme}"));
            }
        }
    }
    faults
}

/// The files that a table names come from a Secret that a Certificate fills, mounted whole.
fn files(workload: &Workload, tls: &Table, certificates: &[&Certificate]) -> Vec<String> {
    let mut faults = Vec::new();
    let named = FILES.into_iter().chain(["ca_file"]).filter_map(|key| tls.get(key)?.as_str());
    for path in named {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        if !["tls.crt", "tls.key", "ca.crt"].contains(&file) {
            faults.push(format!("{}: {path} is no file of a Certificate's Secret", workload.title));
        }
        let mounts = workload.pod.containers[0].volume_mounts.iter().flatten();
        let Some(mount) = mounts.into_iter().find(|mount| mount.mount_path == folder) else {
            faults.push(format!("{}: {folder} is not mounted", workload.title));
            continue;
        };
        if mount.sub_path.is_some() {
            faults.push(format!("{}: {folder} is mounted by subPath, which never sees new files", workload.title));
        }
        let volume = workload.pod.volumes.iter().flatten().find(|volume| volume.name == mount.name);
        let secret = volume.and_then(|volume| volume.secret.as_ref()?.secret_name.clone()).unwrap_or_default();
        match certificates.iter().find(|certificate| certificate.spec.secret_name == secret) {
            None => faults.push(format!("{}: no Certificate fills the Secret {secret:?}", workload.title)),
            Some(authority) if authority.spec.is_ca => {
                faults.push(format!("{}: it mounts the authority's own key, {secret:?}", workload.title));
            }
            Some(_) => {}
        }
    }
    faults
}

/// A certificate names what clients ask for: the router's Service, and each worker as the router knows it.
fn names(workload: &Workload, settings: &Table, certificates: &[&Certificate], rendered: &Rendered) -> Vec<String> {
    let service = format!("forebay.{}.svc", rendered.namespace());
    let workers = settings.get("workers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let workers = workers.filter_map(|url| url.strip_prefix("https://")?.split(':').next());
    let found = found_name(settings, rendered);
    let nodes = configuration(workload, rendered);
    let nodes = nodes.get("peers").filter(|_| workload.component == "node").and_then(Value::as_table);
    let node = nodes.and_then(|peers| service_name(peers, rendered));
    let own = (workload.component == "router" && speaks_tls(settings)).then_some(("router", service.as_str()));
    let asked = own.into_iter().chain(workers.chain(found.as_deref()).map(|host| ("worker", host)));
    let asked = asked.chain(node.as_deref().map(|host| ("node", host)));
    let is_named = |(component, host): &(&str, &str)| {
        let name = format!("forebay-{component}");
        let of = certificates.iter().filter(|certificate| certificate.metadata.name.as_deref() == Some(&name));
        let mut names = of.flat_map(|certificate| &certificate.spec.dns_names);
        let parent = host.split_once('.').map_or("", |(_, parent)| parent);
        names.any(|name| name == host || name.strip_prefix("*.") == Some(parent))
    };
    asked.filter(|asked| !is_named(asked)).map(|(_, host)| format!("no Certificate names {host}")).collect()
}

/// The name by which discovery knows a pod of a StatefulSet.
fn found_name(settings: &Table, rendered: &Rendered) -> Option<String> {
    Some(format!("forebay-worker-0.{}", service_name(settings, rendered)?))
}

/// The name by which discovery knows pods without names of their own.
fn service_name(settings: &Table, rendered: &Rendered) -> Option<String> {
    let service = settings.get("discovery")?.get("kubernetes")?.as_str()?.split(':').next()?;
    Some(format!("{service}.{}.svc", rendered.namespace()))
}

/// Workers ask for certificates, and the router shows one.
fn between(workloads: &[Workload], rendered: &Rendered) -> Vec<String> {
    let of = |component: &str| {
        let workload = workloads.iter().find(|workload| workload.component == component);
        workload.map(|workload| settings(workload, rendered)).unwrap_or_default()
    };
    let (router, worker) = (of("router"), of("worker"));
    if !speaks_tls(&worker) {
        return Vec::new();
    }
    let is_mutual = listen_tls(&worker).is_some_and(|tls| tls.contains_key("client_ca_file"));
    let shows = router.get("worker_tls").and_then(Value::as_table);
    let shows = shows.is_some_and(|tls| tls.contains_key("certificate_file") && tls.contains_key("ca_file"));
    broken(&[
        (is_mutual, "workers speak TLS and let in anybody: set worker.listen.tls.client_ca_file"),
        (shows, "the router shows workers no certificate, or trusts the system's: set router.worker_tls"),
    ])
}
