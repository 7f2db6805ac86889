//! `forebay policy check | test | diff | replay | explain`: bundles before they serve.

use crate::out;
use anyhow::{Context, bail};
use policy::{
    Bundle, Case, Expect, Facts, Hit, Identified, Moment, Obligation, Policy, PolicyConfig, Presented, Rejection,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use wire::openai::scan::{Limits, Scan, scan};
use wire::openai::{CHAT, COMPLETIONS, Endpoint};

/// The most bytes of a bundle.
const BUNDLE_BYTES_MAX: u64 = 256 << 20;
/// The most files of one.
const FILES_MAX: usize = 256;
/// The longest line of a file of requests.
const LINE_BYTES_MAX: u64 = 16 << 20;
/// The most lines that are named.
const NAMED_MAX: usize = 20;

/// Puts a configuration's bundle, where it names one, in the place of its lists, and reads the one on trial.
///
/// # Errors
/// The bundle cannot be read, or is wrong.
pub(crate) fn load_into(config: &mut PolicyConfig) -> anyhow::Result<()> {
    if let Some(path) = config.bundle.clone() {
        read(Path::new(&path))?.apply(config).with_context(|| format!("reading the bundle {path}"))?;
    }
    if let Some(path) = &config.candidate.bundle {
        let mut rules = PolicyConfig::default();
        read(Path::new(path))?.apply(&mut rules)?;
        config.candidate.rules = Some(rules.into());
    }
    Ok(())
}

fn read(dir: &Path) -> anyhow::Result<Bundle> {
    let reading = || format!("reading the bundle {}", dir.display());
    let mut files = BTreeMap::new();
    let mut bytes = 0;
    add_files(dir, "", &mut files, &mut bytes).with_context(reading)?;
    Bundle::read(&files).with_context(reading)
}

/// Adds the files of a directory, hidden ones aside: a mounted ConfigMap has its own there.
fn add_files(dir: &Path, under: &str, files: &mut BTreeMap<String, Vec<u8>>, bytes: &mut u64) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a file has a name that is not UTF-8")?;
        if name.starts_with('.') {
            continue;
        }
        let (path, known) = (entry.path(), format!("{under}{name}"));
        // Of a symbolic link, what it points to.
        let found = std::fs::metadata(&path).with_context(|| known.clone())?;
        if found.is_dir() && under.is_empty() {
            add_files(&path, &format!("{known}/"), files, bytes)?;
            continue;
        }
        *bytes += found.len();
        if !found.is_file() || *bytes > BUNDLE_BYTES_MAX || files.len() == FILES_MAX {
            bail!("`{known}` is no file, or one of more than {FILES_MAX}, or they have over {BUNDLE_BYTES_MAX} bytes");
        }
        files.insert(known.clone(), std::fs::read(&path).with_context(|| known)?);
    }
    Ok(())
}

/// A bundle that decides.
struct Decider {
    bundle: Bundle,
    policy: Policy,
    who: Identified,
}

/// The fate of one request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Fate {
    expect: &'static str,
    labels: Vec<String>,
}

impl Decider {
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let bundle = read(dir)?;
        let mut config = PolicyConfig::default();
        bundle.apply(&mut config)?;
        let policy = Policy::new(&config)?;
        let who = policy.identify(Presented::Nothing, None, Moment(Duration::ZERO))?;
        Ok(Self { bundle, policy, who })
    }

    fn decide(&self, request: &Request) -> Fate {
        let Request { endpoint, body, scan } = request;
        let endpoint = *endpoint;
        match self.policy.decide(&Facts { who: &self.who, endpoint, body, scan }) {
            Ok(admitted) => {
                let is_redacted =
                    admitted.obligations().iter().any(|obligation| matches!(obligation, Obligation::Rewrite(_)));
                let labels = admitted.obligations().iter().filter_map(|obligation| match obligation {
                    Obligation::Annotate(label) => Some(label.to_string()),
                    Obligation::Rewrite(_) => None,
                });
                Fate { expect: if is_redacted { "redact" } else { "pass" }, labels: labels.collect() }
            }
            Err(Rejection::PromptBlocked { .. }) => Fate { expect: "deny", labels: Vec::new() },
            Err(_) => Fate { expect: "refuse", labels: Vec::new() },
        }
    }

    /// The fate of a case's text.
    fn try_case(&self, case: &Case) -> anyhow::Result<Fate> {
        if let Some(prompt) = &case.prompt {
            return Ok(self.decide(&Request::of_text(prompt)?));
        }
        let request = Request::of_text("")?;
        let Request { endpoint, body, scan } = &request;
        let endpoint = *endpoint;
        let admitted = self.policy.decide(&Facts { who: &self.who, endpoint, body, scan })?;
        let answer = case.answer.as_deref().unwrap_or_default();
        let is_denied = admitted.output_screen(false).is_some_and(|mut screen| {
            let pushed = screen.push(answer);
            pushed.blocked || screen.finish().blocked
        });
        Ok(Fate { expect: if is_denied { "deny" } else { "pass" }, labels: Vec::new() })
    }
}

/// A request as traffic has it.
struct Request {
    endpoint: &'static Endpoint,
    body: Vec<u8>,
    scan: Scan,
}

impl Request {
    fn of_text(text: &str) -> anyhow::Result<Self> {
        Self::read(serde_json::json!({"messages": [{"role": "user", "content": text}]}).to_string().into_bytes())
    }

    fn read(body: Vec<u8>) -> anyhow::Result<Self> {
        let limits = Limits::default();
        // A completion has a prompt.
        let as_completion = scan(&body, &COMPLETIONS, &limits)?;
        if as_completion.field("prompt").is_some() {
            return Ok(Self { endpoint: &COMPLETIONS, body, scan: as_completion });
        }
        let scan = scan(&body, &CHAT, &limits)?;
        Ok(Self { endpoint: &CHAT, body, scan })
    }
}

/// The numbers of a bundle.
#[derive(Debug, Serialize)]
struct Checked {
    version: String,
    lists: BTreeMap<String, usize>,
    cases: usize,
}

/// Compiles a bundle and prints its numbers.
///
/// # Errors
/// The bundle is wrong.
pub(crate) fn check(dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let bundle = read(dir)?;
    let lists = bundle.lists().map(|(file, lines, _)| (file, lines.len())).filter(|(_, count)| *count > 0).collect();
    let checked = Checked { version: bundle.id().to_string(), lists, cases: bundle.cases().len() };
    if json {
        out::line(serde_json::to_string(&checked)?)?;
    } else {
        out::line(format_args!("version {}", checked.version))?;
        checked.lists.iter().try_for_each(|(file, count)| out::line(format_args!("{file}: {count} phrases")))?;
        out::line(format_args!("{} cases; `forebay policy test` runs them", checked.cases))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a bundle's cases.
///
/// # Errors
/// The bundle is wrong.
pub(crate) fn test(dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let decider = Decider::read(dir)?;
    let mut failed = Vec::new();
    for (number, case) in decider.bundle.cases().iter().enumerate() {
        let fate = decider.try_case(case)?;
        let is_labelled = case.labels.as_ref().is_none_or(|labels| *labels == fate.labels);
        if fate.expect != word(case.expect) || !is_labelled {
            // Its words are secrets, as lists are.
            failed.push(serde_json::json!({"case": number + 1, "expected": word(case.expect), "became": fate}));
        }
    }
    let count = decider.bundle.cases().len();
    if json {
        out::line(serde_json::json!({"cases": count, "failed": failed}))?;
    } else {
        failed.iter().take(NAMED_MAX).try_for_each(out::line)?;
        out::line(format_args!("{} of {count} cases passed", count - failed.len()))?;
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const fn word(expect: Expect) -> &'static str {
    match expect {
        Expect::Pass => "pass",
        Expect::Deny => "deny",
        Expect::Redact => "redact",
        Expect::Refuse => "refuse",
    }
}

/// The lines of a file of requests that met one fate.
#[derive(Debug, Default, Serialize)]
struct Lines {
    count: u64,
    /// The first ones.
    lines: Vec<u64>,
}

impl Lines {
    fn add(&mut self, line: u64) {
        self.count += 1;
        if self.lines.len() < NAMED_MAX {
            self.lines.push(line);
        }
    }
}

/// Counts what a bundle makes of a file of requests.
///
/// # Errors
/// The bundle is wrong, or the file.
pub(crate) fn replay(dir: &Path, file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let decider = Decider::read(dir)?;
    let mut counted: BTreeMap<String, Lines> = BTreeMap::new();
    for_each_request(file, |line, request| {
        let fate = decider.decide(request);
        counted.entry(fate.expect.to_owned()).or_default().add(line);
        fate.labels.iter().for_each(|label| counted.entry(format!("label {label}")).or_default().add(line));
    })?;
    report(json, &counted)
}

/// Counts the requests of a file that two bundles decide over differently.
///
/// # Errors
/// One of the bundles is wrong, or the file.
pub(crate) fn diff(old: &Path, new: &Path, file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let (old, new) = (Decider::read(old)?, Decider::read(new)?);
    let mut counted: BTreeMap<String, Lines> = BTreeMap::new();
    for_each_request(file, |line, request| {
        let (before, after) = (old.decide(request), new.decide(request));
        if before.expect != after.expect {
            counted.entry(format!("{} becomes {}", before.expect, after.expect)).or_default().add(line);
        } else if before.labels != after.labels {
            counted.entry("other labels".to_owned()).or_default().add(line);
        }
    })?;
    report(json, &counted)
}

fn report(json: bool, counted: &BTreeMap<String, Lines>) -> anyhow::Result<ExitCode> {
    if json {
        out::line(serde_json::to_string(counted)?)?;
    } else {
        for (fate, Lines { count, lines }) in counted {
            let named: Vec<String> = lines.iter().map(u64::to_string).collect();
            let more = if *count > lines.len() as u64 { ", …" } else { "" };
            out::line(format_args!("{fate}: {count} (lines {}{more})", named.join(", ")))?;
        }
        if counted.is_empty() {
            out::line("no difference")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads a file of requests, a body a line, one after the other.
fn for_each_request(path: &Path, mut each: impl FnMut(u64, &Request)) -> anyhow::Result<()> {
    let file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut reader = BufReader::new(file);
    for number in 1.. {
        let mut line = Vec::new();
        let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.with_context(|| format!("reading {}", path.display()))? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let request = Request::read(line).with_context(|| format!("{}, line {number}", path.display()))?;
        each(number, &request);
    }
    Ok(())
}

/// Says which phrases a request holds: by file and line, reading and place.
///
/// # Errors
/// The bundle is wrong, or the request.
pub(crate) fn explain(dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let bundle = read(dir)?;
    let mut given = Vec::new();
    std::io::stdin().take(LINE_BYTES_MAX).read_to_end(&mut given).context("reading standard input")?;
    let is_body = given.trim_ascii_start().starts_with(b"{");
    let text = String::from_utf8_lossy(&given);
    let request = if is_body { Request::read(given)? } else { Request::of_text(&text)? };
    let hits = bundle.explain(request.endpoint, &request.body, &request.scan)?;
    if json {
        out::line(serde_json::json!({"version": bundle.id().as_str(), "hits": hits}))?;
        return Ok(ExitCode::SUCCESS);
    }
    out::line(format_args!("version {}", bundle.id()))?;
    for Hit { file, line, reading, span } in &hits {
        let reading = serde_json::to_value(reading)?;
        let place = span.map_or_else(|| "over several texts".into(), |(start, end)| format!("bytes {start} to {end}"));
        out::line(format_args!("{file}, line {line}: {place}, read as {}", reading.as_str().unwrap_or_default()))?;
    }
    if hits.is_empty() {
        out::line("no phrase of the bundle is in it")?;
    }
    Ok(ExitCode::SUCCESS)
}
