//! Structural tags, vLLM's name for texts that are put together from parts: free text with tagged parts of a form in it.
//! Both published shapes are read: `structures` with `triggers`, and a `format`.

use crate::openai::complaint::complaint;
use crate::openai::error::ApiError;
use serde::Deserialize;
use serde_json::Value;

/// The most parts of one text.
const PARTS_MAX: usize = 256;
/// The most bytes of a begin, an end or a trigger.
const MARK_BYTES_MAX: usize = 1_024;

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// This text.
    Text(String),
    /// Any text, up to the end of the tag that holds it.
    Free,
    /// JSON that is valid against this schema.
    Schema(Value),
    /// A text that a regular expression matches as a whole.
    Regex(String),
    /// A text of a grammar, in Lark's language or in GBNF.
    Grammar(String),
    /// These parts, one after another.
    Sequence(Vec<Part>),
    /// One of these parts.
    Or(Vec<Part>),
    /// A tag.
    Tag(Box<Tag>),
    /// Tags, with free text before, between and after them.
    Triggered {
        /// Texts that begin no free text: where one comes, a tag follows that begins with it.
        triggers: Vec<String>,
        /// The tags.
        tags: Vec<Tag>,
        /// How many of them there are.
        count: Count,
    },
    /// Tags, with this text between them.
    Separated {
        /// The text between two of them.
        separator: String,
        /// The tags.
        tags: Vec<Tag>,
        /// How many of them there are.
        count: Count,
    },
}

/// A part between two marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Its beginning.
    pub begin: String,
    /// Its inner part.
    pub content: Part,
    /// Its ends, each of which will do; at least one.
    pub ends: Vec<String>,
}

/// The number of tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// There is one at least.
    pub at_least_one: bool,
    /// The text ends after the first.
    pub stop_after_first: bool,
}

impl Part {
    /// The texts in it that stand as they are.
    #[must_use]
    pub fn marks(&self) -> Vec<&str> {
        let mut found = Vec::new();
        let mut rest = vec![self];
        while let Some(part) = rest.pop() {
            let tags: &[Tag] = match part {
                Self::Text(text) => {
                    found.push(text.as_str());
                    &[]
                }
                Self::Sequence(parts) | Self::Or(parts) => {
                    rest.extend(parts);
                    &[]
                }
                Self::Tag(tag) => std::slice::from_ref(tag.as_ref()),
                Self::Triggered { tags, .. } => tags,
                Self::Separated { tags, separator, .. } => {
                    found.push(separator.as_str());
                    tags
                }
                Self::Free | Self::Schema(_) | Self::Regex(_) | Self::Grammar(_) => &[],
            };
            for tag in tags {
                found.push(tag.begin.as_str());
                found.extend(tag.ends.iter().map(String::as_str));
                rest.push(&tag.content);
            }
        }
        found
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Given {
    structures: Option<Vec<GivenStructure>>,
    triggers: Option<Vec<String>>,
    format: Option<GivenPart>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct GivenStructure {
    begin: String,
    schema: Option<Value>,
    end: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", expecting = "an object")]
enum GivenPart {
    ConstString {
        value: String,
    },
    AnyText {},
    JsonSchema {
        json_schema: Value,
    },
    Regex {
        pattern: String,
    },
    Grammar {
        grammar: String,
    },
    Sequence {
        elements: Vec<GivenPart>,
    },
    Or {
        elements: Vec<GivenPart>,
    },
    Tag(Box<GivenTag>),
    TriggeredTags {
        triggers: Vec<String>,
        tags: Vec<GivenTag>,
        #[serde(default)]
        at_least_one: bool,
        #[serde(default)]
        stop_after_first: bool,
    },
    TagsWithSeparator {
        tags: Vec<GivenTag>,
        separator: String,
        #[serde(default)]
        at_least_one: bool,
        #[serde(default)]
        stop_after_first: bool,
    },
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct GivenTag {
    begin: String,
    content: GivenPart,
    end: Ends,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`end` is a string or a list of strings")]
enum Ends {
    One(String),
    Many(Vec<String>),
}

/// Reads a text's parts from an object, or from its text.
pub(super) fn part(param: &str, given: Value) -> Result<Part, ApiError> {
    let wrong = |why: String| ApiError::invalid(param, format!("`{param}` is no structural tag: {why}"));
    let given = match given {
        Value::String(text) => serde_json::from_str(&text),
        other => serde_json::from_value(other),
    };
    let given: Given = given.map_err(|cause| ApiError::invalid(param, complaint(param, &cause.to_string())))?;
    let part = match (given.format, given.structures) {
        (Some(format), None) => Builder { parts: 0 }.part(format),
        (None, Some(structures)) => structured(structures, given.triggers.unwrap_or_default()),
        _ => Err("it has either `format`, or `structures` and `triggers`".to_owned()),
    };
    part.map_err(wrong)
}

/// The older shape: any number of tags within free text.
fn structured(structures: Vec<GivenStructure>, triggers: Vec<String>) -> Result<Part, String> {
    let tags = structures.into_iter().map(|structure| GivenTag {
        begin: structure.begin,
        content: GivenPart::JsonSchema { json_schema: structure.schema.unwrap_or(Value::Bool(true)) },
        end: Ends::One(structure.end),
    });
    let tags = tags.collect();
    Builder { parts: 0 }.part(GivenPart::TriggeredTags { triggers, tags, at_least_one: false, stop_after_first: false })
}

/// Checks parts, and counts them. JSON is not read deeper than 128 levels, nor is this.
struct Builder {
    parts: usize,
}

impl Builder {
    fn part(&mut self, given: GivenPart) -> Result<Part, String> {
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(format!("it has more than {PARTS_MAX} parts"));
        }
        Ok(match given {
            GivenPart::ConstString { value } => Part::Text(mark(value)?),
            GivenPart::AnyText {} => Part::Free,
            GivenPart::JsonSchema { json_schema: schema @ (Value::Object(_) | Value::Bool(true)) } => {
                Part::Schema(schema)
            }
            GivenPart::JsonSchema { .. } => return Err("a `json_schema` is no object".into()),
            GivenPart::Regex { pattern } => Part::Regex(pattern),
            GivenPart::Grammar { grammar } => Part::Grammar(grammar),
            GivenPart::Sequence { elements } => Part::Sequence(self.some(elements)?),
            GivenPart::Or { elements } => Part::Or(self.some(elements)?),
            GivenPart::Tag(tag) => Part::Tag(Box::new(self.tag(*tag)?)),
            GivenPart::TriggeredTags { triggers, tags, at_least_one, stop_after_first } => {
                let count = Count { at_least_one, stop_after_first };
                self.triggered(triggers, tags, count)?
            }
            GivenPart::TagsWithSeparator { tags, separator, at_least_one, stop_after_first } => {
                let count = Count { at_least_one, stop_after_first };
                Part::Separated { separator, tags: self.tags(tags)?, count }
            }
        })
    }

    fn some(&mut self, given: Vec<GivenPart>) -> Result<Vec<Part>, String> {
        if given.is_empty() {
            return Err("`elements` is empty".into());
        }
        given.into_iter().map(|part| self.part(part)).collect()
    }

    fn triggered(&mut self, triggers: Vec<String>, tags: Vec<GivenTag>, count: Count) -> Result<Part, String> {
        let triggers = triggers.into_iter().map(mark).collect::<Result<Vec<_>, _>>()?;
        let tags = self.tags(tags)?;
        let is_triggered = |tag: &&Tag| triggers.iter().filter(|trigger| tag.begin.starts_with(*trigger)).count() == 1;
        if let Some(tag) = tags.iter().find(|tag| !is_triggered(tag)) {
            return Err(format!("`{}` must begin with one of the triggers, and with one alone", tag.begin));
        }
        Ok(Part::Triggered { triggers, tags, count })
    }

    fn tags(&mut self, given: Vec<GivenTag>) -> Result<Vec<Tag>, String> {
        if given.is_empty() {
            return Err("there are no tags".into());
        }
        given.into_iter().map(|tag| self.tag(tag)).collect()
    }

    fn tag(&mut self, given: GivenTag) -> Result<Tag, String> {
        let ends = match given.end {
            Ends::One(end) => vec![end],
            Ends::Many(ends) => ends,
        };
        let ends = ends.into_iter().map(mark).collect::<Result<Vec<_>, _>>()?;
        if ends.is_empty() {
            return Err("a tag has no end".into());
        }
        Ok(Tag { begin: mark(given.begin)?, content: self.part(given.content)?, ends })
    }
}

/// A text that stands as it is.
fn mark(text: String) -> Result<String, String> {
    if (1..=MARK_BYTES_MAX).contains(&text.len()) {
        Ok(text)
    } else {
        Err(format!("a begin, an end, a trigger or a text has 1 to {MARK_BYTES_MAX} bytes, not {}", text.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_shapes_are_read_as_objects_and_as_text() {
        let old = json!({
            "type": "structural_tag",
            "structures": [{"begin": "<fn=a>", "schema": {"type": "object"}, "end": "</fn>"}],
            "triggers": ["<fn="],
        });
        let content = json!({"type": "json_schema", "json_schema": {"type": "object"}});
        let tag = json!({"type": "tag", "begin": "<fn=a>", "content": content, "end": "</fn>"});
        let new = json!({"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": ["<fn="], "tags": [tag]}});
        let read = part("p", old.clone()).expect("parts");
        assert_eq!(part("p", json!(old.to_string())), Ok(read.clone()));
        assert_eq!(part("p", new), Ok(read.clone()));
        assert_eq!(read.marks(), ["<fn=a>", "</fn>"]);
        let text = json!({"type": "const_string", "value": "x"});
        let any = json!({"type": "tag", "begin": "(", "content": {"type": "any_text"}, "end": [")", "]"]});
        let all = json!({"format": {"type": "sequence", "elements": [
            text, {"type": "or", "elements": [any, {"type": "regex", "pattern": "a+"}]},
            {"type": "grammar", "grammar": "root ::= \"a\""},
            {"type": "tags_with_separator", "separator": ", ", "tags": [any], "at_least_one": true},
        ]}});
        let Part::Sequence(parts) = part("p", all).expect("parts") else { panic!("a sequence") };
        assert_eq!((parts.len(), &parts[0]), (4, &Part::Text("x".into())));
    }

    #[test]
    fn what_is_no_structural_tag_is_refused_and_says_why() {
        let tag = |begin: &str, end: Value| json!({"begin": begin, "content": {"type": "any_text"}, "end": end});
        let triggered =
            |tag: Value| json!({"format": {"type": "triggered_tags", "triggers": ["<a", "<ab"], "tags": [tag]}});
        let many: Vec<Value> = (0..300).map(|_| json!({"type": "any_text"})).collect();
        for (given, word) in [
            (json!({}), "either"),
            (json!("{"), "EOF"),
            (json!(7), "must be an object, not 7"),
            (json!({"format": {"type": "smoke"}}), "smoke"),
            (json!({"format": {"type": "json_schema", "json_schema": 7}}), "no object"),
            (json!({"format": {"type": "sequence", "elements": []}}), "empty"),
            (json!({"format": {"type": "sequence", "elements": many}}), "256"),
            (json!({"structures": [], "triggers": ["<"]}), "no tags"),
            (json!({"structures": [{"begin": "<f>", "end": ""}], "triggers": ["<"]}), "1024"),
            (triggered(tag("b", json!("c"))), "triggers"),
            (triggered(tag("<abc", json!("c"))), "one alone"),
            (triggered(tag("<ac", json!([]))), "no end"),
        ] {
            let refused = part("p", given.clone()).expect_err("refused");
            assert_eq!(refused.param.as_deref(), Some("p"));
            assert!(refused.message.contains(word), "{given}: {}", refused.message);
        }
    }
}
