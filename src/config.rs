//! What was configured, and what it means: TOML file < environment < flag, into one typed value.
//!
//! Every key of every table can be set in all three ways: `[router] workers = […]` in the file,
//! `FOREBAY_ROUTER__WORKERS='["http://…"]'` in the environment (two underscores part the levels),
//! `--set router.workers='[…]'` or a flag of its own on the command line. Unknown keys are errors.

use anyhow::{Context, anyhow, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;
use toml::{Table, Value};

/// The prefix of the environment's keys.
const PREFIX: &str = "FOREBAY_";

/// Everything that can be configured.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The front door.
    pub(crate) router: router::RouterConfig,
    /// The process that computes.
    pub(crate) worker: worker::config::WorkerConfig,
    /// How models are read from storage.
    pub(crate) loader: loader::LoaderConfig,
    /// Whose models are loaded.
    pub(crate) trust: policy::TrustConfig,
    /// Logs and traces.
    pub(crate) telemetry: TelemetryConfig,
}

/// Logs and traces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TelemetryConfig {
    /// What to log. `info` says what happened to the process, not to each request's steps.
    pub(crate) log_filter: String,
    /// How log lines look. `auto` is text on a terminal and JSON elsewhere, since machines read
    /// the latter.
    pub(crate) log_format: LogFormat,
    /// Where OTLP spans go, e.g. `http://127.0.0.1:4318`. Empty by default: nothing leaves the
    /// machine unasked. `OTEL_EXPORTER_OTLP_ENDPOINT` is honoured too.
    pub(crate) otlp_endpoint: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log_filter: "info".into(), log_format: LogFormat::Auto, otlp_endpoint: None }
    }
}

impl TelemetryConfig {
    pub(crate) fn to_trace(&self, otel_endpoint: Option<String>) -> telemetry::trace::Config {
        telemetry::trace::Config {
            log_filter: self.log_filter.clone(),
            log_format: match self.log_format {
                LogFormat::Auto => telemetry::trace::LogFormat::Auto,
                LogFormat::Text => telemetry::trace::LogFormat::Text,
                LogFormat::Json => telemetry::trace::LogFormat::Json,
            },
            otlp_endpoint: self.otlp_endpoint.clone().or(otel_endpoint),
        }
    }
}

/// A key set on the command line: its path and its text.
pub(crate) type Setting = (String, String);

/// Joins the three layers.
///
/// # Errors
/// A file that cannot be read, an unknown key or a wrong type: the message names the key and
/// where it came from.
pub(crate) fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    settings: &[Setting],
) -> anyhow::Result<Config> {
    let mut table = match file {
        None => Table::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            let table: Table = text.parse().with_context(|| format!("reading {}", path.display()))?;
            // Checked on its own, so that an error in the file names the file.
            parse(table.clone()).with_context(|| format!("reading {}", path.display()))?;
            table
        }
    };
    let schema = serde_json::to_value(schemars::schema_for!(Config)).context("describing the configuration")?;
    for (name, text) in environment {
        let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| rest.contains("__")) else { continue };
        let path = rest.to_ascii_lowercase().replace("__", ".");
        set(&mut table, &schema, &path, &text).with_context(|| format!("reading the environment variable {name}"))?;
    }
    for (path, text) in settings {
        set(&mut table, &schema, path, text).with_context(|| format!("setting {path}"))?;
    }
    parse(table)
}

fn parse(table: Table) -> anyhow::Result<Config> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        anyhow!("the key `{path}`: {}", error.into_inner())
    })
}

/// Splits `KEY=VALUE`.
pub(crate) fn setting(text: &str) -> anyhow::Result<Setting> {
    match text.split_once('=') {
        Some((path, value)) if !path.trim().is_empty() => Ok((path.trim().into(), value.into())),
        _ => bail!("--set takes KEY=VALUE, e.g. router.listen.connections_max=200, not {text:?}"),
    }
}

fn set(table: &mut Table, schema: &serde_json::Value, path: &str, text: &str) -> anyhow::Result<()> {
    let value = if takes_string(schema, path)? { Value::String(text.into()) } else { typed(text) };
    let mut parts: Vec<&str> = path.split('.').collect();
    let Some(last) = parts.pop() else { bail!("an empty key") };
    let mut at = table;
    for part in parts {
        let entry = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        at = entry.as_table_mut().ok_or_else(|| anyhow!("`{part}` in `{path}` is not a table"))?;
    }
    at.insert(last.into(), value);
    Ok(())
}

/// A value as TOML spells it, or the text itself where it is no TOML.
fn typed(text: &str) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.into()))
}

/// Whether the schema wants a string at `path`: a key that looks like a number stays text.
fn takes_string(schema: &serde_json::Value, path: &str) -> anyhow::Result<bool> {
    let mut node = schema;
    for part in path.split('.') {
        node = resolve(schema, node);
        let properties = node.get("properties").and_then(|value| value.as_object());
        node = match properties.and_then(|properties| properties.get(part)) {
            Some(next) => next,
            None => {
                let known: Vec<&str> = properties.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                bail!("there is no key `{part}` in `{path}`; known here: {}", known.join(", "));
            }
        };
    }
    let node = resolve(schema, node);
    let is_string = |value: &serde_json::Value| value == "string";
    Ok(match node.get("type") {
        Some(serde_json::Value::Array(types)) => types.iter().any(is_string),
        Some(one) => is_string(one),
        None => node.get("oneOf").is_some() || node.get("enum").is_some(),
    })
}

/// Follows `$ref` and the one non-null branch of `anyOf`.
fn resolve<'a>(root: &'a serde_json::Value, node: &'a serde_json::Value) -> &'a serde_json::Value {
    if let Some(name) = node.get("$ref").and_then(|value| value.as_str()) {
        let target = name.trim_start_matches('#');
        return root.pointer(target).map_or(node, |next| resolve(root, next));
    }
    let branches = node.get("anyOf").and_then(|value| value.as_array());
    let branch = branches
        .and_then(|branches| branches.iter().find(|branch| branch.get("type").is_none_or(|kind| kind != "null")));
    branch.map_or(node, |next| resolve(root, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_env(pairs: &[(&str, &str)], settings: &[(&str, &str)]) -> anyhow::Result<Config> {
        let settings: Vec<Setting> = settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        load(None, pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())), &settings)
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("forebay.toml");
        std::fs::write(
            &path,
            "[telemetry]\nlog_filter = \"file\"\nlog_format = \"json\"\n[router.listen]\nconnections_max = 1\n",
        )
        .expect("writes");
        let environment = [("FOREBAY_TELEMETRY__LOG_FILTER", "env"), ("FOREBAY_ROUTER__LISTEN__CONNECTIONS_MAX", "2")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = [("router.listen.connections_max".to_owned(), "3".to_owned())];
        let config = load(Some(&path), environment.into_iter(), &settings).expect("loads");
        assert_eq!(config.telemetry.log_filter, "env");
        assert_eq!(config.telemetry.log_format, LogFormat::Json);
        assert_eq!(config.router.listen.connections_max, 3);
    }

    #[test]
    fn an_unknown_key_is_named_wherever_it_comes_from() {
        for result in [load_env(&[("FOREBAY_ROUTER__NOVELTY", "1")], &[]), load_env(&[], &[("router.novelty", "1")])] {
            let text = format!("{:#}", result.expect_err("refused"));
            assert!(text.contains("novelty") && text.contains("listen"), "{text}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("forebay.toml");
        std::fs::write(&path, "[router]\nnovelty = 1\n").expect("writes");
        let text = format!("{:#}", load(Some(&path), std::iter::empty(), &[]).expect_err("refused"));
        assert!(text.contains("forebay.toml") && text.contains("novelty"), "{text}");
    }

    #[test]
    fn a_key_that_looks_like_a_number_stays_text() {
        let config = load_env(&[("FOREBAY_ROUTER__WORKER_API_KEY", "12345")], &[]).expect("loads");
        let text = serde_json::to_value(&config.router).expect("json").to_string();
        assert!(!text.contains("12345,"), "a number: {text}");
    }

    #[test]
    fn the_configuration_that_kubernetes_mounts_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s/base/forebay.toml");
        let keys = ["FOREBAY_ROUTER__WORKER_API_KEY", "FOREBAY_WORKER__API_KEY"];
        let environment = keys.map(|name| (name.to_owned(), "a key".to_owned()));
        let config = load(Some(&path), environment.into_iter(), &[]).expect("loads");
        assert_eq!(config.worker.problem(), None);
        assert!(config.router.workers.len() >= 2, "{:?}", config.router.workers);
    }

    #[test]
    fn a_wrong_type_names_the_key() {
        let text = format!("{:#}", load_env(&[], &[("router.listen.connections_max", "many")]).expect_err("refused"));
        assert!(text.contains("router.listen.connections_max"), "{text}");
    }
}
