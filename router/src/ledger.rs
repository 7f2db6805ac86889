//! Usage records: one line of JSON for each request that was admitted, in a file that billing reads.
//!
//! A record is made when its request is over, however it ends, and only then. A thread writes them, through a bounded
//! queue: a disk that hangs holds no request up. A record that finds no room is counted, and goes to the log instead.

use crate::config::UsageConfig;
use parking_lot::{Condvar, Mutex};
use prometheus::{Gauge, IntCounterVec};
use rand::Rng;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use telemetry::metrics::Registry;
use telemetry::names;

/// The version of [`Record`].
pub(crate) const USAGE_VERSION: u32 = 1;
/// How soon a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the end of a process waits for the last records.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// The use of one request. docs/policy.md explains the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Record<'a> {
    pub(crate) usage_version: u32,
    pub(crate) id: String,
    pub(crate) ended_unix_ms: u64,
    pub(crate) duration_ms: u64,
    pub(crate) request_id: &'a str,
    pub(crate) tenant: &'a str,
    pub(crate) model: &'a str,
    pub(crate) endpoint: &'static str,
    pub(crate) status: u16,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) reasoning_tokens: u64,
    /// `worker`, or `router` for an estimate.
    pub(crate) counted_by: &'static str,
}

/// The file of records.
#[derive(Debug)]
pub(crate) struct Ledger {
    shared: Arc<Shared>,
    /// The beginning of this process's ids.
    process: u64,
    serial: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    queue_max: usize,
    queue: Mutex<Queue>,
    news: Condvar,
    records: IntCounterVec,
    waiting: Gauge,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Vec<Vec<u8>>,
    /// Lines that are being written.
    writing: usize,
    is_closed: bool,
}

impl Ledger {
    /// Opens the file and begins to write; `None` where none is configured.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn open(config: &UsageConfig, registry: &Registry) -> io::Result<Option<Self>> {
        let Some(path) = config.file.clone() else { return Ok(None) };
        let file = open(&path)?;
        let shared = Arc::new(Shared {
            path,
            queue_max: config.queue_max,
            queue: Mutex::default(),
            news: Condvar::new(),
            records: registry.counter(&names::ROUTER_USAGE_RECORDS),
            waiting: registry.gauge(&names::ROUTER_USAGE_WAITING).with_label_values::<&str>(&[]),
        });
        let writer = Arc::clone(&shared);
        std::thread::Builder::new().name("usage".into()).spawn(move || writer.write_all(file))?;
        Ok(Some(Self { shared, process: rand::rng().random(), serial: AtomicU64::new(0) }))
    }

    /// An id that no other record has.
    pub(crate) fn next_id(&self) -> String {
        format!("{:016x}-{}", self.process, self.serial.fetch_add(1, Ordering::Relaxed))
    }

    /// Writes a record, soon.
    pub(crate) fn record(&self, record: &Record<'_>) {
        let mut line = serde_json::to_vec(record).unwrap_or_default();
        line.push(b'\n');
        let mut queue = self.shared.queue.lock();
        if queue.lines.len() + queue.writing >= self.shared.queue_max {
            drop(queue);
            self.shared.lost(&line);
            return;
        }
        queue.lines.push(line);
        self.shared.show(&queue);
        drop(queue);
        self.shared.news.notify_one();
    }

    /// Waits until every record is written, for some seconds at most.
    pub(crate) async fn flush(&self) {
        let written = async {
            while self.shared.has_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(LAST_PATIENCE, written).await.is_err() {
            tracing::error!(file = %self.shared.path.display(), "usage records could not be written in time");
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.shared.queue.lock().is_closed = true;
        self.shared.news.notify_one();
    }
}

impl Shared {
    fn has_some(&self) -> bool {
        let queue = self.queue.lock();
        queue.lines.len() + queue.writing > 0
    }

    #[expect(clippy::cast_precision_loss, reason = "at most some millions")]
    fn show(&self, queue: &Queue) {
        self.waiting.set((queue.lines.len() + queue.writing) as f64);
    }

    fn lost(&self, line: &[u8]) {
        self.records.with_label_values(&["lost"]).inc();
        let record = String::from_utf8_lossy(line);
        tracing::error!(target: "usage", record = record.trim_end(), "a usage record could not be written");
    }

    /// Writes lines as they come, until the ledger is dropped and none is left.
    fn write_all(&self, mut file: File) {
        loop {
            let lines = {
                let mut queue = self.queue.lock();
                while queue.lines.is_empty() && !queue.is_closed {
                    self.news.wait(&mut queue);
                }
                let lines = std::mem::take(&mut queue.lines);
                queue.writing = lines.len();
                lines
            };
            if lines.is_empty() {
                return;
            }
            for line in &lines {
                self.write(&mut file, line);
                let mut queue = self.queue.lock();
                queue.writing -= 1;
                self.show(&queue);
            }
        }
    }

    /// Writes one line, and goes on where it stopped until all of it is there.
    fn write(&self, file: &mut File, line: &[u8]) {
        let mut written = 0;
        let mut has_told = false;
        loop {
            let result = self.follow(file, &mut written).and_then(|()| {
                while written < line.len() {
                    match file.write(&line[written..])? {
                        0 => return Err(io::ErrorKind::WriteZero.into()),
                        more => written += more,
                    }
                }
                Ok(())
            });
            let Err(cause) = result else {
                self.records.with_label_values(&["written"]).inc();
                return;
            };
            if !std::mem::replace(&mut has_told, true) {
                tracing::error!(file = %self.path.display(), %cause, "usage records wait: the file cannot be written");
            }
            if self.queue.lock().is_closed {
                self.lost(line);
                return;
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Opens the file anew where somebody moved it away; a line that was begun there begins anew.
    fn follow(&self, file: &mut File, written: &mut usize) -> io::Result<()> {
        let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        if std::fs::metadata(&self.path).map(place).ok() != Some(place(file.metadata()?)) {
            (*file, *written) = (open(&self.path)?, 0);
        }
        Ok(())
    }
}

/// Opens a file at its end. A line that a killed process left half written is ended.
fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    if length > 0 {
        let mut last = [0];
        file.seek(SeekFrom::Start(length - 1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn ledger(path: &Path, queue_max: usize) -> Ledger {
        let config = UsageConfig { file: Some(path.into()), queue_max };
        Ledger::open(&config, &Registry::new()).expect("writable").expect("configured")
    }

    fn record(ledger: &Ledger, tenant: &str) {
        ledger.record(&Record {
            usage_version: USAGE_VERSION,
            id: ledger.next_id(),
            ended_unix_ms: 1,
            duration_ms: 2,
            request_id: "r",
            tenant,
            model: "m",
            endpoint: "chat",
            status: 200,
            prompt_tokens: 3,
            cached_tokens: 0,
            completion_tokens: 4,
            reasoning_tokens: 0,
            counted_by: "worker",
        });
    }

    fn settle(ledger: &Ledger) {
        let begun = Instant::now();
        while ledger.shared.has_some() {
            assert!(begun.elapsed() < Duration::from_secs(10), "waited 10 s for the last record");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn tenants(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).expect("a file");
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.map(|line| line["tenant"].as_str().expect("a tenant").to_owned()).collect()
    }

    #[test]
    fn records_are_lines_of_their_own_also_after_one_that_was_cut() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("usage.jsonl");
        std::fs::write(&path, "{\"tenant\":\"whole\"}\n{\"tenant\":\"cu").expect("writes");
        let ledger = ledger(&path, 10);
        record(&ledger, "red");
        record(&ledger, "blue");
        settle(&ledger);
        assert_eq!(tenants(&path), ["whole", "red", "blue"]);
    }

    #[test]
    fn a_file_that_is_moved_away_is_whole_and_the_next_record_is_in_a_new_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, old) = (dir.path().join("usage.jsonl"), dir.path().join("usage.jsonl.1"));
        let ledger = ledger(&path, 10);
        record(&ledger, "red");
        settle(&ledger);
        std::fs::rename(&path, &old).expect("moves");
        record(&ledger, "blue");
        settle(&ledger);
        assert_eq!((tenants(&old), tenants(&path)), (vec!["red".to_owned()], vec!["blue".to_owned()]));
        assert_eq!(std::fs::metadata(&path).expect("a file").mode() & 0o777, 0o600);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_what_waits_is_written_once_it_can_be() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join("place");
        std::fs::create_dir(&place).expect("a directory");
        let ledger = ledger(&place.join("usage.jsonl"), 3);
        // Neither the old file nor a new one is there.
        std::fs::rename(&place, dir.path().join("elsewhere")).expect("moves");
        (0..5).for_each(|_| record(&ledger, "red"));
        assert_eq!(ledger.shared.records.with_label_values(&["lost"]).get(), 2);
        assert_eq!(ledger.shared.waiting.get(), 3.0);
        std::fs::create_dir(&place).expect("a directory");
        settle(&ledger);
        assert_eq!(tenants(&place.join("usage.jsonl")).len(), 3);
        assert_eq!(ledger.shared.waiting.get(), 0.0);
    }
}
