//! The reason of a decision, for operators: which line of which list, in which reading, and where.
//!
//! Slow and plain beside the screen: it compiles parts of a list until one phrase is left. It names lines and never
//! phrases, so that its output can go into a ticket.

use crate::access::Identified;
use crate::bundle::{Bundle, BundleError};
use crate::config::{PolicyConfig, ReadingsConfig};
use crate::key::Presented;
use crate::moment::Moment;
use crate::policy::{Facts, Policy, Rejection};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;
use wire::openai::endpoint::{COMPLETIONS, Endpoint};
use wire::openai::scan::{Limits, Scan, scan};

/// The most phrases that are named of one list.
const HITS_MAX: usize = 32;

/// A phrase that is in a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// The list's file.
    pub file: String,
    /// The phrase's line there, from 1.
    pub line: usize,
    /// The reading that shows it.
    pub reading: Reading,
    /// The string of the body that it is in, as bytes between its quotes; `None` where it lies over several.
    pub span: Option<(u32, u32)>,
}

/// A way to read a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// As it is.
    Plain,
    /// By the looks of its characters.
    Lookalikes,
    /// Digits and signs as letters.
    Leetspeak,
    /// As what it stands for.
    Encodings,
}

impl Bundle {
    /// The phrases of its lists that a request holds; the first ones of each list.
    ///
    /// # Errors
    /// None of a bundle that was read.
    pub fn explain(&self, endpoint: &'static Endpoint, body: &[u8], scan: &Scan) -> Result<Vec<Hit>, BundleError> {
        let mut hits = Vec::new();
        for (file, lines, config) in self.lists() {
            let search = Search { endpoint, body, scan, readings: config.readings };
            for phrase in search.phrases(&config.deny_list.phrases)? {
                let own = &config.deny_list.phrases[phrase..=phrase];
                let (reading, span) = (search.reading(own)?, search.span(own)?);
                hits.push(Hit { file: file.clone(), line: lines[phrase], reading, span });
            }
        }
        Ok(hits)
    }
}

struct Search<'a> {
    endpoint: &'static Endpoint,
    body: &'a [u8],
    scan: &'a Scan,
    readings: ReadingsConfig,
}

impl Search<'_> {
    /// The numbers of phrases that the request holds.
    fn phrases(&self, phrases: &[String]) -> Result<Vec<usize>, BundleError> {
        let mut found = Vec::new();
        let all = 0..phrases.len();
        let mut todo = vec![all];
        while let Some(part) = todo.pop() {
            if found.len() == HITS_MAX || !self.denies(&phrases[part.clone()], self.readings)? {
                continue;
            }
            if part.len() == 1 {
                found.push(part.start);
            } else {
                let middle = part.start + part.len() / 2;
                todo.extend([middle..part.end, part.start..middle]);
            }
        }
        Ok(found)
    }

    /// The first reading that shows a phrase.
    fn reading(&self, phrase: &[String]) -> Result<Reading, BundleError> {
        let none = ReadingsConfig { lookalikes: false, leetspeak: false, encodings: false };
        for (reading, readings) in [
            (Reading::Plain, none),
            (Reading::Lookalikes, ReadingsConfig { lookalikes: true, ..none }),
            (Reading::Leetspeak, ReadingsConfig { leetspeak: true, ..none }),
        ] {
            if self.denies(phrase, readings)? {
                return Ok(reading);
            }
        }
        Ok(Reading::Encodings)
    }

    /// The first text of the body that holds a phrase by itself.
    fn span(&self, phrase: &[String]) -> Result<Option<(u32, u32)>, BundleError> {
        for text in self.scan.texts() {
            let body = json!({"prompt": text.read(self.body)}).to_string();
            let Ok(scan) = scan(body.as_bytes(), &COMPLETIONS, &Limits::default()) else { continue };
            let alone = Search { endpoint: &COMPLETIONS, body: body.as_bytes(), scan: &scan, readings: self.readings };
            if alone.denies(phrase, self.readings)? {
                return Ok(Some((text.raw.start, text.raw.end)));
            }
        }
        Ok(None)
    }

    fn denies(&self, phrases: &[String], readings: ReadingsConfig) -> Result<bool, BundleError> {
        if phrases.is_empty() {
            return Ok(false);
        }
        let policy = self.policy(phrases, readings)?;
        let who = policy.identify(Presented::Nothing, None, Moment(Duration::ZERO));
        let decided = who.and_then(|who: Identified| {
            policy.decide(&Facts { who: &who, endpoint: self.endpoint, body: self.body, scan: self.scan })
        });
        Ok(matches!(decided, Err(Rejection::PromptBlocked { .. })))
    }

    fn policy(&self, phrases: &[String], readings: ReadingsConfig) -> Result<Policy, BundleError> {
        let mut config = PolicyConfig { readings, ..PolicyConfig::default() };
        config.deny_list.phrases = phrases.to_vec();
        Ok(Policy::new(&config)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use wire::openai::endpoint::CHAT;

    #[test]
    fn each_hit_names_its_line_its_reading_and_its_place() {
        let files = BTreeMap::from([
            ("deny.txt".to_owned(), b"# first\nred button\nblue door\ngreen gate\nhidden lever\n".to_vec()),
            ("annotate/legal.txt".to_owned(), b"court order\n".to_vec()),
        ]);
        let bundle = Bundle::read(&files).expect("a bundle");
        let body = r#"{"messages":[{"role":"user","content":"a court order: r3d butt0n, blu\u0435 door"},
            {"role":"user","content":"hidden"},{"role":"user","content":"lever aGVsbG8gZ3JlZW4gZ2F0ZQ=="}]}"#;
        let scan = scan(body.as_bytes(), &CHAT, &Limits::default()).expect("a body");
        let hits = bundle.explain(&CHAT, body.as_bytes(), &scan).expect("explains");
        let told: Vec<_> =
            hits.iter().map(|hit| (hit.file.as_str(), hit.line, hit.reading, hit.span.is_some())).collect();
        assert_eq!(
            told,
            [
                ("deny.txt", 2, Reading::Leetspeak, true),
                ("deny.txt", 3, Reading::Lookalikes, true),
                ("deny.txt", 4, Reading::Encodings, true),
                ("deny.txt", 5, Reading::Plain, false),
                ("annotate/legal.txt", 1, Reading::Plain, true),
            ]
        );
        let (start, end) = hits[0].span.expect("within one text");
        assert!(body[start as usize..end as usize].contains("butt0n"));
    }
}
