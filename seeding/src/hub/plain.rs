//! Models that the operator names: filled from the start, kept open, and given as plain files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use loader::ModelUrl;
use parking_lot::Mutex;
use serde::Serialize;
use wire::manifest::check_name;

use super::error::NodeError;
use super::fills::Flight;

/// The pause before a model that could not be filled is tried again.
pub(super) const AGAIN: Duration = Duration::from_secs(30);

/// A model and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name in paths; its URL's last part unless one is given.
    pub name: String,
    /// Where it comes from.
    pub url: ModelUrl,
}

/// The models of a node.
#[derive(Debug, Default)]
pub(super) struct Plain {
    models: BTreeMap<String, Model>,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) url: ModelUrl,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    flight: Option<Arc<Flight>>,
    is_here: bool,
    problem: Option<String>,
}

/// A model, for people.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    name: String,
    url: String,
    /// `waiting`, `filling` or `ready`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Plain {
    /// # Errors
    /// A name cannot be one, or two are the same.
    pub(super) fn new(models: Vec<Named>) -> Result<Self, NodeError> {
        let mut plain = Self::default();
        for Named { name, url } in models {
            let checked = check_name(&name).and_then(|()| match name.contains('/') {
                true => Err("has a slash".to_owned()),
                false => Ok(()),
            });
            checked.map_err(|problem| NodeError::Name { name: name.clone(), problem })?;
            let model = Model { url, state: Mutex::default() };
            if plain.models.insert(name.clone(), model).is_some() {
                return Err(NodeError::SameName { name });
            }
        }
        Ok(plain)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Model> {
        self.models.get(name)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.models.keys().cloned().collect()
    }

    /// Returns true if one of the models is of this repository of the hub.
    pub(super) fn has_repository(&self, repository: &str) -> bool {
        self.models.values().any(|model| repository_of(&model.url) == Some(repository))
    }

    pub(super) fn shown(&self) -> Vec<Shown> {
        self.models.iter().map(|(name, model)| model.shown(name)).collect()
    }
}

impl Model {
    pub(super) fn flight(&self) -> Option<Arc<Flight>> {
        self.state.lock().flight.clone()
    }

    pub(super) fn opened(&self, flight: Arc<Flight>) {
        *self.state.lock() = State { flight: Some(flight), is_here: false, problem: None };
    }

    pub(super) fn is_here(&self) {
        self.state.lock().is_here = true;
    }

    pub(super) fn failed(&self, problem: String) {
        *self.state.lock() = State { problem: Some(problem), ..State::default() };
    }

    fn shown(&self, name: &str) -> Shown {
        let state = self.state.lock();
        let word = match (&state.flight, state.is_here) {
            (None, _) => "waiting",
            (Some(_), false) => "filling",
            (Some(_), true) => "ready",
        };
        let (name, url) = (name.to_owned(), self.url.to_string());
        Shown { name, url, state: word, problem: state.problem.clone() }
    }
}

fn repository_of(url: &ModelUrl) -> Option<&str> {
    match url {
        ModelUrl::Hub { repository, .. } => Some(repository),
        ModelUrl::File { folder, .. } => repository_of(folder),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Named {
        Named { name: name.to_owned(), url: "hf://org/tiny".parse().expect("a URL") }
    }

    #[test]
    fn names_are_parts_of_paths_and_each_ones_own() {
        let plain = Plain::new(vec![named("a"), named("b")]).expect("names");
        assert!(plain.get("a").is_some() && plain.has_repository("org/tiny") && !plain.has_repository("org/other"));
        assert!(matches!(Plain::new(vec![named("a"), named("a")]), Err(NodeError::SameName { .. })));
        for wrong in ["", "..", "a/b", "a\\b"] {
            assert!(matches!(Plain::new(vec![named(wrong)]), Err(NodeError::Name { .. })), "{wrong}");
        }
    }
}
