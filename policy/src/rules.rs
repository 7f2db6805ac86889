//! The lists that decide, compiled, and those on trial beside them.

use crate::config::{CandidateConfig, ConfigError, PolicyConfig};
use crate::screen::{DenyList, Marks, Read};
use crate::version::BundleId;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use wire::openai::scan::Scan;

/// Compiled lists.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) deny_list: Option<Arc<DenyList>>,
    pub(crate) marks: Option<Marks>,
    pub(crate) version: Option<BundleId>,
}

impl Rules {
    /// Compiles the lists of a configuration.
    pub(crate) fn new(config: &PolicyConfig) -> Result<Self, ConfigError> {
        if config.bundle.is_some() && config.version.is_none() {
            return Err(ConfigError::new("bundle", "was not read; this command knows no bundles"));
        }
        Ok(Self {
            deny_list: DenyList::reading(&config.deny_list, config.readings)?.map(Arc::new),
            marks: Marks::new(config)?,
            version: config.version.clone(),
        })
    }

    /// Compiles the lists on trial; `None` where none are.
    pub(crate) fn candidate(config: &CandidateConfig) -> Result<Option<(Self, Share)>, ConfigError> {
        let share = Share::new(config.share)
            .ok_or_else(|| ConfigError::new("candidate.share", "is no share; write a number from 0 to 1"))?;
        match (&config.bundle, &config.rules) {
            (None, _) => Ok(None),
            (Some(_), Some(rules)) => Ok(Some((Self::new(rules)?, share))),
            (Some(_), None) => Err(ConfigError::new("candidate.bundle", "was not read; this command knows no bundles")),
        }
    }

    /// True if prompts of token ids would pass the lists by.
    pub(crate) fn need_text(&self) -> bool {
        self.deny_list.is_some() || self.marks.as_ref().is_some_and(|marks| marks.redacts)
    }

    /// Reads the texts of a request.
    pub(crate) fn read(&self, body: &[u8], scan: &Scan) -> Read {
        match (&self.marks, &self.deny_list) {
            (Some(marks), _) => marks.read(body, scan),
            (None, Some(list)) => list.read(body, scan),
            (None, None) => Read::default(),
        }
    }
}

/// How much of a body decides whose share it is in: its end, where conversations differ.
const DRAWN_BYTES: usize = 4_096;

/// A share of all requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// Of 2^32 draws, those below.
    below: u64,
}

impl Share {
    fn new(share: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 2^32")]
        (0.0..=1.0).contains(&share).then(|| Self { below: (share * f64::from(u32::MAX) + share) as u64 })
    }

    /// True of its share of bodies; always the same for the same body, so that trying again changes nothing.
    pub(crate) fn has(self, body: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        body[body.len().saturating_sub(DRAWN_BYTES)..].hash(&mut hasher);
        hasher.finish() >> 32 < self.below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_what_it_says() {
        let bodies: Vec<String> = (0..4_000).map(|number| format!("{{\"prompt\":\"{number}\"}}")).collect();
        for (share, least, most) in [(0.0, 0, 0), (0.1, 320, 480), (1.0, 4_000, 4_000)] {
            let share = Share::new(share).expect("a share");
            let count = bodies.iter().filter(|body| share.has(body.as_bytes())).count();
            assert!((least..=most).contains(&count), "{count}");
        }
        assert!([-0.1, 1.1, f64::NAN].into_iter().all(|share| Share::new(share).is_none()));
    }

    #[test]
    fn a_bundle_that_was_not_read_decides_nothing() {
        for (json, field) in [
            (r#"{"bundle":"rules"}"#, "bundle"),
            (r#"{"candidate":{"bundle":"rules","share":0.5}}"#, "candidate.bundle"),
            (r#"{"candidate":{"share":2}}"#, "candidate.share"),
        ] {
            let config: PolicyConfig = serde_json::from_str(json).expect("json");
            assert_eq!(crate::policy::Policy::new(&config).expect_err(field).field, field);
        }
    }

    #[test]
    fn a_candidate_decides_over_its_share_alone() {
        let mut config: PolicyConfig =
            serde_json::from_str(r#"{"deny_list":{"phrases":["red"]},"candidate":{"bundle":"new","share":0.5}}"#)
                .expect("json");
        let rules: PolicyConfig = serde_json::from_str(r#"{"deny_list":{"phrases":["blue"]}}"#).expect("json");
        config.candidate.rules = Some(rules.into());
        let own = Rules::new(&config).expect("own");
        let (candidate, _) = Rules::candidate(&config.candidate).expect("valid").expect("one");
        let denies = |rules: &Rules, text| rules.deny_list.as_ref().is_some_and(|list| list.find(text).is_some());
        assert!(
            denies(&own, "red") && !denies(&own, "blue") && denies(&candidate, "blue") && !denies(&candidate, "red")
        );
    }
}
