//! The definition of a metric, as data, and the edges that histograms share. It knows no registry and no value.

/// The definition of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Def {
    /// The full name, with its unit.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// The labels' names. Their values must come from a bounded set.
    pub labels: &'static [&'static str],
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// The values of the last label, where they are few and known.
    pub values: &'static [&'static str],
}

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, with the upper edges of its buckets.
    Histogram(&'static [f64]),
}

impl Def {
    /// A counter.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, labels, kind: Kind::Counter, values: &[] }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, labels, kind: Kind::Gauge, values: &[] }
    }

    /// A histogram.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        edges: &'static [f64],
    ) -> Self {
        Self { name, help, labels, kind: Kind::Histogram(edges), values: &[] }
    }

    /// The same, with the values that its last label takes.
    #[must_use]
    pub const fn of(mut self, values: &'static [&'static str]) -> Self {
        self.values = values;
        self
    }

    /// The label values that are there from the start, where its labels but the last have the values `first`. None where
    /// those are not all that there are, or the last one's are not known.
    pub(crate) fn first_values<'a>(&self, first: &[&'a str]) -> Vec<Vec<&'a str>> {
        match self.labels.len().checked_sub(first.len()) {
            Some(0) => vec![first.to_vec()],
            Some(1) => self.values.iter().map(|value| [first, &[*value]].concat()).collect(),
            _ => Vec::new(),
        }
    }
}

/// Upper edges, in seconds, for the time to the first token: OpenTelemetry's GenAI conventions,
/// and beyond, as vLLM: prompts wait for minutes where a queue is long.
pub(crate) const TTFT_EDGES_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 320.0, 640.0, 1280.0,
];
/// Upper edges, in seconds, for the time per token (OpenTelemetry's GenAI conventions, with two finer ones, and vLLM's
/// beyond).
pub(crate) const ITL_EDGES_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0,
];
/// Upper edges, in seconds, for what a turn of the engine takes beside the kernels: 3 % of steps of 1 ms to 1 s.
pub(crate) const STEP_OVERHEAD_EDGES_S: &[f64] =
    &[0.000_03, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];
/// Upper edges, in seconds, for whole requests: OpenTelemetry's GenAI conventions, and as many again doubled.
pub(crate) const REQUEST_EDGES_S: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36,
    1310.72,
];
/// Upper edges for numbers of tokens (vLLM's, up to the longest contexts).
pub(crate) const TOKENS_EDGES: &[f64] = &[
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1_000.0,
    2_000.0,
    5_000.0,
    10_000.0,
    20_000.0,
    50_000.0,
    100_000.0,
    200_000.0,
    500_000.0,
    1_000_000.0,
];

/// Upper edges for the choices that one request asks for (vLLM's).
pub(crate) const CHOICES_EDGES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];
/// Upper edges for the tokens of one step (vLLM's).
pub(crate) const STEP_TOKENS_EDGES: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_apart_up_to_a_quarter_of_an_hour() {
        for edges in [TTFT_EDGES_S, REQUEST_EDGES_S] {
            assert!(edges.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(edges.last().is_some_and(|last| *last > 1_000.0));
        }
    }
}
