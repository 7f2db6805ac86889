//! Logs and traces: one set-up for the process, and the W3C Trace Context that crosses hops.
//!
//! Spans are exported over OTLP (HTTP, protobuf) when an endpoint is configured, and cost next to
//! nothing when not. Content is never recorded; that is the callers' duty, and a test's.

mod export;

use crate::terminal::{self, LogWriter};
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry::{Array, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use rustls::ClientConfig;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

pub(crate) use export::ExportCollector;
pub use export::Variables;

/// The set-up of logs and traces.
#[derive(Debug, Clone)]
pub struct Config {
    /// A `tracing` filter such as `info` or `router=debug,info`.
    pub log_filter: String,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// The collector of spans, e.g. `http://127.0.0.1:4318`; if absent, the variables decide.
    pub otlp_endpoint: Option<String>,
    /// OpenTelemetry's own variables.
    pub variables: Variables,
    /// Makes the settings of TLS with a collector at an `https://` URL, or says what is wrong with the files.
    pub tls: fn(&TlsFiles) -> Result<Arc<ClientConfig>, String>,
}

/// PEM files for TLS with a collector, as OpenTelemetry's variables name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities to trust, in place of the system's.
    pub authorities: Option<PathBuf>,
    /// The certificate to show.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Errors of setting up logs and traces.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The filter does not parse.
    #[error("reading the log filter {filter:?}; an example is `router=debug,info`")]
    Filter {
        /// The filter as given.
        filter: String,
        /// The parser's error.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The endpoint is one that we cannot reach.
    #[error("`telemetry.otlp_endpoint` is {endpoint:?}: give an http:// or https:// URL, e.g. http://localhost:4318")]
    Endpoint {
        /// The endpoint as given, without secrets.
        endpoint: String,
    },
    /// TLS with the collector could not be set up.
    #[error("setting up the export of traces to {endpoint}: {problem}")]
    Tls {
        /// The endpoint, without secrets.
        endpoint: String,
        /// The file and what is wrong with it.
        problem: String,
    },
    /// The exporter could not be built.
    #[error("setting up the export of traces to {endpoint}")]
    Exporter {
        /// The endpoint, without secrets.
        endpoint: String,
        /// The exporter's error.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// Somebody set up logging before.
    #[error("setting up logging: it is set up already")]
    Twice,
}

/// Flushes what is still to be exported, within a bound, when dropped.
#[derive(Debug)]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            // A collector that is gone must not keep the process from ending.
            let _ = provider.shutdown_with_timeout(Duration::from_secs(3));
        }
    }
}

/// Checks what [`init`] would refuse.
///
/// # Errors
/// A filter that does not parse, or an endpoint that is no HTTP URL.
pub fn check(config: &Config) -> Result<(), TraceError> {
    filter(config)?;
    match &config.otlp_endpoint {
        Some(endpoint) if !export::is_endpoint(endpoint) => {
            Err(TraceError::Endpoint { endpoint: crate::mask(endpoint).into_owned() })
        }
        _ => Ok(()),
    }
}

fn filter(config: &Config) -> Result<EnvFilter, TraceError> {
    EnvFilter::try_new(&config.log_filter)
        .map_err(|source| TraceError::Filter { filter: config.log_filter.clone(), source })
}

/// Sets up logs and traces for the process. Call it once, outside any async runtime.
///
/// # Errors
/// A filter that does not parse, an endpoint that is no URL, or a second call.
pub fn init(config: &Config) -> Result<Guard, TraceError> {
    check(config)?;
    let mut plan = export::plan(config.otlp_endpoint.as_deref(), &config.variables);
    let provider = match plan.url.as_deref().map(|url| provider(url, config)).transpose() {
        Ok(provider) => provider,
        // A platform sets variables for all its programs: none ends for them.
        Err(error @ TraceError::Tls { .. }) if config.otlp_endpoint.is_none() => {
            plan.warnings.push(format!("no spans are exported: {error}"));
            None
        }
        Err(error) => return Err(error),
    };
    let spans = provider.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("forebay"));
        // Whatever is logged: a quiet log must not cut traces. Libraries' own spans are not ours to export.
        layer.with_location(false).with_threads(false).with_filter(filter_fn(|metadata| {
            *metadata.level() <= tracing::Level::INFO && !is_of_a_library(metadata.target())
        }))
    });
    let json = match config.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::IsTerminal::is_terminal(&std::io::stderr()),
    };
    // Standard output belongs to what a command prints; logs go to standard error.
    let lines = if json {
        fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(LogWriter::default).boxed()
    } else {
        fmt::layer().with_ansi(terminal::has_colours()).with_writer(LogWriter::default).boxed()
    };
    tracing_subscriber::registry()
        .with(spans)
        .with(lines.with_filter(filter(config)?))
        .try_init()
        .map_err(|_| TraceError::Twice)?;
    plan.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(Guard { provider })
}

fn provider(url: &str, config: &Config) -> Result<SdkTracerProvider, TraceError> {
    export::provider(url, export::tls(url, config)?, &config.variables)
}

fn is_of_a_library(target: &str) -> bool {
    let library = target.split("::").next().unwrap_or_default();
    ["h2", "hyper", "hyper_util", "opentelemetry", "opentelemetry_sdk", "reqwest", "rustls", "tokio", "tower"]
        .contains(&library)
}

/// Marks the end of a span that outlives the code which entered it, such as that of a streamed answer: a span ends
/// when it was last entered.
pub fn ends_now(span: &tracing::Span) {
    span.in_scope(|| ());
}

/// Names a span anew, where its name is known only later.
pub fn rename(span: &tracing::Span, name: &str) {
    span.context().span().update_name(name.to_owned());
}

/// Adds an attribute to a span's export. The log does not show it.
pub fn attribute(span: &tracing::Span, name: &'static str, value: impl Into<Value>) {
    span.set_attribute(name, value);
}

/// Adds a list of words to a span's export.
pub fn attribute_list(span: &tracing::Span, name: &'static str, words: impl Iterator<Item = &'static str>) {
    span.set_attribute(name, Value::Array(Array::String(words.map(Into::into).collect())));
}

/// Marks a span as failed: `error.type` is a word of a small set.
pub fn failed(span: &tracing::Span, kind: &str, message: &str) {
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", message);
}

/// Writes the current span's `traceparent` into `headers`, over one that is there. Without a
/// recording span the headers stay as they are, so that a client's context passes through.
pub fn inject(headers: &mut HeaderMap) {
    let context = tracing::Span::current().context();
    if context.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(&context, &mut Headers(headers));
    }
}

/// Makes `span` a child of the request's `traceparent`, where there is one.
pub fn parent_from(span: &tracing::Span, headers: &HeaderMap) {
    let context = TraceContextPropagator::new().extract(&HeadersRef(headers));
    if context.span().span_context().is_valid() {
        // Fails only where the span is not recorded, and then there is nothing to tie.
        let _ = span.set_parent(context);
    }
}

/// The id of a span's trace, for logs; `None` where nothing is recorded.
#[must_use]
pub fn trace_id(span: &tracing::Span) -> Option<String> {
    let context = span.context();
    let id = context.span().span_context().clone();
    id.is_valid().then(|| id.trace_id().to_string())
}

/// The id of the trace that a request's `traceparent` names, where it is well-formed.
#[must_use]
pub fn trace_id_of(headers: &HeaderMap) -> Option<String> {
    let context = TraceContextPropagator::new().extract(&HeadersRef(headers));
    let id = context.span().span_context().clone();
    id.is_valid().then(|| id.trace_id().to_string())
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

struct HeadersRef<'a>(&'a HeaderMap);

impl Extractor for HeadersRef<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_child_span_carries_the_trace_on() {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_static(PARENT));
            let span = tracing::info_span!("hop");
            parent_from(&span, &headers);
            span.in_scope(|| inject(&mut headers));
            let carried = headers["traceparent"].to_str().expect("ascii");
            assert!(carried.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{carried}");
            assert_ne!(carried, PARENT, "the hop is its own span");
        });
    }

    #[test]
    fn without_a_recorder_a_clients_context_passes_through() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static(PARENT));
        inject(&mut headers);
        assert_eq!(headers["traceparent"], PARENT);
    }
}
