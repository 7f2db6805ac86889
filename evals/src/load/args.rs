//! The arguments of `forebay eval load`, and what they mean.

use super::schedule::{Arrivals, REQUESTS_MAX, arrival_times};
use rustls::ClientConfig;
use serde::Serialize;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Arguments that cannot be honoured; the process should exit with 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Sends chat completions at a fixed rate, whatever the answers do, and reports latencies.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  forebay eval load http://127.0.0.1:8080
  forebay eval load http://127.0.0.1:8080 --rate 40 --duration 8s --out report
  forebay eval load --url http://127.0.0.1:8080 --slo ttft=500ms,itl=50ms --json

Exit code: 0 when the run is valid and at most --max-error-rate of the requests
failed; 1 otherwise; 2 for usage.")]
pub struct LoadArgs {
    /// The server's address, such as http://127.0.0.1:8080
    #[arg(value_name = "URL", required_unless_present = "url", conflicts_with = "url")]
    pub target: Option<String>,
    /// The same as the positional URL
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The model to ask [default: the first of /v1/models]
    #[arg(long)]
    pub model: Option<String>,
    /// Requests per second
    #[arg(long, default_value = "4", value_parser = positive)]
    pub rate: f64,
    /// The process by which requests follow each other
    #[arg(long, value_enum, default_value = "poisson")]
    pub arrivals: Arrivals,
    /// The time for which requests are sent, such as 500ms, 8s or 2m; answers may take --timeout longer
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Decides arrival times and made-up prompts
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Make up prompts of this many words, or of MIN..MAX words, instead of asking short questions
    #[arg(long, value_name = "N|MIN..MAX", conflicts_with = "prompt_file")]
    pub prompt_words: Option<Words>,
    /// JSON lines, each a list of chat messages or an object with `messages`, used in turn
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// The most tokens of an answer
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// Ask for answers of exactly --max-tokens (vLLM's `ignore_eos`)
    #[arg(long)]
    pub ignore_eos: bool,
    /// The sampling temperature [default: the model's]
    #[arg(long, value_parser = temperature)]
    pub temperature: Option<f64>,
    /// Stream the answers: the default; here so that a command line can say so
    #[arg(long, conflicts_with = "no_stream")]
    pub stream: bool,
    /// Ask for whole answers: time to first token is then the time to the answer
    #[arg(long)]
    pub no_stream: bool,
    /// Sent as a bearer token
    #[arg(long, env = "FOREBAY_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// A PEM file with the authorities of a server at an https:// URL, in place of the system's (curl's name)
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// A PEM file with the certificate to show to the server (curl's name)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// A PEM file with that certificate's private key (curl's name)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// The settings that these three files make, for a server at an https:// URL
    #[arg(skip)]
    pub tls: Option<Arc<ClientConfig>>,
    /// The time that one request may take
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
    /// Requests at once; one that is due beyond it is dropped, counted, and invalidates the run
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_in_flight: u32,
    /// Requests sent one by one before the clock starts
    #[arg(long, value_name = "REQUESTS", default_value_t = 1)]
    pub warm_up: u32,
    /// The limits that a good request meets, such as ttft=500ms,itl=50ms,e2e=2s (also tpot, stall)
    #[arg(long, value_name = "LIMITS")]
    pub slo: Option<Slo>,
    /// The share of failed requests, 0 to 1, up to which the exit code is 0
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    pub max_error_rate: f64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// A new folder for events.jsonl, summary.json and report.html; one that holds a run is refused
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

impl LoadArgs {
    /// The server's root, as [`base_url`] has it.
    ///
    /// # Errors
    /// An address that is no server's.
    pub fn base_url(&self) -> Result<String, UsageError> {
        base_url(self.target.as_deref().or(self.url.as_deref()).unwrap_or_default())
    }

    /// The intended send times in nanoseconds.
    pub(super) fn schedule(&self) -> Result<Vec<u64>, UsageError> {
        let expected = self.rate * self.duration.as_secs_f64();
        if expected > REQUESTS_MAX {
            return Err(UsageError(format!(
                "{expected:.0} requests exceed the {REQUESTS_MAX:.0} that one run keeps: lower --rate or --duration"
            )));
        }
        let times = arrival_times(self.rate, self.duration, self.arrivals, self.seed);
        if times.is_empty() {
            return Err(UsageError(format!(
                "no request falls into the run ({expected:.2} are expected): raise --rate or --duration, or change --seed"
            )));
        }
        Ok(times)
    }
}

/// The root of the server at an address that somebody gave, such as `http://127.0.0.1:8080`: no `/v1`, no final slash.
///
/// # Errors
/// The problem with the address.
pub fn base_url(given: &str) -> Result<String, UsageError> {
    // A password, or a token in a query, is not repeated.
    let shown = if given.contains(['@', '?', '#']) { "the URL" } else { given };
    let refuse =
        |why: &str| UsageError(format!("`{shown}` is not a server's address: {why}; give one such as {EXAMPLE}"));
    // A parser of HTTP's targets would drop it.
    if given.contains('#') {
        return Err(refuse("a fragment has no place in it"));
    }
    let trimmed = given.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches('/');
    let uri: http::Uri = trimmed.parse().map_err(|error: http::uri::InvalidUri| refuse(&error.to_string()))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(refuse("it must begin with http:// or https://"));
    }
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return Err(refuse("it needs a host and no credentials (use --api-key)"));
    }
    if uri.query().is_some() {
        return Err(refuse("a query has no place in it"));
    }
    Ok(trimmed.to_owned())
}

const EXAMPLE: &str = "http://127.0.0.1:8080";

/// The number of words of a made-up prompt: a half-open range would surprise here, so both ends count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// The fewest.
    pub min: u32,
    /// The most.
    pub max: u32,
}

/// The longest made-up prompt in words.
const WORDS_MAX: u32 = 1_000_000;

impl FromStr for Words {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        let [min, max] = [min, max].map(|word| word.trim().parse::<u32>().unwrap_or(0));
        if min == 0 || max < min || max > WORDS_MAX {
            return Err(format!("expected a number of words or MIN..MAX, 1 to {WORDS_MAX}, such as 64 or 16..256"));
        }
        Ok(Self { min, max })
    }
}

/// The limits of a good request: every one that is set holds. Times in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Slo {
    /// Time to first token, from the intended send time.
    pub ttft_ms: Option<f64>,
    /// The request's mean gap between chunks with content.
    pub itl_ms: Option<f64>,
    /// Time per output token after the first.
    pub tpot_ms: Option<f64>,
    /// The request's longest gap between chunks with content.
    pub stall_ms: Option<f64>,
    /// Time to the last token, from the intended send time.
    pub e2e_ms: Option<f64>,
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut slo = Self::default();
        for part in text.split(',') {
            let (name, limit) = part.split_once('=').ok_or_else(|| format!("`{part}` is not NAME=DURATION"))?;
            let limit_ms = duration(limit)?.as_secs_f64() * 1e3;
            let field = match name.trim() {
                "ttft" => &mut slo.ttft_ms,
                "itl" => &mut slo.itl_ms,
                "tpot" => &mut slo.tpot_ms,
                "stall" => &mut slo.stall_ms,
                "e2e" => &mut slo.e2e_ms,
                other => return Err(format!("`{other}` is not one of ttft, itl, tpot, stall, e2e")),
            };
            if field.replace(limit_ms).is_some() {
                return Err(format!("`{name}` is given twice"));
            }
        }
        Ok(slo)
    }
}

/// A positive duration with a unit: ms, s, m or h. A day bounds it, so that sums cannot overflow.
fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a duration needs a unit, such as 500ms, 8s or 2m".into()),
    };
    let seconds = digits.parse::<f64>().map_err(|_| format!("`{digits}` is not a number"))? * unit_s;
    if !(1e-6..=86_400.0).contains(&seconds) {
        return Err("a duration must be above zero and at most a day".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e6 => Ok(rate),
        _ => Err("expected a number above 0, at most 1000000".into()),
    }
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(temperature) if (0.0..=2.0).contains(&temperature) => Ok(temperature),
        _ => Err("expected a number between 0 and 2".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number between 0 and 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn parse(words: &str) -> Result<LoadArgs, clap::Error> {
        let words = std::iter::once("load").chain(words.split_whitespace());
        Command::try_parse_from(words).map(|command| command.load)
    }

    #[test]
    fn the_url_may_be_positional_or_named_but_is_needed_once() {
        for words in ["http://h:1", "--url http://h:1", "http://h:1/v1/", "--url http://h:1/"] {
            assert_eq!(parse(words).expect(words).base_url().expect(words), "http://h:1");
        }
        assert_eq!(parse("https://h/v1").expect("parses").base_url().expect("a server"), "https://h");
        assert!(parse("").is_err());
        assert!(parse("http://h:1 --url http://h:1").is_err());
    }

    #[test]
    fn an_address_that_is_no_server_says_what_to_give() {
        for url in
            ["localhost:8080", "ftp://h", "http://user:hush@h", "http://h?x=hush", "http://h/#hush", "h", "https://"]
        {
            let error = parse(url).expect("parses").base_url().expect_err(url).to_string();
            assert!(error.contains("http://127.0.0.1:8080") && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn wrong_values_are_refused_before_anything_is_sent() {
        let wrong = [
            "--rate 0",
            "--rate -1",
            "--rate NaN",
            "--duration 8",
            "--duration -1s",
            "--duration 0s",
            "--duration 2d",
            "--max-tokens 0",
            "--max-error-rate 2",
            "--slo ttft",
            "--slo latency=1s",
            "--slo ttft=1s,ttft=2s",
            "--prompt-words 0",
            "--prompt-words 5..2",
            "--prompt-words 1 --prompt-file x",
            "--stream --no-stream",
            "--arrivals gamma",
            "--max-in-flight 0",
            "--cert x.pem",
            "--key x.pem",
        ];
        for words in wrong {
            assert!(parse(&format!("http://h {words}")).is_err(), "{words}");
        }
    }

    #[test]
    fn limits_durations_and_words_are_read() {
        let args = parse("http://h --slo ttft=500ms,e2e=2s --duration 1.5m --prompt-words 3..9").expect("parses");
        let slo = Slo { ttft_ms: Some(500.0), e2e_ms: Some(2000.0), ..Slo::default() };
        assert_eq!(args.slo, Some(slo));
        assert_eq!(args.duration, Duration::from_secs(90));
        assert_eq!(args.prompt_words, Some(Words { min: 3, max: 9 }));
    }

    #[test]
    fn a_schedule_too_long_or_empty_is_a_usage_error() {
        let long = parse("http://h --rate 1000000 --duration 2s").expect("parses").schedule();
        let empty = parse("http://h --rate 0.001 --duration 1ms").expect("parses").schedule();
        assert!(long.expect_err("too long").to_string().contains("--rate"));
        assert!(empty.expect_err("empty").to_string().contains("--duration"));
    }
}
