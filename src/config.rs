//! The configuration: TOML file < environment < flag, in one typed value.
//!
//! Every key of every table can be set in all three ways: `[router] workers = […]` in the file,
//! `FOREBAY_ROUTER__WORKERS='["http://…"]'` in the environment (two underscores part the levels),
//! `--set router.workers='[…]'` or a flag of its own on the command line. Unknown keys are errors.

mod environment;
mod schema;

use crate::fleet::FleetConfig;
use anyhow::{Context, anyhow, bail};
use listen::{ClientTls, ClientTlsConfig};
use rustls::ClientConfig;
pub(crate) use schema::Schema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use telemetry::trace::TlsFiles;
use toml::{Table, Value};
use wire::Chain;

/// The version of the configuration's keys that this release reads and writes.
const VERSION: u32 = 1;
/// Keys that were renamed, with the names they have now. The old ones go on working for one release, with a warning.
const RENAMED: &[(&str, &str)] = &[("worker.kv_cache_bytes", "worker.kv_cache_memory_bytes")];

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The version of these keys. A file of a newer version than this release reads is refused.
    pub(crate) config_version: u32,
    /// The front door.
    pub(crate) router: router::RouterConfig,
    /// The process that computes.
    pub(crate) worker: worker::config::WorkerConfig,
    /// This machine's cache for other engines, without a worker.
    pub(crate) node: seeding::hub::NodeConfig,
    /// Reading models from storage.
    pub(crate) loader: loader::LoaderConfig,
    /// The models that may be loaded, by who vouches for them.
    pub(crate) trust: policy::TrustConfig,
    /// The fleet, as far as models are loaded from it.
    pub(crate) peers: FleetConfig,
    /// Logs and traces.
    pub(crate) telemetry: TelemetryConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            config_version: VERSION,
            router: router::RouterConfig::default(),
            worker: worker::config::WorkerConfig::default(),
            node: seeding::hub::NodeConfig::default(),
            loader: loader::LoaderConfig::default(),
            trust: policy::TrustConfig::default(),
            peers: FleetConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Config {
    /// Everything that is wrong with it, whichever command it is for.
    pub(crate) fn problems(&self) -> Vec<String> {
        let router = router::check(&self.router).err().map(|error| Chain(&error).to_string());
        let trust = policy::Trust::new(&self.trust).err().map(|error| Chain(&error).to_string());
        let telemetry = telemetry::trace::check(&self.telemetry.to_trace()).err();
        let telemetry = telemetry.map(|error| Chain(&error).to_string());
        [router, self.worker.problem(), self.node.problem(), trust, self.peers.problem(), telemetry]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Logs and traces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TelemetryConfig {
    /// The log's filter. `info` tells of the process, with one line for each request. Traces do not depend on it.
    pub(crate) log_filter: String,
    /// The format of log lines. `auto` is text on a terminal and JSON elsewhere, since machines read the latter.
    pub(crate) log_format: LogFormat,
    /// The collector of OTLP spans, e.g. `http://127.0.0.1:4318`. Absent by default: nothing leaves the machine
    /// unasked. OpenTelemetry's own variables are honoured too (docs/metrics.md lists them).
    pub(crate) otlp_endpoint: Option<String>,
}

/// The format of log lines.
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
    pub(crate) fn to_trace(&self) -> telemetry::trace::Config {
        telemetry::trace::Config {
            log_filter: self.log_filter.clone(),
            log_format: match self.log_format {
                LogFormat::Auto => telemetry::trace::LogFormat::Auto,
                LogFormat::Text => telemetry::trace::LogFormat::Text,
                LogFormat::Json => telemetry::trace::LogFormat::Json,
            },
            otlp_endpoint: self.otlp_endpoint.clone(),
            variables: telemetry::trace::Variables::of_process(),
            tls: collector_tls,
        }
    }
}

fn collector_tls(files: &TlsFiles) -> Result<Arc<ClientConfig>, String> {
    let config = ClientTlsConfig {
        ca_file: files.authorities.clone(),
        certificate_file: files.certificate.clone(),
        key_file: files.key.clone(),
        ..ClientTlsConfig::default()
    };
    ClientTls::new(&config).map(|tls| tls.current()).map_err(|error| Chain(&error).to_string())
}

/// A key set on the command line: its path and its text.
pub(crate) type Setting = (String, String);

/// A configuration, and what its author should know of it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) warnings: Vec<String>,
}

/// Joins the three layers.
///
/// # Errors
/// A file that cannot be read, an unknown key or a wrong type: the message names the key and where it came from, and
/// repeats no secret.
pub(crate) fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    settings: &[Setting],
) -> anyhow::Result<Loaded> {
    let schema = Schema::of_config();
    let mut warnings = Vec::new();
    let mut table = match file {
        None => Table::new(),
        Some(path) => read(path, &schema, &mut warnings).with_context(|| format!("reading {}", path.display()))?,
    };
    let read = environment::read(environment, &schema)?;
    warnings.extend(read.warnings);
    for (name, path, text) in read.settings {
        let from = || format!("reading the environment variable {name}");
        set(&mut table, &schema, renamed(&path, &mut warnings), &text).with_context(from)?;
    }
    for (path, text) in settings {
        set(&mut table, &schema, renamed(path, &mut warnings), text).with_context(|| format!("setting {path}"))?;
    }
    Ok(Loaded { config: parse(table, &schema)?, warnings })
}

/// The table of a file, checked on its own, so that an error in the file names the file.
fn read(path: &Path, schema: &Schema, warnings: &mut Vec<String>) -> anyhow::Result<Table> {
    let text = std::fs::read_to_string(path)?;
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| anyhow!(without_the_text(&text, &error)))?;
    for (old, new) in RENAMED {
        let Some(value) = take(&mut table, old) else { continue };
        if get(&table, new).is_some() {
            bail!("`{old}` is the old name of `{new}`, and both are given: keep the latter");
        }
        warnings.push(format!("`{old}` in {} is now called `{new}`", path.display()));
        put(&mut table, new, value)?;
    }
    parse(table.clone(), schema)?;
    Ok(table)
}

/// Describes a syntax error by its place, without the file's text: a line of it may hold a secret.
fn without_the_text(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {}", error.message())
}

fn parse(table: Table, schema: &Schema) -> anyhow::Result<Config> {
    let table = over_defaults(table);
    let config: Config = serde_path_to_error::deserialize(Value::Table(table.clone()))
        .map_err(|error| anyhow!(schema.explain(&Value::Table(table), &error)))?;
    if config.config_version > VERSION {
        bail!(
            "the key `config_version`: {} is newer than {VERSION}, which is what this release reads; use a newer release",
            config.config_version
        );
    }
    Ok(config)
}

/// A table that is given in part has the defaults of its place for the rest, not those of its type: a worker's
/// listener has another address than a router's.
fn over_defaults(given: Table) -> Table {
    let mut table = Table::try_from(Config::default()).expect("the defaults are TOML");
    lay_over(&mut table, given);
    table
}

fn lay_over(table: &mut Table, given: Table) {
    for (key, value) in given {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// The name that a key has now.
fn renamed<'a>(path: &'a str, warnings: &mut Vec<String>) -> &'a str {
    match RENAMED.iter().find(|(old, _)| *old == path) {
        Some((old, new)) => {
            warnings.push(format!("`{old}` is now called `{new}`"));
            new
        }
        None => path,
    }
}

/// Splits `KEY=VALUE`.
pub(crate) fn setting(text: &str) -> anyhow::Result<Setting> {
    match text.split_once('=') {
        Some((path, value)) if !path.trim().is_empty() => Ok((path.trim().into(), value.into())),
        _ => bail!("--set takes KEY=VALUE, e.g. router.listen.connections_max=200"),
    }
}

fn set(table: &mut Table, schema: &Schema, path: &str, text: &str) -> anyhow::Result<()> {
    let value = if schema.takes_string(path)? { Value::String(text.into()) } else { typed(text) };
    put(table, path, value)
}

/// A value as TOML spells it, or the text itself where it is no TOML.
fn typed(text: &str) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.into()))
}

fn put(table: &mut Table, path: &str, value: Value) -> anyhow::Result<()> {
    let (tables, last) = path.rsplit_once('.').map_or((None, path), |(tables, last)| (Some(tables), last));
    let mut at = table;
    for part in tables.into_iter().flat_map(|tables| tables.split('.')) {
        let entry = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        at = entry.as_table_mut().ok_or_else(|| anyhow!("`{part}` in `{path}` is not a table"))?;
    }
    at.insert(last.into(), value);
    Ok(())
}

fn get<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        None => table.get(path),
        Some((first, rest)) => get(table.get(first)?.as_table()?, rest),
    }
}

fn take(table: &mut Table, path: &str) -> Option<Value> {
    match path.split_once('.') {
        None => table.remove(path),
        Some((first, rest)) => take(table.get_mut(first)?.as_table_mut()?, rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_env(pairs: &[(&str, &str)], settings: &[(&str, &str)]) -> anyhow::Result<Config> {
        let settings: Vec<Setting> = settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        Ok(load(None, environment(pairs), &settings)?.config)
    }

    fn environment(pairs: &[(&str, &str)]) -> impl Iterator<Item = (OsString, OsString)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into()))
    }

    fn load_file(text: &str) -> anyhow::Result<Loaded> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("forebay.toml");
        std::fs::write(&path, text).expect("writes");
        load(Some(&path), std::iter::empty(), &[])
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
        let variables = [("FOREBAY_TELEMETRY__LOG_FILTER", "env"), ("FOREBAY_ROUTER__LISTEN__CONNECTIONS_MAX", "2")];
        let settings = [("router.listen.connections_max".to_owned(), "3".to_owned())];
        let config = load(Some(&path), environment(&variables), &settings).expect("loads").config;
        assert_eq!(config.telemetry.log_filter, "env");
        assert_eq!(config.telemetry.log_format, LogFormat::Json);
        assert_eq!(config.router.listen.connections_max, 3);
    }

    #[test]
    fn one_key_of_a_table_leaves_the_others_at_their_defaults() {
        fn keys(at: &str, table: &Table, found: &mut Vec<(String, Value)>) {
            for (key, value) in table {
                let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                match value {
                    Value::Table(inner) => keys(&path, inner, found),
                    value => found.push((path, value.clone())),
                }
            }
        }
        let defaults = Table::try_from(Config::default()).expect("TOML");
        let mut found = Vec::new();
        keys("", &defaults, &mut found);
        assert!(found.iter().any(|(path, _)| path == "worker.listen.connections_max"));
        for (path, value) in found {
            let mut table = Table::new();
            put(&mut table, &path, value).expect("a path");
            let config = parse(table, &Schema::of_config()).unwrap_or_else(|error| panic!("{path}: {error:#}"));
            assert_eq!(Table::try_from(config).expect("TOML"), defaults, "{path}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_wherever_it_comes_from() {
        for result in [load_env(&[("FOREBAY_ROUTER__NOVELTY", "1")], &[]), load_env(&[], &[("router.novelty", "1")])] {
            let text = format!("{:#}", result.expect_err("refused"));
            assert!(text.contains("novelty") && text.contains("listen"), "{text}");
        }
        let text = format!("{:#}", load_file("[router]\nnovelty = 1\n").expect_err("refused"));
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
        // The zone of a pod is empty where Kubernetes does not tell it.
        let variables = [
            ("FOREBAY_ROUTER__WORKER_API_KEY", "a key"),
            ("FOREBAY_WORKER__API_KEY", "a key"),
            ("FOREBAY_WORKER__PEERS__ZONE", ""),
            ("FOREBAY_NODE__PEERS__ZONE", ""),
        ];
        for folder in ["base", "overlays/tls", "overlays/peers", "overlays/node"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s").join(folder).join("forebay.toml");
            let config = load(Some(&path), environment(&variables), &[]).expect("loads").config;
            assert_eq!(config.problems(), Vec::<String>::new(), "{folder}");
            let finds_workers = config.router.workers.len() >= 2 || config.router.discovery.is_on();
            let finds_nodes = folder == "overlays/node" && config.peers.discovery.is_on();
            assert!(finds_workers || finds_nodes, "{folder}");
        }
    }

    #[test]
    fn a_wrong_type_names_the_key() {
        let text = format!("{:#}", load_env(&[], &[("router.listen.connections_max", "many")]).expect_err("refused"));
        assert!(text.contains("router.listen.connections_max"), "{text}");
    }

    #[test]
    fn errors_say_what_is_wanted_in_the_words_of_the_file() {
        for (text, words) in [
            ("[router]\nlisten = \"x\"\n", &["router.listen", "a table", "address"][..]),
            ("[router.listen]\nconnections_max = \"many\"\n", &["\"many\"", "a whole number"]),
            ("[router.listen]\nconnections_max = -1\n", &["-1", "a whole number"]),
            ("[router]\nworkers = 1\n", &["a list"]),
            ("[router.retry]\nratio = true\n", &["true", "a number"]),
            ("[worker]\nenable_prefix_caching = 1\n", &["true or false"]),
            ("[telemetry]\nlog_format = \"xml\"\n", &["xml", "auto", "json"]),
            ("[router.listen]\naddress = \":8080\"\n", &["router.listen.address", "0.0.0.0:8080"]),
        ] {
            let told = format!("{:#}", load_file(text).expect_err(text));
            assert!(words.iter().all(|word| told.contains(word)), "{text}: {told}");
            for rust in ["struct", "Config", "usize", "u64", "f64", "enum", "sequence", "invalid type"] {
                assert!(!told.contains(rust), "{text}: {told}");
            }
        }
        assert_eq!(
            load_file("[router.listen]\naddress = \"localhost:80\"\n")
                .expect("loads")
                .config
                .router
                .listen
                .address
                .port(),
            80
        );
    }

    #[test]
    fn an_error_repeats_no_secret() {
        for text in [
            "[worker]\napi_key = 90125\n",
            "[worker]\napi_key = \"90125\n",
            "[worker]\napi_key = [\"90125\"]\n",
            "[router.policy.deny_list]\nphrases = \"90125\"\n",
            "[router.policy.deny_list]\nphrases = [90125]\n",
            "[[router.policy.tenants]]\nname = \"a\"\nkey_sha256 = \"90125\"\n",
            "[router.policy]\ntenants = \"90125\"\n",
            "[router.policy]\ntenants = [\"90125\"]\n",
            "[router.policy]\ndeny_list = 90125\n",
            "[router]\npolicy = \"90125\"\n",
            "router = \"90125\"\n",
        ] {
            let told = format!("{:#}", load_file(text).expect_err(text));
            assert!(!told.contains("90125"), "{text}: {told}");
        }
    }

    #[test]
    fn an_old_name_goes_on_working_and_says_so() {
        let path = "worker.kv_cache_memory_bytes";
        let by_file = load_file("[worker]\nkv_cache_bytes = 7\n").expect("loads");
        let by_variable = load(None, environment(&[("FOREBAY_WORKER__KV_CACHE_BYTES", "7")]), &[]).expect("loads");
        let by_flag = load(None, std::iter::empty(), &[("worker.kv_cache_bytes".into(), "7".into())]).expect("loads");
        for Loaded { config, warnings } in [by_file, by_variable, by_flag] {
            assert_eq!(config.worker.kv_cache_memory_bytes, Some(7));
            assert!(warnings.len() == 1 && warnings[0].contains(path), "{warnings:?}");
        }
        let both = load_file("[worker]\nkv_cache_bytes = 7\nkv_cache_memory_bytes = 8\n").expect_err("refused");
        assert!(format!("{both:#}").contains(path), "{both:#}");
    }

    #[test]
    fn the_configuration_says_its_version_and_a_newer_one_is_refused() {
        assert_eq!(Config::default().config_version, VERSION);
        assert_eq!(load_file("config_version = 1\n").expect("loads").config.config_version, 1);
        let told = format!("{:#}", load_file("config_version = 2\n").expect_err("refused"));
        assert!(told.contains("newer release"), "{told}");
    }
}
