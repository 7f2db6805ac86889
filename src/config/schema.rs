//! The configuration's JSON Schema as facts about keys: the type in words, and whether a key is a secret.

use super::Config;
use anyhow::bail;
use serde_json::Value as Json;
use serde_path_to_error::{Path, Segment};
use toml::Value;

/// The longest value that an error repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// The schema of the configuration.
#[derive(Debug)]
pub(crate) struct Schema(Json);

impl Schema {
    /// The schema of [`Config`].
    pub(crate) fn of_config() -> Self {
        // A schema is a tree of JSON, which always serialises.
        Self(serde_json::to_value(schemars::schema_for!(Config)).unwrap_or_default())
    }

    /// Its JSON.
    pub(crate) fn json(&self) -> &Json {
        &self.0
    }

    /// The paths of all keys that hold no further keys.
    pub(crate) fn leaves(&self) -> Vec<String> {
        let mut leaves = Vec::new();
        self.walk(&self.0, "", &mut leaves);
        leaves
    }

    fn walk(&self, node: &Json, path: &str, leaves: &mut Vec<String>) {
        for (name, child) in self.properties(node) {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if self.is_table(child) { self.walk(child, &path, leaves) } else { leaves.push(path) }
        }
    }

    /// Returns true if the key at `path` is text: one that looks like a number stays text.
    ///
    /// # Errors
    /// There is no such key.
    pub(crate) fn takes_string(&self, path: &str) -> anyhow::Result<bool> {
        let mut node = &self.0;
        for part in path.split('.') {
            match self.properties(node).find(|(name, _)| *name == part) {
                Some((_, next)) => node = next,
                None => {
                    let known: Vec<&str> = self.properties(node).map(|(name, _)| name.as_str()).collect();
                    match nearest(part, known.iter().copied()) {
                        Some(near) => bail!("there is no key `{part}` in `{path}`; did you mean `{near}`?"),
                        None => bail!("there is no key `{part}` in `{path}`; known here: {}", known.join(", ")),
                    }
                }
            }
        }
        let node = self.resolve(node);
        Ok(match kind(node) {
            "" => node.get("oneOf").is_some() || node.get("enum").is_some(),
            kind => kind == "string",
        })
    }

    /// Explains why a value could not be read, without names that only this program's source knows.
    pub(crate) fn explain(&self, whole: &Value, error: &serde_path_to_error::Error<toml::de::Error>) -> String {
        let path = error.path();
        let (node, is_secret) = self.at(path);
        let is_secret = is_secret || node.is_some_and(|node| self.may_hold_secret(node));
        let told = error.inner().message();
        let about_type = ["invalid type", "invalid value", "invalid length", "data did not match"];
        let why = if is_secret || about_type.iter().any(|beginning| told.starts_with(beginning)) {
            let wanted = node.map_or_else(|| "something else".into(), |node| self.wanted(node));
            match value_at(whole, path).filter(|_| !is_secret) {
                Some(value) => format!("{} is not {wanted}", shown(value)),
                None => format!("it is not {wanted}"),
            }
        } else {
            told.to_owned()
        };
        match path.to_string().as_str() {
            "." => why,
            path => format!("the key `{path}`: {why}"),
        }
    }

    /// The schema of what `path` leads to, and whether a secret is on the way.
    fn at(&self, path: &Path) -> (Option<&Json>, bool) {
        let mut node = Some(&self.0);
        let mut is_secret = false;
        for segment in path {
            node = node.and_then(|node| match segment {
                Segment::Map { key } => self.properties(node).find(|(name, _)| *name == key).map(|(_, next)| next),
                Segment::Seq { .. } => self.resolve(node).get("items"),
                _ => Some(node),
            });
            is_secret |= node.is_some_and(|node| self.is_secret(node));
        }
        (node, is_secret)
    }

    /// Returns true if the value that a node describes is never shown.
    pub(crate) fn is_secret(&self, node: &Json) -> bool {
        [node, self.resolve(node)].iter().any(|node| node.get("writeOnly") == Some(&Json::Bool(true)))
    }

    /// Returns true if a value given here may hold a secret: whatever stands in the place of a table or a list of secrets.
    fn may_hold_secret(&self, node: &Json) -> bool {
        self.is_secret(node)
            || self.properties(node).any(|(_, child)| self.may_hold_secret(child))
            || self.items(node).is_some_and(|items| self.may_hold_secret(items))
    }

    /// The schema itself, where a node only names it.
    #[cfg(test)]
    pub(crate) fn resolved(&self, node: &Json) -> Json {
        self.resolve(node).clone()
    }

    /// The schema of a table's entry.
    pub(crate) fn property<'a>(&'a self, node: &'a Json, name: &str) -> Option<&'a Json> {
        self.resolve(node).get("properties")?.get(name)
    }

    /// The schema of a list's items.
    pub(crate) fn items<'a>(&'a self, node: &'a Json) -> Option<&'a Json> {
        self.resolve(node).get("items")
    }

    fn properties<'a>(&'a self, node: &'a Json) -> impl Iterator<Item = (&'a String, &'a Json)> {
        self.resolve(node).get("properties").and_then(Json::as_object).into_iter().flatten()
    }

    fn is_table(&self, node: &Json) -> bool {
        self.resolve(node).get("properties").is_some()
    }

    fn wanted(&self, node: &Json) -> String {
        let node = self.resolve(node);
        if self.is_table(node) {
            let names: Vec<&str> = self.properties(node).map(|(name, _)| name.as_str()).collect();
            return format!("a table; its keys are {}", names.join(", "));
        }
        let choices = choices(node);
        if !choices.is_empty() {
            return format!("one of {}", choices.join(", "));
        }
        match kind(node) {
            "integer" if node.get("minimum").and_then(Json::as_i64) == Some(0) => "a whole number of at least 0",
            "integer" => "a whole number",
            "number" => "a number",
            "boolean" => "true or false",
            "string" => "text in quotes",
            "array" => "a list in brackets",
            _ => "what docs/config.md describes",
        }
        .into()
    }

    /// Follows `$ref` and the one non-null branch of `anyOf`.
    fn resolve<'a>(&'a self, node: &'a Json) -> &'a Json {
        if let Some(name) = node.get("$ref").and_then(Json::as_str) {
            let target = self.0.pointer(name.trim_start_matches('#'));
            return target.map_or(node, |next| self.resolve(next));
        }
        let branches = node.get("anyOf").and_then(Json::as_array);
        let branch = branches
            .and_then(|branches| branches.iter().find(|branch| branch.get("type").is_none_or(|kind| kind != "null")));
        branch.map_or(node, |next| self.resolve(next))
    }
}

/// A node's type; of a value that may be absent, the type that it has where it is there.
fn kind(node: &Json) -> &str {
    match node.get("type") {
        Some(Json::Array(types)) => types.iter().filter_map(Json::as_str).find(|kind| *kind != "null"),
        Some(one) => one.as_str(),
        None => None,
    }
    .unwrap_or_default()
}

fn choices(node: &Json) -> Vec<String> {
    let named = node.get("enum").and_then(Json::as_array).into_iter().flatten();
    let branches = node.get("oneOf").and_then(Json::as_array).into_iter().flatten();
    let branches = branches.filter_map(|branch| branch.get("const").or_else(|| branch.get("enum")?.get(0)));
    named.chain(branches).filter_map(Json::as_str).map(|choice| format!("`{choice}`")).collect()
}

fn value_at<'a>(whole: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(whole, |value, segment| match segment {
        Segment::Map { key } => value.get(key),
        Segment::Seq { index } => value.get(index),
        _ => None,
    })
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Table(_) => return "a table".into(),
        Value::Array(_) => return "a list".into(),
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    };
    if text.chars().count() > SHOWN_CHARS_MAX { "the value".into() } else { telemetry::mask(&text).into_owned() }
}

/// The known name that somebody may have meant.
pub(crate) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &&str| strsim::damerau_levenshtein(given, name);
    known.min_by_key(distance).filter(|name| distance(name) <= (given.len() / 4).max(2))
}
