//! Export of spans: its endpoint by the configuration and OpenTelemetry's own variables, and an exporter whose failures
//! are seen.

use super::{Config, TlsFiles, TraceError};
use crate::{mask, names};
use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The usual address of a collector on this machine.
const USUAL_ENDPOINT: &str = "http://localhost:4318";
/// The path of OTLP over HTTP.
const TRACES_PATH: &str = "/v1/traces";
/// OpenTelemetry's default for one export.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Our name where nobody gives another.
const SERVICE_NAME: &str = "forebay";

/// Variables that are honoured here or by OpenTelemetry's SDK.
const HONOURED: [&str; 27] = [
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_PROPAGATORS",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
];
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// The process's `OTEL_*` variables. Empty ones are as good as absent.
#[derive(Debug, Clone, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of `OTEL_EXPORTER_OTLP_TRACES_…`, or else of `OTEL_EXPORTER_OTLP_…`.
    fn of_traces(&self, what: &str) -> Option<&str> {
        self.get(&format!("OTEL_EXPORTER_OTLP_TRACES_{what}"))
            .or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{what}")))
    }

    fn tls_files(&self) -> TlsFiles {
        let file = |what: &str| self.of_traces(what).map(PathBuf::from);
        TlsFiles { authorities: file("CERTIFICATE"), certificate: file("CLIENT_CERTIFICATE"), key: file("CLIENT_KEY") }
    }

    /// How long one export may take; the SDK's default where nothing usable is said.
    fn timeout(&self) -> Duration {
        let said = self.of_traces("TIMEOUT").and_then(|text| text.trim().parse().ok());
        said.map_or(EXPORT_TIMEOUT, Duration::from_millis)
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(pairs: T) -> Self {
        let ours = |(name, value): &(String, String)| name.starts_with("OTEL_") && !value.trim().is_empty();
        Self(pairs.into_iter().filter(ours).collect())
    }
}

/// A decision about the export of spans.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The URL that spans are sent to; `None` exports nothing.
    pub(super) url: Option<String>,
    /// Complaints about what was asked for and is not done.
    pub(super) warnings: Vec<String>,
}

/// Decides by the configured endpoint, which wins, and the variables.
pub(super) fn plan(configured: Option<&str>, variables: &Variables) -> Plan {
    let mut warnings: Vec<String> = variables.0.iter().filter_map(|(name, value)| complaint(name, value)).collect();
    let with_path = |base: &str| format!("{}{TRACES_PATH}", base.trim_end_matches('/'));
    let exporter = variables.get("OTEL_TRACES_EXPORTER");
    let of = |name: &'static str, make: &dyn Fn(&str) -> String| variables.get(name).map(|value| (name, make(value)));
    let asked = configured
        .map(|endpoint| ("telemetry.otlp_endpoint", with_path(endpoint)))
        .or_else(|| of("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &str::to_owned))
        .or_else(|| of("OTEL_EXPORTER_OTLP_ENDPOINT", &with_path))
        .or_else(|| (exporter == Some("otlp")).then(|| ("OTEL_TRACES_EXPORTER", with_path(USUAL_ENDPOINT))));
    let is_disabled = variables.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let asked = asked.filter(|_| !is_disabled && exporter.is_none_or(|exporter| exporter == "otlp"));
    // A configured endpoint has been refused before (`trace::check`); a platform sets variables for all its programs,
    // and OpenTelemetry's specification forbids ending for them.
    let url = asked.and_then(|(name, url)| {
        if is_endpoint(&url) {
            return Some(url);
        }
        let fix = "give an http:// or https:// URL, e.g. http://localhost:4318";
        // What is no URL may hold a password where nobody looks for one.
        let shown = if url.contains("://") { mask(&url) } else { Cow::Borrowed("no URL") };
        warnings.push(format!("{name} is {shown}: no spans are exported; {fix}"));
        None
    });
    Plan { url, warnings }
}

/// Returns true if spans can be sent to a URL.
pub(super) fn is_endpoint(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

/// Explains why a variable is not, or not wholly, honoured. Values are not repeated: headers hold tokens.
fn complaint(name: &str, value: &str) -> Option<String> {
    let not = |what: &str| Some(format!("{name} is not honoured: {what}"));
    match name {
        "OTEL_EXPORTER_OTLP_PROTOCOL" | "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL" if value != "http/protobuf" => {
            not("spans are sent by http/protobuf")
        }
        "OTEL_TRACES_EXPORTER" if !matches!(value, "otlp" | "none") => not("`otlp` and `none` are known"),
        "OTEL_TRACES_SAMPLER" if !SAMPLERS.contains(&value) => {
            not(&format!("the samplers are {}; all requests are traced", SAMPLERS.join(", ")))
        }
        "OTEL_PROPAGATORS" if !value.split(',').any(|one| one.trim() == "tracecontext") => {
            not("contexts are passed on as W3C Trace Context (`tracecontext`)")
        }
        "OTEL_METRICS_EXPORTER" | "OTEL_LOGS_EXPORTER" if value != "none" => {
            not("metrics are on /metrics, logs on standard error")
        }
        "OTEL_METRICS_EXPORTER" | "OTEL_LOGS_EXPORTER" => None,
        _ if HONOURED.contains(&name) => None,
        _ => not("this release does not know it"),
    }
}

/// The settings of TLS with the collector at `url`. One that speaks plain HTTP needs none; its client wants some.
pub(super) fn tls(url: &str, config: &Config) -> Result<ClientConfig, TraceError> {
    let fail = |problem| TraceError::Tls { endpoint: mask(url).into_owned(), problem };
    if url.starts_with("https://") {
        return (config.tls)(&config.variables.tls_files()).map(|tls| ClientConfig::clone(&tls)).map_err(fail);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|cause| fail(cause.to_string()))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// A provider that sends spans to `url`.
pub(super) fn provider(url: &str, tls: ClientConfig, variables: &Variables) -> Result<SdkTracerProvider, TraceError> {
    // The exporter's own client would ask for a provider of ciphers, which the process has not chosen.
    let client = reqwest::blocking::Client::builder()
        .timeout(variables.timeout())
        .tls_backend_preconfigured(tls)
        .build()
        .map_err(|cause| TraceError::Tls { endpoint: mask(url).into_owned(), problem: cause.to_string() })?;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
        .with_http_client(client)
        .build()
        .map_err(|source| TraceError::Exporter { endpoint: mask(url).into_owned(), source })?;
    let mut resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    // The SDK takes it from the variables, but prefers what a program says.
    let attributes = variables.get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let is_named = attributes.split(',').any(|pair| pair.trim_start().starts_with("service.name="));
    if variables.get("OTEL_SERVICE_NAME").is_none() && !is_named {
        resource = resource.with_service_name(SERVICE_NAME);
    }
    let exporter = Watched { inner: exporter };
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build())
}

static EXPORTED: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);
static IS_FAILING: AtomicBool = AtomicBool::new(false);

/// An exporter whose failures are counted, and told once until it works again.
#[derive(Debug)]
struct Watched<E> {
    inner: E,
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let result = self.inner.export(batch).await;
        match &result {
            Ok(()) => {
                EXPORTED.fetch_add(spans, Ordering::Relaxed);
                if IS_FAILING.swap(false, Ordering::Relaxed) {
                    tracing::info!("spans are exported again");
                }
            }
            Err(cause) => {
                FAILED.fetch_add(spans, Ordering::Relaxed);
                if !IS_FAILING.swap(true, Ordering::Relaxed) {
                    let metric = names::TELEMETRY_SPANS.name;
                    tracing::warn!(%cause, "spans cannot be exported; {metric} counts them, and this is said once");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// The counts of the process's one exporter, for any registry.
#[derive(Debug)]
pub(crate) struct ExportCollector(IntCounterVec);

impl ExportCollector {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let def = names::TELEMETRY_SPANS;
        Ok(Self(IntCounterVec::new(Opts::new(def.name, def.help), def.labels)?))
    }
}

impl Collector for ExportCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (outcome, count) in [("exported", &EXPORTED), ("failed", &FAILED)] {
            let counter = self.0.with_label_values(&[outcome]);
            counter.inc_by(count.load(Ordering::Relaxed).saturating_sub(counter.get()));
        }
        self.0.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn endpoints_are_found_as_opentelemetry_says() {
        let url = |configured, pairs: &[(&str, &str)]| plan(configured, &of(pairs)).url;
        let (base, own) =
            (("OTEL_EXPORTER_OTLP_ENDPOINT", "http://b/"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://o/x"));
        assert_eq!(url(None, &[]), None, "nothing leaves the machine unasked");
        assert_eq!(url(None, &[base]).as_deref(), Some("http://b/v1/traces"));
        assert_eq!(url(None, &[base, own]).as_deref(), Some("http://o/x"), "taken as it is");
        assert_eq!(url(Some("http://c"), &[base, own]).as_deref(), Some("http://c/v1/traces"));
        assert_eq!(url(None, &[("OTEL_TRACES_EXPORTER", "otlp")]).as_deref(), Some("http://localhost:4318/v1/traces"));
        let tls = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://b:4318");
        assert_eq!(url(None, &[tls]).as_deref(), Some("https://b:4318/v1/traces"));
        for off in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_TRACES_EXPORTER", "zipkin")]
        {
            assert_eq!(url(Some("http://c"), &[base, off]), None, "{off:?}");
        }
        assert_eq!(
            url(None, &[base, ("OTEL_SDK_DISABLED", "false"), ("OTEL_TRACES_EXPORTER", "")]).as_deref(),
            Some("http://b/v1/traces")
        );
    }

    #[test]
    fn what_is_not_honoured_is_named_without_its_value() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_INSECURE", "hush"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_TRACES_SAMPLER", "xray"),
            ("OTEL_TRACES_EXPORTER", "console"),
            ("OTEL_LOG_LEVEL", "hush"),
        ] {
            let warnings = plan(None, &of(&[(name, value)])).warnings;
            assert!(warnings.len() == 1 && warnings[0].contains(name) && !warnings[0].contains("hush"), "{warnings:?}");
        }
        for endpoint in ["grpc://u:hush@h", "u:hush@h:4317", "https://", ""] {
            let plan = plan(None, &of(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)]));
            let is_told = |warning: &String| {
                warning.contains("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is") && !warning.contains("hush")
            };
            assert!(plan.url.is_none() && plan.warnings.iter().all(is_told), "{plan:?}");
            // An empty variable is as good as an absent one.
            assert_eq!(plan.warnings.is_empty(), endpoint.is_empty(), "{plan:?}");
        }
    }

    #[test]
    fn variables_of_traces_win_over_those_of_all_signals() {
        let variables = of(&[
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/all.pem"),
            ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/traces.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
        ]);
        let files = variables.tls_files();
        assert_eq!(files.authorities, Some("/traces.pem".into()));
        assert_eq!((files.certificate, files.key), (None, Some("/key.pem".into())));
        assert_eq!(variables.timeout(), Duration::from_millis(1_500));
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")]).timeout(), EXPORT_TIMEOUT);
    }

    #[test]
    fn what_is_honoured_is_not_complained_of() {
        let pairs = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://b"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/key.pem"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_SERVICE_NAME", "x"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ("OTEL_PROPAGATORS", "tracecontext,baggage"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_SDK_DISABLED", "false"),
            ("PATH", "x"),
        ];
        assert_eq!(plan(None, &of(&pairs)).warnings, Vec::<String>::new());
    }
}
