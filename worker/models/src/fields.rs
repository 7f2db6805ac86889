//! Reading a JSON object's fields with bounds, and saying which field was wrong.
//!
//! It knows nothing of models: names, types and ranges only.

use serde_json::{Map, Value};

use super::config_error::ConfigError;

/// Characters of a foreign value that an error message repeats.
const SHOWN_CHARS: usize = 80;

/// An object inside `config.json`; a null field counts as absent.
pub(crate) struct Fields<'a> {
    path: &'static str,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    /// The fields of `map`, which is found at `path` (empty, or ending in a dot).
    pub(crate) fn new(path: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { path, map: Some(map) }
    }

    /// An object without fields.
    pub(crate) fn nothing() -> Self {
        Self { path: "", map: None }
    }

    /// True if there is no field.
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_none_or(Map::is_empty)
    }

    /// A field that is there and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map?.get(name).filter(|value| !value.is_null())
    }

    /// True if the field is written as null.
    pub(crate) fn is_null(&self, name: &str) -> bool {
        self.map.and_then(|map| map.get(name)).is_some_and(Value::is_null)
    }

    /// An object, if the field is there.
    pub(crate) fn object(&self, name: &'static str) -> Result<Option<Self>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { path: name, map: Some(map) })),
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }

    /// A whole number from 1 to `max`; `default` if the field is absent, an error if both are.
    pub(crate) fn size(&self, name: &str, max: usize, default: Option<usize>) -> Result<usize, ConfigError> {
        self.whole(name, 1, max, default)
    }

    /// A whole number from 0 to `max`.
    pub(crate) fn count(&self, name: &str, max: usize, default: Option<usize>) -> Result<usize, ConfigError> {
        self.whole(name, 0, max, default)
    }

    fn whole(&self, name: &str, min: usize, max: usize, default: Option<usize>) -> Result<usize, ConfigError> {
        let wrong = || self.wrong(name, &format!("a whole number from {min} to {max}"));
        let Some(value) = self.get(name) else { return default.ok_or_else(wrong) };
        let number = value.as_u64().or_else(|| {
            // Some configs write 4096.0.
            value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..1e15).contains(number)).map(|it| it as u64)
        });
        let whole = number.and_then(|number| usize::try_from(number).ok());
        whole.filter(|whole| (min..=max).contains(whole)).ok_or_else(wrong)
    }

    /// A finite number from `min` to `max`.
    pub(crate) fn number(&self, name: &str, min: f64, max: f64, default: Option<f64>) -> Result<f64, ConfigError> {
        let wrong = || self.wrong(name, &format!("a number from {min} to {max}"));
        let Some(value) = self.get(name) else { return default.ok_or_else(wrong) };
        value.as_f64().filter(|number| (min..=max).contains(number)).ok_or_else(wrong)
    }

    /// A finite number from `min` to `max`, if the field is there and not null; `absent` if it is not there.
    pub(crate) fn optional(
        &self,
        name: &str,
        [min, max]: [f64; 2],
        absent: Option<f64>,
    ) -> Result<Option<f64>, ConfigError> {
        match self.get(name) {
            Some(_) => self.number(name, min, max, None).map(Some),
            None if self.is_null(name) => Ok(None),
            None => Ok(absent),
        }
    }

    /// So many finite numbers from `min` to `max`.
    pub(crate) fn numbers(&self, name: &str, [min, max]: [f64; 2], count: usize) -> Result<Vec<f64>, ConfigError> {
        let wrong = || self.wrong(name, &format!("a list of {count} numbers from {min} to {max}"));
        let list = self.get(name).and_then(Value::as_array).filter(|list| list.len() == count).ok_or_else(wrong)?;
        let number = |value: &Value| value.as_f64().filter(|number| (min..=max).contains(number));
        list.iter().map(number).collect::<Option<_>>().ok_or_else(wrong)
    }

    /// True or false.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    /// A text, if the field is there.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a text")),
        }
    }

    /// The names of the fields that say something: neither null nor false.
    pub(crate) fn set(&self) -> impl Iterator<Item = &'a str> {
        let says = |value: &Value| !value.is_null() && *value != Value::Bool(false);
        let fields = self.map.into_iter().flatten();
        fields.filter(move |(_, value)| says(value)).map(|(name, _)| name.as_str())
    }

    /// The objects among the fields, by name.
    pub(crate) fn objects(&self) -> impl Iterator<Item = (&'a str, Self)> {
        let path = self.path;
        let objects =
            self.map.into_iter().flatten().filter_map(|(name, value)| Some((name.as_str(), value.as_object()?)));
        objects.map(move |(name, map)| (name, Self { path, map: Some(map) }))
    }

    /// A field's name with its path, shortened.
    pub(crate) fn named(&self, name: &str) -> String {
        let dot = if self.path.is_empty() { "" } else { "." };
        format!("{}{dot}{}", self.path, short(name))
    }

    /// The error that nobody knows what the field means.
    pub(crate) fn unknown(&self, name: &str) -> ConfigError {
        let found = self.map.and_then(|map| map.get(name)).map_or_else(String::new, |value| short(&value.to_string()));
        ConfigError::Unknown { field: self.named(name), found }
    }

    /// The error that the field is not what was expected.
    pub(crate) fn wrong(&self, name: &str, expected: &str) -> ConfigError {
        let found = match self.map.and_then(|map| map.get(name)) {
            None => "missing".to_owned(),
            Some(value) => short(&value.to_string()),
        };
        ConfigError::Field { field: self.named(name), found, expected: expected.into() }
    }
}

/// A foreign text, shortened for an error message.
pub(crate) fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
