//! Phrases in prompts that do not refuse them: some are replaced before a worker sees them, some are
//! noted by a label. They share one automaton with the denied ones, so a prompt is read once.

use super::phrases::{Kind, LABELS_MAX, Patterns, Phrases, add_phrases};
use super::request::{Read, read};
use crate::config::{AnnotateConfig, ConfigError, PHRASES_MAX, PolicyConfig, RedactListConfig, check_name};
use std::sync::Arc;
use wire::openai::scan::Scan;

/// The longest replacement, in bytes.
const REPLACEMENT_BYTES_MAX: usize = 64;

/// The compiled lists of a configuration, those that deny included.
#[derive(Debug)]
pub(crate) struct Marks {
    phrases: Phrases,
    replacement: String,
    labels: Vec<Arc<str>>,
    /// True if phrases are replaced.
    pub(crate) redacts: bool,
}

impl Marks {
    /// Compiles the lists; `None` where nothing is replaced or noted.
    pub(crate) fn new(config: &PolicyConfig) -> Result<Option<Self>, ConfigError> {
        let PolicyConfig { deny_list, redact_list, annotate_lists, readings, .. } = config;
        let labels = labels(annotate_lists)?;
        let redacts = !redact_list.phrases.is_empty();
        if !redacts && labels.is_empty() {
            return Ok(None);
        }
        let mut phrases = Patterns::default();
        let mut add = |field: &str, list: &[String], kind| add_phrases(&mut phrases, field, list, kind, *readings);
        add("deny_list.phrases", &deny_list.phrases, Kind::Denied)?;
        add("redact_list.phrases", &redact_list.phrases, Kind::Redacted)?;
        for (number, list) in annotate_lists.iter().enumerate() {
            #[expect(clippy::cast_possible_truncation, reason = "at most LABELS_MAX")]
            let label = Kind::Labelled(number as u8);
            add(&format!("annotate_lists[{number}].phrases"), &list.phrases, label)?;
        }
        if phrases.len() > PHRASES_MAX {
            return Err(ConfigError::new(
                "redact_list",
                format!("and the other lists together have more than {PHRASES_MAX} phrases"),
            ));
        }
        let phrases = Phrases::new("redact_list", &phrases, *readings)?;
        check_replacement(redact_list, &phrases)?;
        Ok(Some(Self { phrases, replacement: redact_list.replacement.clone(), labels, redacts }))
    }

    /// Reads a request's texts.
    pub(crate) fn read(&self, body: &[u8], scan: &Scan) -> Read {
        read(&self.phrases, &self.replacement, body, scan)
    }

    /// The labels of the bits that are set.
    pub(crate) fn labels(&self, bits: u32) -> impl Iterator<Item = &Arc<str>> {
        self.labels.iter().enumerate().filter(move |(number, _)| bits >> number & 1 == 1).map(|(_, label)| label)
    }
}

fn labels(lists: &[AnnotateConfig]) -> Result<Vec<Arc<str>>, ConfigError> {
    if lists.len() > LABELS_MAX {
        return Err(ConfigError::new("annotate_lists", format!("has more than {LABELS_MAX} entries")));
    }
    let mut labels: Vec<Arc<str>> = Vec::with_capacity(lists.len());
    for (number, list) in lists.iter().enumerate() {
        let at = format!("annotate_lists[{number}]");
        check_name(&list.label, &labels).map_err(|problem| ConfigError::new(format!("{at}.label"), problem))?;
        if list.phrases.is_empty() {
            return Err(ConfigError::new(format!("{at}.phrases"), "is empty; remove the list"));
        }
        labels.push(list.label.as_str().into());
    }
    Ok(labels)
}

/// A replacement must be seen, or what stands around a phrase would close up, and must pass itself.
fn check_replacement(config: &RedactListConfig, phrases: &Phrases) -> Result<(), ConfigError> {
    let replacement = &config.replacement;
    let problem = if replacement.len() > REPLACEMENT_BYTES_MAX {
        format!("has more than {REPLACEMENT_BYTES_MAX} bytes")
    } else if !replacement.chars().any(char::is_alphanumeric) {
        "has no letter or digit; write a word such as `[redacted]`".into()
    } else if replacement.chars().any(char::is_control) {
        "holds a control character; leave it out".into()
    } else {
        let read = phrases.read_alone(replacement);
        if !read.0 && read.1.redacted.is_empty() {
            return Ok(());
        }
        "holds a phrase that is denied or replaced itself; choose another word".into()
    };
    Err(ConfigError::new("redact_list.replacement", problem))
}
