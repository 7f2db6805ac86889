//! The output of `kubectl kustomize`, for the features that `k8s/` uses: resources, strategic
//! merge patches, generators (without the hash in their names). Anything else is an error.

use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One rendered variant.
pub(crate) struct Rendered {
    /// All documents, patched, each in the shape of JSON.
    pub(crate) documents: Vec<Value>,
    /// Generated ConfigMaps: name to files.
    pub(crate) config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Generated Secrets: name to keys.
    pub(crate) secrets: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kustomization {
    api_version: String,
    kind: String,
    namespace: String,
    resources: Vec<String>,
    #[serde(default)]
    patches: Vec<Patch>,
    #[serde(default)]
    config_map_generator: Vec<Generator>,
    #[serde(default)]
    secret_generator: Vec<Generator>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Generator {
    name: String,
    /// `replace` for one that the base has, too.
    behavior: Option<String>,
    #[serde(default)]
    files: Vec<String>,
    #[serde(default)]
    literals: Vec<String>,
}

impl Rendered {
    /// Renders `k8s/VARIANT`.
    pub(crate) fn of(variant: &str) -> Self {
        render(&folder().join(variant))
    }

    /// The namespace of everything.
    pub(crate) fn namespace(&self) -> &str {
        self.document("Namespace", "forebay")["metadata"]["name"].as_str().expect("a name")
    }

    /// The document of that kind and name.
    pub(crate) fn document(&self, kind: &str, name: &str) -> &Value {
        let found = self.documents.iter().find(|document| is(document, kind, name));
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// As `break_at`, for a field that need not be there: its parent is.
    pub(crate) fn set_at(&mut self, kind: &str, name: &str, pointer: &str, value: Value) {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        let document = self.documents.iter_mut().find(|document| is(document, kind, name));
        let document = document.unwrap_or_else(|| panic!("there is no {kind} {name}"));
        if let Some(Value::Object(map)) = document.pointer_mut(parent) {
            map.entry(field).or_insert(Value::Null);
        }
        self.break_at(kind, name, pointer, value);
    }

    /// Sets a field, to see whether anybody notices; null removes it.
    pub(crate) fn break_at(&mut self, kind: &str, name: &str, pointer: &str, value: Value) {
        let document = self.documents.iter_mut().find(|document| is(document, kind, name));
        let document = document.unwrap_or_else(|| panic!("there is no {kind} {name}"));
        let field = document.pointer_mut(pointer).unwrap_or_else(|| panic!("{kind} {name} has no {pointer}"));
        *field = value;
        prune(document);
    }
}

/// YAML files that no kustomization lists.
pub(crate) fn unlisted() -> Vec<String> {
    let mut all = Vec::new();
    let mut listed = Vec::new();
    let mut folders = vec![folder()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a readable folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "kustomization.yaml") {
                let kustomization = kustomization(&folder);
                let patches = kustomization.patches.into_iter().map(|patch| patch.path);
                listed.extend(kustomization.resources.into_iter().chain(patches).map(|name| folder.join(name)));
            } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                all.push(path);
            }
        }
    }
    assert!(all.len() > 5, "found only {} YAML files", all.len());
    let unlisted = all.into_iter().filter(|path| !listed.contains(path));
    unlisted.map(|path| path.display().to_string()).collect()
}

fn render(folder: &Path) -> Rendered {
    let kustomization = kustomization(folder);
    let mut rendered = Rendered { documents: Vec::new(), config_maps: BTreeMap::new(), secrets: BTreeMap::new() };
    for resource in &kustomization.resources {
        let path = folder.join(resource);
        if path.is_dir() {
            let below = render(&path);
            rendered.documents.extend(below.documents);
            rendered.config_maps.extend(below.config_maps);
            rendered.secrets.extend(below.secrets);
        } else {
            rendered.documents.extend(documents(&path));
        }
    }
    for patch in &kustomization.patches {
        for patch in documents(&folder.join(&patch.path)) {
            let (kind, name) = (text(&patch["kind"]), text(&patch["metadata"]["name"]));
            let target = rendered.documents.iter_mut().find(|document| is(document, kind, name));
            merge(target.unwrap_or_else(|| panic!("the patch of {kind} {name} has no target")), &patch);
        }
    }
    for generator in kustomization.config_map_generator {
        let replaces = generator.behavior.as_deref() == Some("replace");
        let is_known = rendered.config_maps.contains_key(&generator.name);
        assert_eq!(replaces, is_known, "the ConfigMap {} wants `behavior: replace`, or is new", generator.name);
        let files = generator.files.iter().map(|file| (file.clone(), read(&folder.join(file))));
        rendered.config_maps.insert(generator.name.clone(), files.collect());
    }
    for generator in kustomization.secret_generator {
        let keys = generator.literals.iter().filter_map(|literal| literal.split_once('='));
        rendered.secrets.insert(generator.name.clone(), keys.map(|(key, _)| key.to_owned()).collect());
    }
    for document in rendered.documents.iter_mut().filter(|document| document["kind"] != "Namespace") {
        document["metadata"]["namespace"] = kustomization.namespace.clone().into();
    }
    rendered
}

fn kustomization(folder: &Path) -> Kustomization {
    let path = folder.join("kustomization.yaml");
    let kustomization: Kustomization =
        serde_norway::from_str(&read(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(kustomization.api_version, "kustomize.config.k8s.io/v1beta1", "{}", path.display());
    assert_eq!(kustomization.kind, "Kustomization", "{}", path.display());
    kustomization
}

fn documents(path: &Path) -> Vec<Value> {
    let text = read(path);
    serde_norway::Deserializer::from_str(&text)
        .map(|document| {
            // First as YAML, which refuses a key given twice; JSON's map would keep the last.
            let value = serde_norway::Value::deserialize(document);
            let value = value.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            serde_json::to_value(value).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect()
}

/// Kubernetes' strategic merge: maps merge, lists of named things merge by name, the rest is
/// replaced, null removes, and so does `$patch: delete`.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(key);
                } else {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(target), Value::Array(patch)) if patch.iter().all(|item| item["name"].is_string()) => {
            for item in patch {
                if item["$patch"] == "delete" {
                    target.retain(|known| known["name"] != item["name"]);
                    continue;
                }
                match target.iter_mut().find(|known| known["name"] == item["name"]) {
                    Some(known) => merge(known, item),
                    None => target.push(item.clone()),
                }
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(prune);
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is(document: &Value, kind: &str, name: &str) -> bool {
    document["kind"] == kind && document["metadata"]["name"] == name
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a patch names its kind and its target")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s")
}
