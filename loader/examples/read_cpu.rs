//! How much processor time receiving and hashing costs: reads one object of a web server with many
//! connections, and prints wall and processor seconds per GB.
//!
//!     cargo run --release -p forebay-loader --example read_cpu -- URL NAME [CONNECTIONS] [MODE] [BUFFER]
//!
//! BUFFER is the sockets' receive buffer in bytes, the kernel's choice if absent. MODE is `warm` (into memory touched before, the default), `cold` (into fresh memory) or
//! `plain` (without hashing). Compare with `time curl -o /dev/null URL/NAME`.

#![expect(clippy::print_stdout, reason = "an example prints what it measures")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use loader::landing::Judge;
use loader::remote::HttpsSource;
use loader::remote::http::{Client, HttpConfig};
use loader::{Landing, Object, ReadOptions, Region, Source};

/// The bytes that one request asks for.
const FETCH_BYTES: u64 = 16 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(url), Some(name)) = (words.next(), words.next()) else {
        return Err("give URL and NAME".into());
    };
    let connections: u64 = words.next().map_or(Ok(8), |text| text.parse())?;
    let mode = words.next().unwrap_or_else(|| "warm".to_owned());
    let receive_buffer_bytes = words.next().map(|text| text.parse()).transpose()?;
    let client = Client::new(&HttpConfig { receive_buffer_bytes, ..HttpConfig::default() })?;
    let source: Arc<dyn Source> = Arc::new(HttpsSource::new(url.parse()?, client)?);
    let object = Arc::new(source.stat(&name).await?);
    let region = Region::anonymous(&name, object.bytes)?;
    if mode == "warm" {
        let mut lease = region.lease(0..object.bytes).ok_or("leased already")?;
        lease.bytes_mut(0..usize::try_from(object.bytes)?).fill(1);
    }
    let hashing = mode != "plain";
    let (begin, cpu_before) = (Instant::now(), cpu_seconds()?);
    let next = Arc::new(AtomicU64::new(0));
    let readers = (0..connections).map(|_| {
        tokio::spawn(read(Arc::clone(&source), Arc::clone(&object), Arc::clone(&region), Arc::clone(&next), hashing))
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await?.map_err(|error| error.to_string())?;
    }
    let (wall, cpu, gigabytes) =
        (begin.elapsed().as_secs_f64(), cpu_seconds()? - cpu_before, object.bytes as f64 / 1e9);
    println!("{:.2} GB/s, {:.3} CPU-seconds per GB ({mode})", gigabytes / wall, cpu / gigabytes);
    Ok(())
}

async fn read(
    source: Arc<dyn Source>,
    object: Arc<Object>,
    region: Arc<Region>,
    next: Arc<AtomicU64>,
    hashing: bool,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let judge: Judge = Arc::new(|_| Ok(()));
    loop {
        let from = next.fetch_add(FETCH_BYTES, Ordering::Relaxed);
        let range = from..(from + FETCH_BYTES).min(object.bytes);
        if from >= object.bytes {
            return Ok(());
        }
        let mut landing = if hashing {
            Landing::in_region(region.lease(range).ok_or("leased twice")?, Arc::clone(&judge))
        } else {
            Landing::small(range)
        };
        source.read(&object, &mut landing, ReadOptions::default()).await?;
    }
}

/// The processor time that this process has used so far; the kernel counts in hundredths.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).ok_or("no such field");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
