//! Logs and traces: one set-up for the process, and the W3C Trace Context that crosses hops.
//!
//! Spans are exported over OTLP (HTTP, protobuf) when an endpoint is configured, and cost next to
//! nothing when not. Content is never recorded; that is the callers' duty, and a test's.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::io::IsTerminal;
use std::time::Duration;
use thiserror::Error;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// How the process is observed.
#[derive(Debug, Clone)]
pub struct Config {
    /// A `tracing` filter such as `info` or `router=debug,info`.
    pub log_filter: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where spans go, e.g. `http://127.0.0.1:4318`; `None` exports nothing.
    pub otlp_endpoint: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why observation could not be set up.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The filter does not parse.
    #[error("reading the log filter {filter:?}; an example is `router=debug,info`")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The exporter could not be built.
    #[error("setting up the export of traces to {endpoint}")]
    Exporter {
        /// Where they were to go.
        endpoint: String,
        /// What is wrong.
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

/// Sets up logs and traces for the process. Call it once, outside any async runtime.
///
/// # Errors
/// A filter that does not parse, an endpoint that is no URL, or a second call.
pub fn init(config: &Config) -> Result<Guard, TraceError> {
    let filter = EnvFilter::try_new(&config.log_filter)
        .map_err(|source| TraceError::Filter { filter: config.log_filter.clone(), source })?;
    let provider = config.otlp_endpoint.as_deref().map(provider).transpose()?;
    let spans =
        provider.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("forebay")));
    let is_terminal = std::io::stderr().is_terminal();
    let json = match config.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !is_terminal,
    };
    // Standard output belongs to what a command prints; logs go to standard error.
    let lines = if json {
        fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(std::io::stderr).boxed()
    } else {
        fmt::layer().with_ansi(is_terminal).with_writer(std::io::stderr).boxed()
    };
    tracing_subscriber::registry().with(filter).with(spans).with(lines).try_init().map_err(|_| TraceError::Twice)?;
    Ok(Guard { provider })
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider, TraceError> {
    let traces_url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(traces_url)
        .build()
        .map_err(|source| TraceError::Exporter { endpoint: endpoint.into(), source })?;
    let resource = Resource::builder().with_service_name("forebay").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
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

/// The trace id of the current span, for logs and error reports; `None` where nothing is recorded.
#[must_use]
pub fn current_trace_id() -> Option<String> {
    let context = tracing::Span::current().context();
    let span = context.span().span_context().clone();
    span.is_valid().then(|| span.trace_id().to_string())
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
