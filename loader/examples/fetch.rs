//! Fetches one object of a web server into memory or a file and says how fast: for tuning.
//!
//! `cargo run --release -p forebay-loader --example fetch -- http://127.0.0.1:8000/model.safetensors 5`
//!
//! The second argument is how often; further ones are `KEY=VALUE` of the fetch configuration, such as
//! `concurrency_start=16`, and `out=FILE` to land in a file. The first run also warms memory.

#![expect(clippy::print_stdout, reason = "an example prints what it measures")]

use std::path::Path;
use std::sync::Arc;

use loader::fetch::{self, Budgets, FetchConfig, Job, Keeper, Metrics, Progress, Target};
use loader::landing::LandingError;
use loader::plan::Fetch;
use loader::remote::HttpsSource;
use loader::remote::http::{Client, HttpConfig};
use loader::{Region, Source};
use telemetry::metrics::Registry;

type Failure = Box<dyn std::error::Error>;

/// Takes every extent as it comes: there is no manifest here.
struct Anything;

impl Keeper for Anything {
    fn check(&self, _: u64, _: blake3::Hash, _: &str) -> Result<(), LandingError> {
        Ok(())
    }

    fn keep(&self, _: u64, _: blake3::Hash, _: &[u8]) -> Result<(), LandingError> {
        Ok(())
    }
}

/// User and system time of this process so far, in hundredths of a second, the kernel's tick.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / 100.0)
}

/// The defaults with these `KEY=VALUE` pairs over them, and the file to land in.
fn configure(pairs: impl Iterator<Item = String>) -> Result<(FetchConfig, Option<String>), Failure> {
    let (mut config, mut out) = (serde_json::to_value(FetchConfig::default())?, None);
    for pair in pairs {
        let (key, value) = pair.split_once('=').ok_or("further arguments are KEY=VALUE")?;
        match key {
            "out" => out = Some(value.to_owned()),
            _ => config[key] = serde_json::from_str(value)?,
        }
    }
    Ok((serde_json::from_value(config)?, out))
}

async fn once(source: &Arc<HttpsSource>, name: &str, config: &FetchConfig, out: Option<&str>) -> Result<(), Failure> {
    let object = source.stat(name).await?;
    let bytes = object.bytes;
    let region = match out {
        Some(path) => {
            let _ = std::fs::remove_file(path);
            Region::create_file(Path::new(path), bytes)?
        }
        None => Region::anonymous(name, bytes)?,
    };
    let (step, count) = (config.fetch_bytes / wire::EXTENT_BYTES, bytes.div_ceil(wire::EXTENT_BYTES));
    let starts = (0..count).step_by(usize::try_from(step)?);
    let fetches = starts.map(|start| Fetch { file: 0, extents: start..(start + step).min(count), first_tensor: 0 });
    let job = Job {
        fetches: fetches.collect(),
        targets: vec![Target { objects: vec![object], region, keeper: Arc::new(Anything) }],
        sources: vec![Arc::clone(source) as Arc<dyn Source>],
        budgets: Budgets::new(config),
        progress: Progress::default(),
        seed: 0,
    };
    let cpu_before = cpu_seconds()?;
    let report = fetch::run(job, config, &Metrics::new(&Registry::new())).await?;
    let gigabytes = bytes as f64 / 1e9;
    println!(
        "{:.3} s  {:.3} GB/s  {:.3} CPU-s/GB  {}",
        report.seconds,
        gigabytes / report.seconds,
        (cpu_seconds()? - cpu_before) / gigabytes,
        serde_json::to_string(&report)?
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let url = url::Url::parse(&arguments.next().ok_or("give the URL of an object")?)?;
    let times: usize = arguments.next().map_or(Ok(3), |times| times.parse())?;
    let (config, out) = configure(arguments)?;
    let name = url.path_segments().and_then(|mut segments| segments.next_back()).ok_or("a URL with a path")?.to_owned();
    let source = Arc::new(HttpsSource::new(url.join(".")?, Client::new(&HttpConfig::default())?)?);
    for _ in 0..times {
        once(&source, &name, &config, out.as_deref()).await?;
    }
    Ok(())
}
