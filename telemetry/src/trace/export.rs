//! Export of spans: its endpoint by the configuration and OpenTelemetry's own variables, and an exporter whose failures
//! are seen.

use super::TraceError;
use crate::{mask, names};
use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The usual address of a collector on this machine.
const USUAL_ENDPOINT: &str = "http://localhost:4318";
/// The path of OTLP over HTTP.
const TRACES_PATH: &str = "/v1/traces";
/// Our name where nobody gives another.
const SERVICE_NAME: &str = "forebay";

/// Variables that are honoured here or by OpenTelemetry's SDK.
const HONOURED: [&str; 21] = [
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
        if url.starts_with("http://") {
            return Some(url);
        }
        let fix = "TLS is not spoken to collectors; give an http:// URL, e.g. of a collector beside that speaks it";
        warnings.push(format!("{name} is {}: no spans are exported; {fix}", mask(&url)));
        None
    });
    Plan { url, warnings }
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

/// A provider that sends spans to `url`.
pub(super) fn provider(url: &str, variables: &Variables) -> Result<SdkTracerProvider, TraceError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
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
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "hush"),
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
        let tls = plan(None, &of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:hush@h")]));
        assert!(tls.url.is_none() && tls.warnings.len() == 1 && !tls.warnings[0].contains("hush"), "{tls:?}");
        assert!(tls.warnings[0].starts_with("OTEL_EXPORTER_OTLP_ENDPOINT is https://"), "{tls:?}");
    }

    #[test]
    fn what_is_honoured_is_not_complained_of() {
        let pairs = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://b"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
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
