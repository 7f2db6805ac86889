//! The manifests under `k8s/`, parsed as strictly as an API server would, and checked for what a
//! model server needs: drains that fit, probes that exist, selectors that select.
//!
//! There is no cluster here: `render` does what kustomize would do with the few features we use.

mod certificates;
mod discovery;
mod lint;
mod node;
mod render;

use render::Rendered;
use serde_json::{Value, json};

const VARIANTS: [&str; 5] = ["base", "overlays/demo", "overlays/tls", "overlays/peers", "overlays/node"];

#[test]
fn every_file_belongs_to_a_kustomization() {
    assert_eq!(render::unlisted(), Vec::<String>::new(), "list them in a kustomization.yaml, or delete them");
}

#[test]
fn every_document_is_one_the_api_server_would_take() {
    for variant in VARIANTS {
        let rendered = Rendered::of(variant);
        assert!(rendered.documents.len() >= 11, "{variant} renders only {}", rendered.documents.len());
        for document in &rendered.documents {
            if let Err(problem) = lint::parse(document) {
                panic!("{variant}: {}: {problem}", lint::title(document));
            }
        }
    }
}

#[test]
fn every_rule_holds() {
    for variant in VARIANTS {
        let faults = lint::faults(&Rendered::of(variant));
        assert!(faults.is_empty(), "k8s/{variant} breaks {} rules:\n{}\n", faults.len(), faults.join("\n"));
    }
}

#[test]
fn the_demo_needs_nothing_but_itself() {
    let demo = Rendered::of("overlays/demo");
    assert!(demo.secrets.contains_key("forebay-worker-key"), "the demo brings the key between router and worker");
    let worker = demo.document("StatefulSet", "forebay-worker");
    assert_eq!(worker["spec"]["replicas"], 2);
    assert_eq!(worker["spec"]["template"]["spec"]["containers"][0]["args"][1], "demo", "the bundled model");
    assert!(Rendered::of("base").secrets.is_empty(), "no key is part of the base");
}

#[test]
fn an_unknown_or_misspelt_field_is_refused() {
    let mut document = Rendered::of("base").document("Deployment", "forebay-router").clone();
    document["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = json!({});
    let problem = lint::parse(&document).expect_err("a misspelt probe");
    assert!(problem.contains("livenessProb"), "{problem}");
    let mut document = Rendered::of("base").document("Deployment", "forebay-router").clone();
    document["spec"]["replicas"] = json!("two");
    let problem = lint::parse(&document).expect_err("a word for a number");
    assert!(problem.contains("spec.replicas"), "{problem}");
}

/// Breaks one thing at a time: (kind, name, pointer, value, what the complaint says).
#[test]
fn breaking_any_rule_is_noticed() {
    let pod = "/spec/template/spec";
    let container = "/spec/template/spec/containers/0";
    let cases = [
        ("Deployment", "forebay-router", format!("{pod}/terminationGracePeriodSeconds"), json!(60), "grace"),
        ("StatefulSet", "forebay-worker", format!("{pod}/terminationGracePeriodSeconds"), json!(30), "grace"),
        ("Deployment", "forebay-router", format!("{container}/livenessProbe/httpGet/port"), json!("web"), "port"),
        ("Deployment", "forebay-router", format!("{container}/readinessProbe/httpGet/path"), json!("/"), "/readyz"),
        ("StatefulSet", "forebay-worker", format!("{container}/startupProbe"), Value::Null, "startup"),
        ("StatefulSet", "forebay-worker", format!("{container}/livenessProbe/failureThreshold"), json!(1), "readiness"),
        ("Deployment", "forebay-router", format!("{container}/image"), json!("forebay:latest"), "latest"),
        ("Deployment", "forebay-router", format!("{container}/image"), json!("host:5000/forebay"), "tag"),
        ("Deployment", "forebay-router", format!("{container}/resources/limits/memory"), Value::Null, "memory"),
        ("Deployment", "forebay-router", format!("{container}/resources/requests"), Value::Null, "cpu"),
        (
            "Deployment",
            "forebay-router",
            format!("{container}/securityContext/readOnlyRootFilesystem"),
            json!(false),
            "read",
        ),
        (
            "Deployment",
            "forebay-router",
            format!("{container}/securityContext/capabilities/drop/0"),
            json!("NET_RAW"),
            "drop",
        ),
        (
            "StatefulSet",
            "forebay-worker",
            format!("{container}/securityContext/allowPrivilegeEscalation"),
            json!(true),
            "escalation",
        ),
        ("StatefulSet", "forebay-worker", format!("{pod}/securityContext/runAsNonRoot"), json!(false), "root"),
        (
            "StatefulSet",
            "forebay-worker",
            format!("{pod}/securityContext/seccompProfile/type"),
            json!("Unconfined"),
            "seccomp",
        ),
        ("StatefulSet", "forebay-worker", format!("{pod}/automountServiceAccountToken"), json!(true), "token"),
        ("StatefulSet", "forebay-worker", format!("{pod}/enableServiceLinks"), json!(true), "enableServiceLinks"),
        ("StatefulSet", "forebay-worker", format!("{pod}/serviceAccountName"), json!("nobody"), "nobody"),
        ("StatefulSet", "forebay-worker", format!("{pod}/volumes/1/emptyDir"), json!({}), "sizeLimit"),
        ("StatefulSet", "forebay-worker", "/spec/replicas".into(), json!(3), "workers"),
        ("StatefulSet", "forebay-worker", "/spec/serviceName".into(), json!("forebay"), "headless"),
        ("StatefulSet", "forebay-worker", format!("{container}/ports/0/containerPort"), json!(9000), "9000"),
        ("StatefulSet", "forebay-worker", format!("{container}/args/3"), json!("/etc/other.toml"), "--config"),
        (
            "StatefulSet",
            "forebay-worker",
            format!("{container}/env/0/name"),
            json!("API_KEY"),
            "FOREBAY_WORKER__API_KEY",
        ),
        (
            "StatefulSet",
            "forebay-worker",
            format!("{container}/env/0/valueFrom/secretKeyRef/name"),
            json!("other"),
            "same",
        ),
        ("HorizontalPodAutoscaler", "forebay-router", "/spec/minReplicas".into(), json!(1), "PodDisruptionBudget"),
        ("HorizontalPodAutoscaler", "forebay-router", "/spec/minReplicas".into(), json!(13), "at most"),
        ("HorizontalPodAutoscaler", "forebay-router", "/spec/metrics".into(), json!([]), "metric"),
        (
            "HorizontalPodAutoscaler",
            "forebay-router",
            "/spec/scaleTargetRef/name".into(),
            json!("forebay"),
            "none of ours",
        ),
        ("Deployment", "forebay-router", "/spec/template/metadata/labels".into(), json!({"a": "b"}), "selector"),
        (
            "Deployment",
            "forebay-router",
            format!("{pod}/topologySpreadConstraints/0/labelSelector"),
            json!({}),
            "spread",
        ),
        ("Service", "forebay", "/spec/selector".into(), json!({"app": "x"}), "selects no"),
        ("Service", "forebay", "/spec/ports/0/targetPort".into(), json!("web"), "web"),
        ("Service", "forebay-worker", "/spec/publishNotReadyAddresses".into(), json!(false), "publishNotReady"),
        ("PodDisruptionBudget", "forebay-worker", "/spec/maxUnavailable".into(), json!(0), "drain"),
        (
            "PodDisruptionBudget",
            "forebay-router",
            "/spec/unhealthyPodEvictionPolicy".into(),
            json!("IfHealthyBudget"),
            "AlwaysAllow",
        ),
        ("NetworkPolicy", "forebay-router", "/spec/ingress/0/ports/0/port".into(), json!(80), "8080"),
        ("NetworkPolicy", "forebay-router", "/spec/egress/0/ports/0/port".into(), json!(80), "8081"),
        ("NetworkPolicy", "forebay-router", "/spec/egress/1".into(), json!({"ports": [{"port": 443}]}), "DNS"),
        (
            "NetworkPolicy",
            "forebay-router",
            "/spec/egress/1/to/1".into(),
            json!({"ipBlock": {"cidr": "10.0.0.10/32"}}),
            "node-local DNS",
        ),
        ("NetworkPolicy", "forebay-default-deny", "/spec/policyTypes".into(), json!(["Ingress"]), "denies"),
        (
            "Namespace",
            "forebay",
            "/metadata/labels/pod-security.kubernetes.io~1enforce".into(),
            json!("baseline"),
            "restricted",
        ),
        ("ServiceAccount", "forebay-router", "/automountServiceAccountToken".into(), json!(true), "token"),
    ];
    for (kind, name, pointer, value, complaint) in cases {
        let mut rendered = Rendered::of("base");
        rendered.break_at(kind, name, &pointer, value);
        let faults = lint::faults(&rendered).join("\n");
        assert!(faults.contains(complaint), "{kind} {name} {pointer}: expected `{complaint}` in {faults:?}");
    }
}

/// As above, for the rules of TLS.
#[test]
fn breaking_any_rule_of_tls_is_noticed() {
    let container = "/spec/template/spec/containers/0";
    let volume = "/spec/template/spec/volumes/2";
    let cases = [
        ("StatefulSet", "forebay-worker", format!("{container}/livenessProbe/httpGet/scheme"), Value::Null, "HTTPS"),
        ("Deployment", "forebay-router", format!("{container}/startupProbe/httpGet/scheme"), json!("HTTP"), "HTTPS"),
        (
            "StatefulSet",
            "forebay-worker",
            format!("{container}/volumeMounts/2/mountPath"),
            json!("/tls"),
            "not mounted",
        ),
        ("StatefulSet", "forebay-worker", format!("{container}/volumeMounts/2/subPath"), json!("tls.crt"), "subPath"),
        ("Deployment", "forebay-router", format!("{volume}/secret/secretName"), json!("other"), "no Certificate"),
        (
            "Deployment",
            "forebay-router",
            format!("{volume}/secret/secretName"),
            json!("forebay-authority"),
            "authority's own key",
        ),
        ("Certificate", "forebay-worker", "/spec/dnsNames/0".into(), json!("*.example"), "forebay-worker-0"),
        ("Certificate", "forebay-router", "/spec/dnsNames/2".into(), json!("other"), "forebay.forebay.svc"),
        ("Certificate", "forebay-router", "/spec/usages/2".into(), json!("signing"), "client auth"),
        ("Certificate", "forebay-worker", "/spec/usages/1".into(), json!("signing"), "server auth"),
        ("Certificate", "forebay-worker", "/spec/renewBefore".into(), json!("24h"), "renew"),
        ("Certificate", "forebay-worker", "/spec/duration".into(), json!("8760h"), "a week"),
        ("Certificate", "forebay-worker", "/spec/issuerRef/name".into(), json!("nobody"), "no Issuer"),
        ("Certificate", "forebay-worker", "/spec/privateKey/rotationPolicy".into(), json!("Never"), "new key"),
        ("Certificate", "forebay-authority", "/spec/isCA".into(), json!(false), "isCA"),
        ("Service", "forebay", "/spec/ports/0/appProtocol".into(), json!("http"), "appProtocol"),
    ];
    for (kind, name, pointer, value, complaint) in cases {
        let mut rendered = Rendered::of("overlays/tls");
        rendered.set_at(kind, name, &pointer, value);
        let faults = lint::faults(&rendered).join("\n");
        assert!(faults.contains(complaint), "{kind} {name} {pointer}: expected `{complaint}` in {faults:?}");
    }
    for (line, complaint) in [
        ("health_without_certificate = true", "kubelet"),
        ("[router.worker_tls]", "worker_tls"),
        ("client_ca_file = \"/etc/forebay-tls/ca.crt\"", "client_ca_file"),
    ] {
        let mut rendered = Rendered::of("overlays/tls");
        let text = rendered.config_maps["forebay-config"]["forebay.toml"].clone();
        assert!(text.contains(line));
        let without = if line.starts_with('[') { "[router.retry]\n[unread]" } else { "" };
        let files = rendered.config_maps.get_mut("forebay-config").expect("there");
        files.insert("forebay.toml".into(), text.replace(line, without));
        let faults = lint::faults(&rendered).join("\n");
        assert!(faults.contains(complaint), "without {line}: expected `{complaint}` in {faults:?}");
    }
}

/// As above, for the rules of discovery and peers.
#[test]
fn breaking_any_rule_of_discovery_is_noticed() {
    let container = "/spec/template/spec/containers/0";
    let volume = "/spec/template/spec/volumes/3";
    let cases = [
        ("Role", "forebay-discovery", "/rules/0/verbs/1".into(), json!("delete"), "`list` and `watch`"),
        ("Role", "forebay-discovery", "/rules/0/resources/0".into(), json!("secrets"), "endpointslices"),
        ("RoleBinding", "forebay-discovery", "/subjects/1/name".into(), json!("other"), "forebay-worker"),
        ("RoleBinding", "forebay-discovery", "/roleRef/name".into(), json!("other"), "Role"),
        ("Service", "forebay-worker", "/spec/ports/1/name".into(), json!("other"), "port `peers`"),
        ("StatefulSet", "forebay-worker", format!("{container}/ports/1/containerPort"), json!(9000), "9000"),
        ("StatefulSet", "forebay-worker", format!("{container}/volumeMounts/3/mountPath"), json!("/x"), "token"),
        ("Deployment", "forebay-router", format!("{volume}/projected/sources/0"), json!({}), "token"),
        ("Deployment", "forebay-router", format!("{volume}/projected/sources/1/configMap/name"), json!("x"), "token"),
        (
            "Deployment",
            "forebay-router",
            format!("{volume}/projected/sources/0/serviceAccountToken/expirationSeconds"),
            json!(864_000),
            "token",
        ),
        ("NetworkPolicy", "forebay-router", "/spec/egress/2/ports/1/port".into(), json!(80), "API server"),
        ("NetworkPolicy", "forebay-worker", "/spec/egress/1/ports/0/port".into(), json!(80), "API server"),
        ("NetworkPolicy", "forebay-worker", "/spec/egress/0/ports/0/port".into(), json!(80), "to each other"),
        (
            "NetworkPolicy",
            "forebay-worker",
            "/spec/ingress/1/from/0/podSelector/matchLabels/app.kubernetes.io~1component".into(),
            json!("router"),
            "to each other",
        ),
        ("Certificate", "forebay-worker", "/spec/dnsNames/0".into(), json!("*.example"), "forebay-worker-0"),
        ("Certificate", "forebay-worker", "/spec/uris/0".into(), json!("spiffe://other"), "identities"),
    ];
    for (kind, name, pointer, value, complaint) in cases {
        let mut rendered = Rendered::of("overlays/peers");
        rendered.set_at(kind, name, &pointer, value);
        let faults = lint::faults(&rendered).join("\n");
        assert!(faults.contains(complaint), "{kind} {name} {pointer}: expected `{complaint}` in {faults:?}");
    }
    for (line, without, complaint) in [
        ("discovery_tls = true", "", "discovery_tls"),
        ("listen = \"0.0.0.0:8082\"", "", "8082"),
        ("kubernetes = \"forebay-worker:http\"", "kubernetes = \"other:http\"", "Service other"),
        ("kubernetes = \"forebay-worker:peers\"", "kubernetes = \"forebay-worker:http\"", "peers.listen"),
    ] {
        let mut rendered = Rendered::of("overlays/peers");
        let text = rendered.config_maps["forebay-config"]["forebay.toml"].clone();
        assert!(text.contains(line));
        let files = rendered.config_maps.get_mut("forebay-config").expect("there");
        files.insert("forebay.toml".into(), text.replace(line, without));
        let faults = lint::faults(&rendered).join("\n");
        assert!(faults.contains(complaint), "without {line}: expected `{complaint}` in {faults:?}");
    }
}

/// As above, for the rules of nodes.
#[test]
fn breaking_any_rule_of_nodes_is_noticed() {
    let (pod, container) = ("/spec/template/spec", "/spec/template/spec/containers/0");
    let cases = [
        ("DaemonSet", "forebay-node", format!("{pod}/terminationGracePeriodSeconds"), json!(30), "grace"),
        ("DaemonSet", "forebay-node", format!("{container}/livenessProbe/httpGet/port"), json!("web"), "port"),
        ("DaemonSet", "forebay-node", format!("{container}/ports/1/containerPort"), json!(9000), "9000"),
        ("DaemonSet", "forebay-node", format!("{container}/args/2"), json!("/etc/other.toml"), "--config"),
        ("DaemonSet", "forebay-node", format!("{container}/resources/limits/memory"), Value::Null, "memory"),
        ("DaemonSet", "forebay-node", format!("{container}/volumeMounts/1/mountPath"), json!("/x"), "not mounted"),
        ("DaemonSet", "forebay-node", format!("{container}/volumeMounts/2/mountPath"), json!("/x"), "token"),
        ("DaemonSet", "forebay-node", format!("{container}/volumeMounts/3/mountPath"), json!("/x"), "cache"),
        ("DaemonSet", "forebay-node", format!("{pod}/volumes/3/emptyDir/sizeLimit"), json!("100Gi"), "quota"),
        (
            "DaemonSet",
            "forebay-node",
            format!("{pod}/volumes/3"),
            json!({"name": "cache", "hostPath": {"path": "/var/cache"}}),
            "hostPath",
        ),
        ("DaemonSet", "forebay-node", format!("{container}/ports/0/hostPort"), json!(8083), "host's port"),
        ("DaemonSet", "forebay-node", format!("{pod}/serviceAccountName"), json!("nobody"), "nobody"),
        ("RoleBinding", "forebay-node-discovery", "/subjects/0/name".into(), json!("other"), "forebay-node"),
        ("Service", "forebay-node", "/spec/internalTrafficPolicy".into(), json!("Cluster"), "another machine"),
        ("Service", "forebay-node", "/spec/ports/0/targetPort".into(), json!("web"), "web"),
        ("Service", "forebay-node-peers", "/spec/ports/0/name".into(), json!("other"), "port `peers`"),
        ("NetworkPolicy", "forebay-node", "/spec/ingress/0/ports/0/port".into(), json!(80), "8083"),
        ("NetworkPolicy", "forebay-node", "/spec/egress/0/ports/0/port".into(), json!(80), "to each other"),
        ("NetworkPolicy", "forebay-node", "/spec/egress/1/ports/1/port".into(), json!(54), "DNS"),
        ("NetworkPolicy", "forebay-node", "/spec/egress/2/ports/1/port".into(), json!(80), "API server"),
        ("NetworkPolicy", "forebay-node", "/spec/egress/3/ports/0/port".into(), json!(80), "the hub"),
        ("Certificate", "forebay-node", "/spec/dnsNames/0".into(), json!("other"), "forebay-node-peers.forebay.svc"),
        ("Certificate", "forebay-node", "/spec/uris/0".into(), json!("spiffe://other"), "identities"),
    ];
    for (kind, name, pointer, value, complaint) in cases {
        let mut rendered = Rendered::of("overlays/node");
        rendered.set_at(kind, name, &pointer, value);
        let faults = lint::faults(&rendered).join("\n");
        assert!(faults.contains(complaint), "{kind} {name} {pointer}: expected `{complaint}` in {faults:?}");
    }
    for (line, without, complaint) in [
        ("listen = \"0.0.0.0:8082\"", "", "8082"),
        ("kubernetes = \"forebay-node-peers:peers\"", "kubernetes = \"forebay-worker:peers\"", "forebay-worker"),
        ("root = \"/var/cache/forebay\"", "root = \"/other\"", "cache"),
        ("sa/forebay-node\"", "sa/forebay-worker\"", "identities"),
    ] {
        let mut rendered = Rendered::of("overlays/node");
        let text = rendered.config_maps["forebay-node-config"]["forebay.toml"].clone();
        assert!(text.contains(line));
        let files = rendered.config_maps.get_mut("forebay-node-config").expect("there");
        files.insert("forebay.toml".into(), text.replace(line, without));
        let faults = lint::faults(&rendered).join("\n");
        assert!(faults.contains(complaint), "without {line}: expected `{complaint}` in {faults:?}");
    }
}

#[test]
fn the_image_knows_the_authorities_that_sign_certificates() {
    let text = std::fs::read_to_string(render::folder().join("Containerfile")).expect("reads");
    let last = text.rsplit("\nFROM ").next().expect("a stage");
    assert!(last.contains("/etc/ssl/certs/ca-certificates.crt"), "models come over HTTPS: {last}");
}
