//! The configuration as it may be shown: in a terminal, a ticket, a support bundle.

use crate::config::{Config, Schema};
use anyhow::Context;
use serde_json::Value as Json;
use toml::Value;

/// The text that stands for a secret.
const REDACTED: &str = "[redacted]";

/// The configuration as TOML, without what its schema calls secret and without passwords in URLs.
///
/// # Errors
/// None that is expected: what was read can be written.
pub(crate) fn shown(config: &Config) -> anyhow::Result<String> {
    let schema = Schema::of_config();
    let mut value = Value::try_from(config).context("writing the configuration")?;
    redact(&schema, schema.json(), &mut value);
    toml::to_string(&value).context("writing the configuration")
}

fn redact(schema: &Schema, node: &Json, value: &mut Value) {
    let is_secret = schema.is_secret(node);
    match value {
        Value::Array(items) if is_secret => {
            // How many there are is no secret, and twenty thousand lines help nobody.
            let count = items.len();
            items.clear();
            if count > 0 {
                items.push(Value::String(format!("{REDACTED}: {count} entries")));
            }
        }
        value if is_secret => *value = Value::String(REDACTED.into()),
        Value::Table(table) => {
            for (name, value) in table.iter_mut() {
                redact(schema, schema.property(node, name).unwrap_or(&Json::Null), value);
            }
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|value| redact(schema, schema.items(node).unwrap_or(&Json::Null), value));
        }
        Value::String(text) => *text = telemetry::mask(text).into_owned(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn nothing_secret_is_shown() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("forebay.toml");
        let digest = policy::hash_key("canary");
        let text = format!(
            "[router]\nworkers = [\"http://user:canary@127.0.0.1:1\"]\nworker_api_key = \"canary\"\n\
             admin_api_key = \"canary\"\n[worker]\napi_key = \"canary\"\nadmin_api_key = \"canary\"\n\
             [telemetry]\notlp_endpoint = \"http://canary@127.0.0.1:4318\"\n\
             [router.policy.deny_list]\nphrases = [\"canary\", \"nightjar\"]\n\
             [[router.policy.tenants]]\nname = \"red\"\nkey_sha256 = [\"{digest}\"]\n"
        );
        std::fs::write(&path, text).expect("writes");
        let config = load(Some(&path), std::iter::empty(), &[]).expect("loads").config;
        let shown = shown(&config).expect("is written");
        assert!(!shown.contains("canary") && !shown.contains("nightjar") && !shown.contains(&digest), "{shown}");
        assert!(shown.contains("2 entries") && shown.contains("red") && shown.contains("127.0.0.1:4318"), "{shown}");
    }

    /// A new key that sounds secret must be listed as secret or as harmless.
    #[test]
    fn every_key_that_sounds_secret_is_one() {
        let schema = Schema::of_config();
        let public = [
            "trust.keys",
            "router.policy.wrong_keys",
            "worker.tokenizer",
            // Paths, not what is there.
            "router.listen.tls.key_file",
            "router.worker_tls.key_file",
            "worker.listen.tls.key_file",
            "worker.peers.tls.key_file",
            "peers.tls.key_file",
            "peers.discovery.kubernetes_token_file",
            "router.discovery.kubernetes_token_file",
            "node.listen.tls.key_file",
            "node.peers.tls.key_file",
            "worker.tokenizer",
        ];
        let mut wrong = Vec::new();
        let mut todo = vec![(String::new(), schema.json().clone())];
        while let Some((path, node)) = todo.pop() {
            let own = schema.items(&node).unwrap_or(&node).clone();
            let names = own.get("properties").or_else(|| node.get("properties")).and_then(Json::as_object).cloned();
            for (name, child) in names.into_iter().flatten() {
                let path = format!("{path}.{name}");
                let sounds = ["key", "secret", "token", "password", "phrase", "sha256"];
                let is_text = !child.to_string().contains("\"integer\"");
                let sounds = sounds.iter().any(|word| name.contains(word)) && is_text;
                if sounds && !schema.is_secret(&child) && !public.contains(&path.trim_start_matches('.')) {
                    wrong.push(path.clone());
                }
                todo.push((path, schema.resolved(&child)));
            }
        }
        assert_eq!(wrong, Vec::<String>::new());
    }
}
