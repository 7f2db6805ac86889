//! The numbers of a run: pure functions of its event log.
//!
//! Definitions, since tools disagree (all in milliseconds):
//! - *ttfb*: sent → response headers. *ttfc*: sent → first chunk with choices, even an empty one
//!   (what vLLM's benchmark calls TTFT).
//! - *ttft*: → first chunk with non-empty content; *e2e*: → last such chunk. Both twice: from the
//!   intended send time (`_scheduled`: what a user who arrived then waited) and from the actual one.
//! - *itl*: gaps between successive content chunks, pooled over all requests.
//! - *tpot*: (last − first content) / (completion tokens − 1), one value per request with at least
//!   two tokens, as the server counts them; where it does not, chunks are counted.
//! - *send lag*: actual − intended send time: the harness's own fault, never the server's.
//!
//! Latencies are of requests that succeeded; goodput is over all that were attempted.

use super::args::Slo;
use super::event::{Outcome, RequestEvent};
use serde::Serialize;
use std::collections::BTreeMap;

/// The send lag above which a request was sent late.
const LAG_MS_MAX: f64 = 1.0;
/// The same as a share of the mean time between arrivals.
const LAG_SHARE_MAX: f64 = 0.05;
/// The share of late requests above which a run is invalid.
const LATE_SHARE_MAX: f64 = 0.01;
/// The most late requests that are allowed whatever their share: of a hundred or fewer, the 99th percentile is the
/// maximum, and one hiccup of the machine says nothing about the run.
const LATE_ALLOWED: usize = 2;

/// The numbers of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Requests that the schedule held.
    pub attempted: usize,
    /// Those that got a whole answer.
    pub ok: usize,
    /// Every outcome that occurred, and how often.
    pub outcomes: BTreeMap<&'static str, usize>,
    /// The share of attempted requests that did not get a whole answer, dropped ones included.
    pub error_rate: f64,
    /// One detail for each kind of failure, to start looking from.
    pub examples: BTreeMap<&'static str, String>,
    /// Good answers without any text.
    pub empty_answers: usize,
    /// From the first intended send to the last end, in seconds.
    pub window_s: f64,
    /// Good answers per second of the window.
    pub requests_per_s: f64,
    /// Tokens generated for good answers, per second of the window.
    pub output_tokens_per_s: f64,
    /// Prompt tokens of good answers, as the server counts them.
    pub prompt_tokens: u64,
    /// Completion tokens of good answers; chunks where the server does not count.
    pub completion_tokens: u64,
    /// Actual − intended send time.
    pub send_lag_ms: Option<Distribution>,
    /// Sent → headers.
    pub ttfb_ms: Option<Distribution>,
    /// Sent → first chunk.
    pub ttfc_ms: Option<Distribution>,
    /// Sent → first content.
    pub ttft_ms: Option<Distribution>,
    /// Intended → first content.
    pub ttft_scheduled_ms: Option<Distribution>,
    /// Gaps between content chunks, pooled.
    pub itl_ms: Option<Distribution>,
    /// Time per output token after the first.
    pub tpot_ms: Option<Distribution>,
    /// Sent → last content.
    pub e2e_ms: Option<Distribution>,
    /// Intended → last content.
    pub e2e_scheduled_ms: Option<Distribution>,
    /// The requests that met the limits, where limits were given.
    pub goodput: Option<Goodput>,
    /// Reasons not to believe the run; empty if there are none.
    pub invalid: Vec<String>,
}

/// Exact quantiles (nearest rank) of some values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distribution {
    /// The number of values.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// The least.
    pub min: f64,
    /// Half are at most this.
    pub p50: f64,
    /// 90 % are at most this.
    pub p90: f64,
    /// 99 % are at most this.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
}

/// The requests that met every limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Goodput {
    /// The limits.
    pub slo: Slo,
    /// The number of requests that met them.
    pub good: usize,
    /// Their share of all attempted requests: a failure is not a good answer.
    pub share: f64,
    /// Good ones per second of the window.
    pub requests_per_s: f64,
}

impl Distribution {
    /// The distribution of `values`; `None` where there are none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let [p50, p90, p99] = [50, 90, 99].map(|percent| values[(percent * values.len()).div_ceil(100) - 1]);
        Some(Self { count: values.len(), mean, min, p50, p90, p99, max })
    }
}

/// Reads a run's events. `rate_per_s` is the rate that was asked for, against which the send lag is
/// judged.
#[must_use]
pub fn summarise(events: &[RequestEvent], rate_per_s: f64, slo: Option<&Slo>) -> Summary {
    let good: Vec<&RequestEvent> = events.iter().filter(|event| event.outcome == Outcome::Ok).collect();
    let window_s = window_s(events);
    let (outcomes, examples) = count_outcomes(events);
    let completion_tokens: u64 = good.iter().map(|event| completion_tokens(event)).sum();
    let over = |value: fn(&RequestEvent) -> Option<f64>| {
        Distribution::of(good.iter().filter_map(|event| value(event)).collect())
    };
    let send_lags_ms: Vec<f64> =
        events.iter().filter_map(|event| Some(span_ms(event.intended_ns, event.sent_ns?))).collect();
    Summary {
        attempted: events.len(),
        ok: good.len(),
        error_rate: ratio(events.len() - good.len(), events.len() as f64),
        invalid: objections(&send_lags_ms, outcomes.get("dropped").copied().unwrap_or(0), rate_per_s),
        outcomes,
        examples,
        empty_answers: good.iter().filter(|event| event.content_ns.is_empty()).count(),
        window_s,
        requests_per_s: ratio(good.len(), window_s),
        output_tokens_per_s: ratio(completion_tokens as usize, window_s),
        prompt_tokens: good.iter().filter_map(|event| event.usage).map(|usage| u64::from(usage.prompt_tokens)).sum(),
        completion_tokens,
        send_lag_ms: Distribution::of(send_lags_ms),
        ttfb_ms: over(|event| Some(span_ms(event.sent_ns?, event.headers_ns?))),
        ttfc_ms: over(|event| Some(span_ms(event.sent_ns?, event.first_chunk_ns?))),
        ttft_ms: over(|event| Some(span_ms(event.sent_ns?, *event.content_ns.first()?))),
        ttft_scheduled_ms: over(ttft_scheduled_ms),
        itl_ms: Distribution::of(good.iter().flat_map(|event| gaps_ms(event)).collect()),
        tpot_ms: over(tpot_ms),
        e2e_ms: over(|event| Some(span_ms(event.sent_ns?, *event.content_ns.last()?))),
        e2e_scheduled_ms: over(e2e_scheduled_ms),
        goodput: slo.map(|slo| {
            let good = good.iter().filter(|event| meets(event, slo)).count();
            let share = ratio(good, events.len() as f64);
            Goodput { slo: *slo, good, share, requests_per_s: ratio(good, window_s) }
        }),
    }
}

/// From the intended send time to the first content, as the schedule's user waited.
pub(super) fn ttft_scheduled_ms(event: &RequestEvent) -> Option<f64> {
    Some(span_ms(event.intended_ns, *event.content_ns.first()?))
}

/// From the intended send time to the last content.
pub(super) fn e2e_scheduled_ms(event: &RequestEvent) -> Option<f64> {
    Some(span_ms(event.intended_ns, *event.content_ns.last()?))
}

/// The gaps between successive content chunks.
pub(super) fn gaps_ms(event: &RequestEvent) -> impl Iterator<Item = f64> {
    event.content_ns.windows(2).map(|pair| span_ms(pair[0], pair[1]))
}

fn tpot_ms(event: &RequestEvent) -> Option<f64> {
    let tokens = completion_tokens(event);
    let span = span_ms(*event.content_ns.first()?, *event.content_ns.last()?);
    (tokens >= 2).then(|| span / (tokens - 1) as f64)
}

fn completion_tokens(event: &RequestEvent) -> u64 {
    event.usage.map_or(event.content_ns.len() as u64, |usage| u64::from(usage.completion_tokens))
}

/// Returns true if a good answer met every limit that is set. A limit on something that the answer does
/// not have (gaps of a single chunk) is met; one on text that never came is not.
fn meets(event: &RequestEvent, slo: &Slo) -> bool {
    let gaps = Distribution::of(gaps_ms(event).collect());
    let within = |value: Option<f64>, limit: Option<f64>| match (value, limit) {
        (Some(value), Some(limit)) => value <= limit,
        _ => true,
    };
    !event.content_ns.is_empty()
        && within(ttft_scheduled_ms(event), slo.ttft_ms)
        && within(e2e_scheduled_ms(event), slo.e2e_ms)
        && within(tpot_ms(event), slo.tpot_ms)
        && within(gaps.map(|gaps| gaps.mean), slo.itl_ms)
        && within(gaps.map(|gaps| gaps.max), slo.stall_ms)
}

fn objections(send_lags_ms: &[f64], dropped: usize, rate_per_s: f64) -> Vec<String> {
    let mut objections = Vec::new();
    if dropped > 0 {
        objections.push(format!(
            "{dropped} requests were dropped because too many were in flight: raise --max-in-flight or lower --rate"
        ));
    }
    if send_lags_ms.is_empty() {
        objections.push("no request was sent".into());
        return objections;
    }
    let share_ms = LAG_SHARE_MAX * 1e3 / rate_per_s;
    let limit_ms = LAG_MS_MAX.min(share_ms);
    let late = send_lags_ms.iter().filter(|lag| **lag > limit_ms).count();
    let sent = send_lags_ms.len();
    if late > LATE_ALLOWED && late as f64 > LATE_SHARE_MAX * sent as f64 {
        let why = if share_ms < LAG_MS_MAX { "5 % of the mean time between arrivals" } else { "1 ms" };
        objections.push(format!(
            "the harness sent late: {late} of {sent} requests left more than {limit_ms:.3} ms ({why}) after their time, \
             and 1 % may (or {LATE_ALLOWED}): run it on an idle machine or lower --rate"
        ));
    }
    objections
}

type Counts = (BTreeMap<&'static str, usize>, BTreeMap<&'static str, String>);

fn count_outcomes(events: &[RequestEvent]) -> Counts {
    let mut outcomes = BTreeMap::new();
    let mut examples = BTreeMap::new();
    for event in events {
        *outcomes.entry(event.outcome.name()).or_insert(0) += 1;
        if let Some(detail) = &event.detail {
            examples.entry(event.outcome.name()).or_insert_with(|| detail.clone());
        }
    }
    (outcomes, examples)
}

fn window_s(events: &[RequestEvent]) -> f64 {
    let start = events.iter().map(|event| event.intended_ns).min().unwrap_or(0);
    let end = events.iter().filter_map(|event| event.end_ns).max().unwrap_or(start);
    span_ms(start, end) / 1e3
}

/// Signed, so that a clock that went backwards would show.
fn span_ms(from_ns: u64, to_ns: u64) -> f64 {
    (i128::from(to_ns) - i128::from(from_ns)) as f64 / 1e6
}

fn ratio(part: usize, whole: f64) -> f64 {
    if whole > 0.0 { part as f64 / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::openai::Usage;

    const MS: u64 = 1_000_000;

    /// Intended at `at` ms, sent 0.1 ms later, content at the given ms after `at`.
    fn answered(index: u64, at: u64, content: &[u64]) -> RequestEvent {
        let content_ns: Vec<u64> = content.iter().map(|after| (at + after) * MS).collect();
        let mut event = RequestEvent::planned(index, at * MS);
        event.sent_ns = Some(at * MS + MS / 10);
        event.headers_ns = Some(at * MS + MS);
        event.first_chunk_ns = Some((at + 2) * MS);
        event.end_ns = content_ns.last().map(|last| last + MS);
        event.usage = Some(Usage::new(5, content.len() as u32));
        event.content_ns = content_ns;
        event.status = Some(200);
        event.outcome = Outcome::Ok;
        event
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let hundred = Distribution::of((1..=100).rev().map(f64::from).collect()).expect("values");
        assert_eq!((hundred.p50, hundred.p90, hundred.p99, hundred.max), (50.0, 90.0, 99.0, 100.0));
        let one = Distribution::of(vec![3.0]).expect("a value");
        assert_eq!((one.min, one.p50, one.p99, one.mean), (3.0, 3.0, 3.0, 3.0));
        assert_eq!(Distribution::of(Vec::new()), None);
    }

    #[test]
    fn each_metric_is_what_its_definition_says() {
        let summary = summarise(&[answered(0, 100, &[10, 14, 22])], 4.0, None);
        let only = |distribution: Option<Distribution>| distribution.expect("one value").mean;
        assert!((only(summary.send_lag_ms) - 0.1).abs() < 1e-9);
        assert!((only(summary.ttfb_ms) - 0.9).abs() < 1e-9);
        assert!((only(summary.ttfc_ms) - 1.9).abs() < 1e-9);
        assert!((only(summary.ttft_ms) - 9.9).abs() < 1e-9);
        assert!((only(summary.ttft_scheduled_ms) - 10.0).abs() < 1e-9);
        assert!((only(summary.e2e_scheduled_ms) - 22.0).abs() < 1e-9);
        assert!((only(summary.tpot_ms) - 6.0).abs() < 1e-9, "(22 - 10) / (3 - 1)");
        let itl = summary.itl_ms.expect("two gaps");
        assert_eq!((itl.count, itl.min, itl.max), (2, 4.0, 8.0));
        assert!((summary.window_s - 0.023).abs() < 1e-9);
        assert_eq!((summary.completion_tokens, summary.prompt_tokens), (3, 5));
        assert!(summary.invalid.is_empty());
    }

    #[test]
    fn goodput_counts_failures_as_not_good() {
        let mut failed = RequestEvent::planned(2, 20 * MS);
        failed.sent_ns = Some(20 * MS);
        failed.outcome = Outcome::Unavailable;
        failed.detail = Some("HTTP 503: full".into());
        let events = [answered(0, 0, &[10, 20]), answered(1, 10, &[90, 95]), failed, answered(3, 30, &[5])];
        let slo = Slo { ttft_ms: Some(50.0), itl_ms: Some(20.0), ..Slo::default() };
        let summary = summarise(&events, 4.0, Some(&slo));
        let goodput = summary.goodput.expect("limits were given");
        assert_eq!(goodput.good, 2, "the second is late, the third failed");
        assert!((goodput.share - 0.5).abs() < 1e-9);
        assert!((summary.error_rate - 0.25).abs() < 1e-9);
        assert_eq!(summary.examples["unavailable"], "HTTP 503: full");
    }

    #[test]
    fn limits_on_stall_and_end_hold_per_request() {
        let event = answered(0, 0, &[10, 20, 90]);
        let meets = |slo: Slo| meets(&event, &slo);
        assert!(meets(Slo { stall_ms: Some(70.0), e2e_ms: Some(90.0), tpot_ms: Some(40.0), ..Slo::default() }));
        assert!(!meets(Slo { stall_ms: Some(69.0), ..Slo::default() }));
        assert!(!meets(Slo { e2e_ms: Some(89.0), ..Slo::default() }));
        assert!(!meets(Slo { tpot_ms: Some(39.0), ..Slo::default() }));
        assert!(!super::meets(&answered(0, 0, &[]), &Slo::default()), "no text is no good answer");
    }

    #[test]
    fn a_run_that_dropped_or_lagged_is_invalid_and_says_why() {
        let on_time = answered(0, 0, &[10]);
        let mut late = answered(1, 10, &[10]);
        late.sent_ns = Some(11 * MS + MS / 5);
        let reasons = |events: &[RequestEvent], rate| summarise(events, rate, None).invalid;
        let run = |lates: usize, of: usize| [vec![late.clone(); lates], vec![on_time.clone(); of - lates]].concat();
        assert_eq!(reasons(std::slice::from_ref(&on_time), 100.0), [""; 0]);
        assert!(reasons(&run(3, 3), 1.0)[0].contains("1 ms"), "1.2 ms of lag");
        assert!(reasons(&run(0, 3), 1000.0)[0].contains("5 %"), "0.1 ms of lag, 0.05 ms allowed");
        // One hiccup does not void forty requests, and one in a hundred does not void a thousand.
        for (lates, of) in [(1, 41), (2, 41), (10, 1000)] {
            assert_eq!(reasons(&run(lates, of), 1.0), [""; 0], "{lates} of {of}");
        }
        for (lates, of) in [(3, 41), (11, 1000)] {
            assert!(reasons(&run(lates, of), 1.0)[0].contains(&format!("{lates} of {of}")));
        }
        assert!(reasons(&[on_time, RequestEvent::planned(1, 0)], 1.0)[0].contains("--max-in-flight"));
        assert!(reasons(&[RequestEvent::planned(0, 0)], 1.0)[1].contains("no request was sent"));
    }
}
