//! A policy's rules as one directory, with a version: lists of phrases, settings, and cases that it has to pass.
//!
//! | file | content |
//! |---|---|
//! | `bundle.toml` | settings: `replacement`, `[readings]` |
//! | `deny.txt`, `redact.txt` | a phrase a line; `#` begins a comment, `\#` a phrase |
//! | `annotate/LABEL.txt` | the phrases that are noted by this label |
//! | `cases.jsonl` | prompts and answers with what is to become of them |
//!
//! The files are handed in: this room reads none.

use crate::config::{AnnotateConfig, ConfigError, DenyListConfig, PolicyConfig, ReadingsConfig, RedactListConfig};
use crate::version::BundleId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use thiserror::Error;

/// The most cases of a bundle.
const CASES_MAX: usize = 65_536;
const SETTINGS: &str = "bundle.toml";
const CASES: &str = "cases.jsonl";
const DENY: &str = "deny.txt";
const REDACT: &str = "redact.txt";
/// For people.
const README: &str = "README.md";

/// The fault of a bundle.
#[derive(Debug, Error)]
pub enum BundleError {
    /// A file that no bundle has.
    #[error("the bundle has a file `{file}`, which means nothing; rename it or take it out")]
    UnknownFile {
        /// Its path.
        file: String,
    },
    /// A file that is no text.
    #[error("`{file}` is not UTF-8; write it anew as text")]
    NotText {
        /// Its path.
        file: String,
    },
    /// A line that is wrong. It is not shown: lists are secrets.
    #[error("`{file}`, line {line}: {problem}")]
    Line {
        /// Its path.
        file: String,
        /// The line's number, from 1.
        line: usize,
        /// The fault, and how to mend it.
        problem: String,
    },
    /// Settings that are wrong.
    #[error("`{SETTINGS}`: {problem}")]
    Settings {
        /// The fault.
        problem: String,
    },
    /// A setting that the compiled rules refuse.
    #[error("checking the bundle")]
    Rules(#[from] ConfigError),
    /// The configuration has lists of its own.
    #[error("`{field}` has phrases, and so has the bundle; keep them in one of both")]
    Twice {
        /// The configuration's field.
        field: &'static str,
    },
}

/// A bundle's rules.
#[derive(Clone)]
pub struct Bundle {
    id: BundleId,
    settings: Settings,
    deny: List,
    redact: List,
    annotate: Vec<(String, List)>,
    cases: Vec<Case>,
}

/// Shows its version alone: its lists and cases are secrets.
impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle({})", self.id)
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    replacement: Option<String>,
    readings: ReadingsConfig,
}

/// A list of phrases, and the lines they stand on.
#[derive(Clone, Default)]
struct List {
    phrases: Vec<String>,
    lines: Vec<usize>,
}

impl List {
    fn read(text: &str) -> Self {
        let mut list = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                list.phrases
                    .push(line.strip_prefix('\\').filter(|rest| rest.starts_with('#')).unwrap_or(line).to_owned());
                list.lines.push(number + 1);
            }
        }
        list
    }
}

/// A text, and what is to become of it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The text of a user's message.
    #[serde(default)]
    pub prompt: Option<String>,
    /// The text of an answer, in place of a prompt.
    #[serde(default)]
    pub answer: Option<String>,
    /// The verdict that is expected.
    pub expect: Expect,
    /// The labels that it gets; not looked at where absent.
    #[serde(default)]
    pub labels: Option<Vec<String>>,
}

/// The fate of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// It goes on as it came.
    Pass,
    /// It is refused, or cut.
    Deny,
    /// Phrases in it are replaced.
    Redact,
    /// It is refused, for phrases that are to be replaced and cannot be.
    Refuse,
}

impl Bundle {
    /// Reads a bundle's files, by their paths from its directory.
    ///
    /// # Errors
    /// A file that is wrong, and where.
    pub fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, BundleError> {
        let mut bundle = Self {
            id: BundleId::of(files),
            settings: Settings::default(),
            deny: List::default(),
            redact: List::default(),
            annotate: Vec::new(),
            cases: Vec::new(),
        };
        for (path, content) in files {
            let text = std::str::from_utf8(content).map_err(|_| BundleError::NotText { file: path.clone() })?;
            bundle.file(path, text)?;
        }
        bundle.check()?;
        Ok(bundle)
    }

    fn file(&mut self, path: &str, text: &str) -> Result<(), BundleError> {
        let label = path.strip_prefix("annotate/").and_then(|name| name.strip_suffix(".txt"));
        match (path, label) {
            (_, Some(label)) => self.annotate.push((label.to_owned(), List::read(text))),
            (SETTINGS, _) => {
                let wrong = |error: toml::de::Error| BundleError::Settings { problem: error.message().to_owned() };
                self.settings = toml::from_str(text).map_err(wrong)?;
            }
            (DENY, _) => self.deny = List::read(text),
            (REDACT, _) => self.redact = List::read(text),
            (CASES, _) => self.cases = cases(text)?,
            (README, _) => {}
            _ => return Err(BundleError::UnknownFile { file: path.to_owned() }),
        }
        Ok(())
    }

    /// Compiles the rules once, so that a bundle that was read can be used.
    fn check(&self) -> Result<(), BundleError> {
        let mut config = PolicyConfig::default();
        self.apply(&mut config)?;
        match crate::policy::Policy::new(&config) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.place_of(&error).unwrap_or(BundleError::Rules(error))),
        }
    }

    /// The line of a phrase that is refused.
    fn place_of(&self, error: &ConfigError) -> Option<BundleError> {
        let (list, index) = error.field.strip_suffix(']')?.rsplit_once('[')?;
        let (file, list) = match list {
            "deny_list.phrases" => (DENY.to_owned(), &self.deny),
            "redact_list.phrases" => (REDACT.to_owned(), &self.redact),
            _ => {
                let number: usize = list.strip_prefix("annotate_lists[")?.strip_suffix("].phrases")?.parse().ok()?;
                let (label, list) = self.annotate.get(number)?;
                (format!("annotate/{label}.txt"), list)
            }
        };
        let line = *list.lines.get(index.parse::<usize>().ok()?)?;
        Some(BundleError::Line { file, line, problem: error.problem.clone() })
    }

    /// The bundle's version.
    #[must_use]
    pub const fn id(&self) -> &BundleId {
        &self.id
    }

    /// The cases that it has to pass.
    #[must_use]
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Its lists: the file of each, its phrases' lines, and a configuration that denies them alone.
    pub fn lists(&self) -> impl Iterator<Item = (String, Vec<usize>, PolicyConfig)> + '_ {
        let fixed = [(DENY.to_owned(), &self.deny), (REDACT.to_owned(), &self.redact)];
        let noted = self.annotate.iter().map(|(label, list)| (format!("annotate/{label}.txt"), list));
        fixed.into_iter().chain(noted).map(|(file, list)| {
            let deny_list = DenyListConfig { phrases: list.phrases.clone() };
            let readings = self.settings.readings;
            (file, list.lines.clone(), PolicyConfig { deny_list, readings, ..PolicyConfig::default() })
        })
    }

    /// Puts its rules into a configuration.
    ///
    /// # Errors
    /// The configuration has lists of its own.
    pub fn apply(&self, config: &mut PolicyConfig) -> Result<(), BundleError> {
        let own = [
            ("deny_list", config.deny_list.phrases.is_empty()),
            ("redact_list", config.redact_list.phrases.is_empty()),
            ("annotate_lists", config.annotate_lists.is_empty()),
        ];
        if let Some((field, _)) = own.into_iter().find(|(_, is_empty)| !is_empty) {
            return Err(BundleError::Twice { field });
        }
        config.deny_list = DenyListConfig { phrases: self.deny.phrases.clone() };
        let replacement = self.settings.replacement.clone();
        config.redact_list = RedactListConfig {
            phrases: self.redact.phrases.clone(),
            replacement: replacement.unwrap_or(RedactListConfig::default().replacement),
        };
        let noted = self.annotate.iter();
        config.annotate_lists =
            noted.map(|(label, list)| AnnotateConfig { label: label.clone(), phrases: list.phrases.clone() }).collect();
        config.readings = self.settings.readings;
        config.version = Some(self.id.clone());
        Ok(())
    }
}

fn cases(text: &str) -> Result<Vec<Case>, BundleError> {
    let mut cases = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |problem: String| BundleError::Line { file: CASES.into(), line: number + 1, problem };
        // What the parser says may quote the case, and a case quotes a list.
        let case: Case = serde_json::from_str(line).map_err(|error| {
            wrong(format!("is no case, from column {} on; `expect` is pass, deny, redact or refuse", error.column()))
        })?;
        if case.prompt.is_some() == case.answer.is_some() {
            return Err(wrong("has to have a `prompt` or an `answer`, one of both".into()));
        }
        if cases.len() == CASES_MAX {
            return Err(wrong(format!("is beyond the {CASES_MAX} cases of a bundle; remove some")));
        }
        cases.push(case);
    }
    Ok(cases)
}

#[cfg(test)]
mod tests;
