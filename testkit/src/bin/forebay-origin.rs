//! `forebay-origin`: the fault origin over a directory, for benchmarks and by hand. It only reads
//! flags; everything it does is in `testkit::origin`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its user")]

use clap::{Parser, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use testkit::origin::{Access, Faults, Lognormal, Origin, Shape};

/// Serves a directory over HTTP with seeded faults, and keeps exact books.
///
/// The first line of standard output is the URL. GET /__origin/account reads the books, POST
/// /__origin/reset begins them anew, POST /__origin/faults (JSON) changes the faults.
#[derive(Debug, Parser)]
#[command(name = "forebay-origin", version)]
struct Flags {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Directory to serve
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Serve BYTES bytes computed from the seed under NAME; may be given again
    #[arg(long, value_name = "NAME=BYTES", value_parser = generated)]
    generated: Vec<(String, u64)>,
    /// The store to imitate
    #[arg(long, value_enum, default_value = "http")]
    shape: Manners,
    /// Seed of every draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Cap of all connections together, in MB/s (decimal) of body bytes
    #[arg(long, value_name = "MB/S")]
    total_mbps: Option<f64>,
    /// Cap of each connection, in MB/s (decimal) of body bytes
    #[arg(long, value_name = "MB/S")]
    connection_mbps: Option<f64>,
    /// Milliseconds before every head
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    first_byte_ms: f64,
    /// Median of a lognormal time before every head, on top
    #[arg(long, value_name = "MS")]
    first_byte_median_ms: Option<f64>,
    /// Sigma of that time
    #[arg(long, default_value_t = 1.0)]
    first_byte_sigma: f64,
    /// Requests per second of one object; more are refused
    #[arg(long, value_name = "N")]
    object_rps: Option<f64>,
    /// Requests per second of one account; more are refused
    #[arg(long, value_name = "N")]
    account_rps: Option<f64>,
    /// Retry-After of refusals
    #[arg(long, value_name = "SECONDS")]
    retry_after: Option<u64>,
    /// Rate of 503
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    fail_503: f64,
    /// Rate of bodies that stop with the connection open
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    stall: f64,
    /// How long they stop; for ever if not given
    #[arg(long, value_name = "MS")]
    stall_ms: Option<u64>,
    /// Rate of bodies cut by a TCP reset
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    reset: f64,
    /// Rate of bodies that end early
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    short: f64,
    /// Rate of bodies with a flipped bit
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    flip: f64,
    /// Rate of wrong Content-Range heads
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    wrong_range: f64,
    /// Faults as JSON, in place of the flags above
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Require signed requests (a bearer token with --shape hf)
    #[arg(long)]
    require_credentials: bool,
    /// Connections served at once; more are answered 503
    #[arg(long, default_value_t = 512)]
    connections: u64,
    /// Congestion control of the sending side (cubic, bbr); the system's own if not given
    #[arg(long)]
    congestion: Option<String>,
}

/// Shapes as flags.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Manners {
    Http,
    S3,
    Azure,
    Hf,
}

fn generated(text: &str) -> Result<(String, u64), String> {
    let (name, bytes) = text.rsplit_once('=').ok_or("write NAME=BYTES")?;
    Ok((name.to_owned(), bytes.parse().map_err(|error| format!("{bytes}: {error}"))?))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are positive and far below 2^64")]
fn bytes_per_second(megabytes: f64) -> u64 {
    (megabytes * 1e6).max(1.0) as u64
}

impl Flags {
    fn faults(&self) -> Result<Faults, String> {
        if let Some(path) = &self.faults {
            let told = |error: &dyn std::fmt::Display| format!("reading the faults in {}: {error}", path.display());
            let text = std::fs::read(path).map_err(|error| told(&error))?;
            return serde_json::from_slice(&text).map_err(|error| told(&error));
        }
        let spread = |median_ms| Lognormal { median_ms, sigma: self.first_byte_sigma };
        Ok(Faults {
            total_bytes_per_second: self.total_mbps.map(bytes_per_second),
            connection_bytes_per_second: self.connection_mbps.map(bytes_per_second),
            first_byte_ms: self.first_byte_ms,
            first_byte_spread: self.first_byte_median_ms.map(spread),
            object_requests_per_second: self.object_rps,
            account_requests_per_second: self.account_rps,
            retry_after_seconds: self.retry_after,
            unavailable: self.fail_503,
            stall: self.stall,
            stall_ms: self.stall_ms,
            reset: self.reset,
            short: self.short,
            flip: self.flip,
            wrong_content_range: self.wrong_range,
            ..Faults::default()
        })
    }

    fn start(self) -> Result<Origin, String> {
        let faults = self.faults()?;
        let shape = match self.shape {
            Manners::Http => Shape::Http,
            Manners::S3 => Shape::S3,
            Manners::Azure => Shape::Azure,
            Manners::Hf => Shape::Hub,
        };
        let access = Access { required: self.require_credentials, ..Access::default() };
        let mut builder = Origin::builder().seed(self.seed).shape(shape).listen(self.listen).faults(faults);
        builder = builder.access(access).connections_max(self.connections);
        if let Some(dir) = self.dir {
            builder = builder.dir(dir);
        }
        if let Some(congestion) = self.congestion {
            builder = builder.congestion(congestion);
        }
        for (name, len) in &self.generated {
            builder = builder.generated(name, *len, self.seed);
        }
        builder.start().map_err(|error| format!("cannot start on {}: {error}", self.listen))
    }
}

fn main() -> ExitCode {
    match Flags::parse().start() {
        Ok(origin) => {
            println!("{}", origin.url());
            origin.wait();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("forebay-origin: {error}");
            ExitCode::FAILURE
        }
    }
}
