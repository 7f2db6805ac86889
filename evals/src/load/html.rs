//! `report.html`: one file, no script, nothing fetched. Charts are SVG written by hand.

use super::event::{Outcome, RequestEvent};
use super::metrics::{e2e_scheduled_ms, gaps_ms, ttft_scheduled_ms};
use super::report::LoadReport;
use std::fmt::Write;

/// The most marks of one chart; more are thinned evenly (the greatest is always kept), so that the
/// file opens in any browser.
const MARKS_MAX: usize = 4000;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
/// Left, bottom: room for the labels.
const MARGIN: (f64, f64) = (64.0, 40.0);

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#1d2733}\
h1{font-size:1.3em}h2{font-size:1.05em;margin-top:2em}table{border-collapse:collapse}\
td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #dde3ea}td:first-child,th:first-child{text-align:left}\
.verdict{padding:.6em 1em;border-radius:6px;background:#e5f4ea}.bad{background:#fbe6e4}\
svg{width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:#4a5868}.axis{stroke:#b6c1cd}.grid{stroke:#e8edf2}";

/// One named set of points, x and y in the chart's units.
struct Series {
    name: &'static str,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

/// The whole page.
pub(super) fn page(report: &LoadReport, events: &[RequestEvent]) -> String {
    let class = if report.passed { "verdict" } else { "verdict bad" };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Forebay load report</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<p class=\"{class}\">{verdict}</p>\n\
         {table}\n<h2>Latency over the run, by intended send time</h2>\n{over_time}\n\
         <h2>Cumulative distribution</h2>\n{cumulative}\n<h2>Outcomes</h2>\n{outcomes}\n\
         <p>{harness}. Times marked <i>from schedule</i> begin when the request was due, not when it could be \
         sent, so a server that froze is not flattered.</p>\n</body></html>\n",
        title = escape(&report.title()),
        verdict = escape(&report.verdict()),
        table = table(report),
        over_time = over_time(events),
        cumulative = cumulative(events),
        outcomes = outcomes(report),
        harness = escape(report.harness),
    )
}

fn table(report: &LoadReport) -> String {
    let mut rows = String::new();
    for (name, distribution) in report.rows() {
        let Some(values) = distribution else { continue };
        let _ = writeln!(
            rows,
            "<tr><td>{name}</td><td>{:.2}</td><td>{:.2}</td><td>{:.2}</td><td>{:.2}</td><td>{:.2}</td><td>{}</td></tr>",
            values.mean, values.p50, values.p90, values.p99, values.max, values.count
        );
    }
    let heads: String =
        ["mean", "p50", "p90", "p99", "max", "count"].iter().map(|head| format!("<th>{head}</th>")).collect();
    format!("<table><tr><th>milliseconds</th>{heads}</tr>\n{rows}</table>")
}

fn outcomes(report: &LoadReport) -> String {
    let mut rows = String::new();
    for (outcome, count) in &report.summary.outcomes {
        let example = report.summary.examples.get(outcome).map_or("", String::as_str);
        let _ = writeln!(rows, "<tr><td>{outcome}</td><td>{count}</td><td>{}</td></tr>", escape(example));
    }
    format!("<table><tr><th>outcome</th><th>requests</th><th>for example</th></tr>\n{rows}</table>")
}

fn over_time(events: &[RequestEvent]) -> String {
    let good = || events.iter().filter(|event| event.outcome == Outcome::Ok);
    let points = |value: fn(&RequestEvent) -> Option<f64>| {
        good().filter_map(|event| Some((event.intended_ns as f64 / 1e9, value(event)?))).collect()
    };
    let failed = events.iter().filter(|event| event.outcome != Outcome::Ok);
    let series = [
        Series { name: "E2E", colour: "#8aa4c8", points: points(e2e_scheduled_ms) },
        Series { name: "TTFT", colour: "#1f6f50", points: points(ttft_scheduled_ms) },
        Series {
            name: "failed",
            colour: "#c0392b",
            points: failed.map(|event| (event.intended_ns as f64 / 1e9, 0.0)).collect(),
        },
    ];
    let axes = Axes::around(&series, "seconds into the run", "milliseconds");
    let mut svg = axes.svg(&series);
    for set in &series {
        for (x, y) in thin(&set.points) {
            let (x, y) = axes.place(x, y);
            let _ = write!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.2\" fill=\"{}\"/>", set.colour);
        }
    }
    svg + "</svg>"
}

fn cumulative(events: &[RequestEvent]) -> String {
    let good = || events.iter().filter(|event| event.outcome == Outcome::Ok);
    let series = [
        Series { name: "TTFT", colour: "#1f6f50", points: steps(good().filter_map(ttft_scheduled_ms).collect()) },
        Series { name: "E2E", colour: "#8aa4c8", points: steps(good().filter_map(e2e_scheduled_ms).collect()) },
        Series { name: "ITL", colour: "#c98a1b", points: steps(good().flat_map(gaps_ms).collect()) },
    ];
    let axes = Axes::around(&series, "milliseconds", "% at most");
    let mut svg = axes.svg(&series);
    for set in &series {
        let line: Vec<String> = thin(&set.points)
            .into_iter()
            .map(|(x, y)| axes.place(x, y))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\" points=\"{}\"/>",
            set.colour,
            line.join(" ")
        );
    }
    svg + "</svg>"
}

/// The points of an empirical distribution function, in percent.
fn steps(mut values: Vec<f64>) -> Vec<(f64, f64)> {
    values.sort_unstable_by(f64::total_cmp);
    let count = values.len() as f64;
    values.into_iter().enumerate().map(|(rank, value)| (value, (rank + 1) as f64 / count * 100.0)).collect()
}

/// At most `MARKS_MAX` of the points: of each run of neighbours, the highest.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let run = points.len().div_ceil(MARKS_MAX).max(1);
    points.chunks(run).filter_map(|run| run.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))).collect()
}

/// The frame of a chart: both axes begin at zero and end at a round number.
struct Axes {
    x_max: f64,
    y_max: f64,
    x_label: &'static str,
    y_label: &'static str,
}

impl Axes {
    fn around(series: &[Series], x_label: &'static str, y_label: &'static str) -> Self {
        let points = || series.iter().flat_map(|set| &set.points);
        Self {
            x_max: round_up(points().map(|point| point.0).fold(0.0, f64::max)),
            y_max: round_up(points().map(|point| point.1).fold(0.0, f64::max)),
            x_label,
            y_label,
        }
    }

    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let (left, bottom) = MARGIN;
        let (wide, high) = (WIDTH - left - 16.0, HEIGHT - bottom - 24.0);
        (left + x / self.x_max * wide, HEIGHT - bottom - y / self.y_max * high)
    }

    /// The opening tag, the grid, the labels and the legend; marks and the closing tag follow.
    fn svg(&self, series: &[Series]) -> String {
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
        for step in 0..=4 {
            let share = f64::from(step) / 4.0;
            let (x, bottom) = self.place(share * self.x_max, 0.0);
            let (left, y) = self.place(0.0, share * self.y_max);
            let (right, _) = self.place(self.x_max, 0.0);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                left - 6.0,
                y + 4.0,
                tidy(share * self.y_max),
                bottom + 16.0,
                tidy(share * self.x_max),
            );
        }
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><text x=\"4\" y=\"12\">{}</text>",
            WIDTH - 16.0,
            HEIGHT - 6.0,
            self.x_label,
            self.y_label
        );
        for (number, set) in series.iter().enumerate() {
            let x = WIDTH - 80.0 * (number as f64 + 1.0);
            let _ = write!(
                svg,
                "<rect x=\"{x}\" y=\"3\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"12\">{}</text>",
                set.colour,
                x + 14.0,
                set.name
            );
        }
        svg
    }
}

/// The next of a few numbers, times a power of ten, whose quarters read well.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 5.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|&top| top >= value)
        .unwrap_or(value)
}

/// Without the last digits that binary fractions leave.
fn tidy(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, top) in
            [(0.0, 1.0), (1.0, 1.0), (1.3, 1.6), (37.0, 40.0), (45.0, 50.0), (0.07, 0.08), (950.0, 1000.0)]
        {
            assert!((round_up(value) - top).abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn thinning_keeps_the_greatest() {
        let points: Vec<(f64, f64)> =
            (0..100_000).map(|x| (f64::from(x), if x == 77_777 { 9.0 } else { 1.0 })).collect();
        let kept = thin(&points);
        assert!(kept.len() <= MARKS_MAX);
        assert!(kept.contains(&(77_777.0, 9.0)));
    }

    #[test]
    fn what_a_server_says_cannot_become_markup() {
        assert_eq!(escape("<b a=\"&\">"), "&lt;b a=&quot;&amp;&quot;&gt;");
    }
}
