//! The grammars that were asked for last, by the shape they are of. Pure.

use models::grammar::{Calls, Shape};
use std::collections::HashMap;
use wire::openai::structure::{Form, Structure};

/// The name of a shape: a digest of all that its grammar depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name([u8; 32]);

impl Name {
    pub(super) fn of(shape: &Shape) -> Self {
        let Shape { text, calls, thoughts } = shape;
        let mut parts = Parts(blake3::Hasher::new());
        text.iter().for_each(|text| parts.add_text(text));
        calls.iter().for_each(|calls| parts.add_calls(calls));
        if let Some((marks, begun)) = thoughts {
            parts.add(&format!("thoughts {} {begun:?}", marks.name()));
        }
        Self(parts.0.finalize().into())
    }
}

/// A digest of parts, each with its length.
struct Parts(blake3::Hasher);

impl Parts {
    fn add(&mut self, part: &str) {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part.as_bytes());
    }

    fn add_text(&mut self, text: &Structure) {
        let Structure { param: _, form, is_compact } = text;
        self.add(if *is_compact { "compact" } else { "spaced" });
        match form {
            Form::Json => self.add("json"),
            Form::Schema(schema) => {
                self.add("schema");
                self.add(&schema.to_string());
            }
            Form::Regex(expression) => {
                self.add("regex");
                self.add(expression);
            }
            Form::Choice(choices) => {
                self.add("choice");
                choices.iter().for_each(|choice| self.add(choice));
            }
            Form::Grammar(grammar) => {
                self.add("grammar");
                self.add(grammar);
            }
            Form::Parts(part) => {
                self.add("parts");
                // Every field of every part is in it.
                self.add(&format!("{part:?}"));
            }
        }
    }

    fn add_calls(&mut self, calls: &Calls) {
        let Calls { format, tools, parallel } = calls;
        self.add(&format!("calls {} {parallel}", format.name()));
        for tool in tools {
            self.add(&tool.name);
            self.add(if tool.is_strict { "strict" } else { "lenient" });
            self.add(&tool.parameters.as_ref().map(ToString::to_string).unwrap_or_default());
        }
    }
}

/// A bounded map that forgets what was not asked for longest.
#[derive(Debug)]
pub(super) struct Cache<T> {
    most: usize,
    /// Counts the calls.
    now: u64,
    entries: HashMap<Name, (u64, T)>,
}

impl<T: Clone> Cache<T> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, now: 0, entries: HashMap::new() }
    }

    pub(super) fn get(&mut self, name: &Name) -> Option<T> {
        self.now += 1;
        let (used, value) = self.entries.get_mut(name)?;
        *used = self.now;
        Some(value.clone())
    }

    /// Keeps a value; returns how many are kept.
    pub(super) fn insert(&mut self, name: Name, value: T) -> usize {
        self.now += 1;
        self.entries.insert(name, (self.now, value));
        if self.entries.len() > self.most
            && let Some(oldest) = self.entries.iter().min_by_key(|(_, (used, _))| *used).map(|(name, _)| *name)
        {
            self.entries.remove(&oldest);
        }
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::calls::Format;
    use serde_json::json;
    use wire::openai::tools::Tool;

    fn shape(text: Structure) -> Shape {
        Shape { text: Some(text), calls: None, thoughts: None }
    }

    fn name(form: Form, is_compact: bool) -> Name {
        Name::of(&shape(Structure { param: "a".into(), form, is_compact }))
    }

    fn calls(name: &str, is_strict: bool, parallel: bool) -> Name {
        let tools = vec![Tool { name: name.into(), parameters: None, is_strict, given: json!({}) }];
        let calls = Calls { format: Format::of_template(""), tools, parallel };
        Name::of(&Shape { text: None, calls: Some(calls), thoughts: None })
    }

    #[test]
    fn a_name_is_of_the_form_and_not_of_who_asked() {
        let schema = || Form::Schema(json!({"type": "string"}));
        let elsewhere = Structure { param: "b".into(), form: schema(), is_compact: false };
        assert_eq!(name(schema(), false), Name::of(&shape(elsewhere)));
        let names = [
            name(schema(), false),
            name(schema(), true),
            name(Form::Json, false),
            name(Form::Regex("ab".into()), false),
            name(Form::Grammar("ab".into()), false),
            name(Form::Choice(vec!["ab".into()]), false),
            name(Form::Choice(vec!["a".into(), "b".into()]), false),
            calls("a", false, false),
            calls("b", false, false),
            calls("a", true, false),
            calls("a", false, true),
        ];
        for (at, one) in names.iter().enumerate() {
            assert!(!names[at + 1..].contains(one), "{at}");
        }
    }

    #[test]
    fn what_was_not_asked_for_longest_is_forgotten() {
        let of = |text: &str| name(Form::Regex(text.into()), false);
        let mut cache = Cache::new(2);
        assert_eq!((cache.insert(of("a"), 1), cache.insert(of("b"), 2)), (1, 2));
        assert_eq!(cache.get(&of("a")), Some(1));
        assert_eq!(cache.insert(of("c"), 3), 2);
        assert_eq!((cache.get(&of("a")), cache.get(&of("b")), cache.get(&of("c"))), (Some(1), None, Some(3)));
        assert_eq!(Cache::new(0).insert(of("a"), 1), 0);
    }
}
