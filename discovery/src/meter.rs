//! The metrics of one list of members.

use prometheus::{Gauge, IntCounter};
use std::time::{SystemTime, UNIX_EPOCH};
use telemetry::metrics::Registry;
use telemetry::names;

/// The metrics of one list.
#[derive(Debug)]
pub(crate) struct Meter {
    of: &'static str,
    members: Gauge,
    surplus: Gauge,
    unusable: Gauge,
    sources: Vec<Source>,
}

/// Those of one of its sources.
#[derive(Debug)]
struct Source {
    members: Gauge,
    answered: Gauge,
    ok: IntCounter,
    error: IntCounter,
    refused: usize,
}

impl Meter {
    pub(crate) fn new(registry: &Registry, of: &'static str, sources: &[&'static str]) -> Self {
        let members = registry.gauge(&names::DISCOVERY_MEMBERS).with_label_values(&[of]);
        let left_out = registry.gauge(&names::DISCOVERY_LEFT_OUT);
        let sources = sources.iter().map(|source| Source::new(registry, of, source)).collect();
        let (surplus, unusable) =
            (left_out.with_label_values(&[of, "surplus"]), left_out.with_label_values(&[of, "unusable"]));
        Self { of, members, surplus, unusable, sources }
    }

    /// The use of the list.
    pub(crate) fn of(&self) -> &'static str {
        self.of
    }

    /// Notes the word of a source.
    pub(crate) fn heard(&mut self, source: usize, is_answer: bool, members: usize, refused: usize) {
        let Some(source) = self.sources.get_mut(source) else { return };
        if is_answer {
            source.ok.inc();
            source.refused = refused;
            source.answered.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        } else {
            source.error.inc();
        }
        source.members.set(of(members));
        self.unusable.set(of(self.sources.iter().map(|source| source.refused).sum()));
    }

    /// Notes the list.
    pub(crate) fn listed(&self, members: usize, surplus: usize) {
        self.members.set(of(members));
        self.surplus.set(of(surplus));
    }
}

impl Source {
    fn new(registry: &Registry, of: &str, source: &str) -> Self {
        registry.begin(&names::DISCOVERY_ANSWERS, &[of, source]);
        let answers = registry.counter(&names::DISCOVERY_ANSWERS);
        Self {
            members: registry.gauge(&names::DISCOVERY_SOURCE_MEMBERS).with_label_values(&[of, source]),
            answered: registry.gauge(&names::DISCOVERY_ANSWERED).with_label_values(&[of, source]),
            ok: answers.with_label_values(&[of, source, "ok"]),
            error: answers.with_label_values(&[of, source, "error"]),
            refused: 0,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of members")]
fn of(count: usize) -> f64 {
    count as f64
}
