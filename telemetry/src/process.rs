//! This process as Linux tells of it in `/proc/self`: for its metrics, and for reports. What cannot be read is 0.

use crate::def::Def;
use crate::names;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Linux reports clock ticks of a hundredth of a second to user space, whatever its own.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time used so far, in seconds.
#[must_use]
pub fn cpu_seconds() -> f64 {
    stat(11) + stat(12)
}

/// The most memory the process has had, in bytes.
#[must_use]
pub fn peak_rss_bytes() -> u64 {
    status("VmHWM:") * 1024
}

/// A field of `/proc/self/stat`, in seconds, counted from the one after the name.
fn stat(field: usize) -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may hold spaces; the fields are counted after it.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = rest.split_whitespace().nth(field).and_then(|field| field.parse().ok()).unwrap_or(0.0);
    ticks / TICKS_PER_SECOND
}

/// The number in a line of `/proc/self/status`.
fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// The soft limit on open files.
fn files_max() -> u64 {
    let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Unix seconds of the process's start: the machine's, and how long after it.
fn started_unix_s() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    boot.map_or_else(now, |boot| boot + stat(19))
}

/// A gauge and how it is read.
type Read<G> = (G, fn() -> f64);

/// The process's metrics, read when they are asked for, under the names that Prometheus' clients share.
#[derive(Debug)]
pub(crate) struct ProcessCollector {
    cpu: Counter,
    gauges: Vec<Read<Gauge>>,
}

impl ProcessCollector {
    /// All of them.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let gauge = |def: &Def| Gauge::new(def.name, def.help);
        #[expect(clippy::cast_precision_loss, reason = "bytes and counts far below 2^52")]
        let read: [Read<&Def>; 6] = [
            (&names::PROCESS_RESIDENT_MEMORY, || (status("VmRSS:") * 1024) as f64),
            (&names::PROCESS_VIRTUAL_MEMORY, || (status("VmSize:") * 1024) as f64),
            (&names::PROCESS_OPEN_FDS, || open_files() as f64),
            (&names::PROCESS_MAX_FDS, || files_max() as f64),
            (&names::PROCESS_THREADS, || status("Threads:") as f64),
            (&names::PROCESS_START_TIME, started_unix_s),
        ];
        let gauges = read.into_iter().map(|(def, read)| Ok((gauge(def)?, read))).collect::<prometheus::Result<_>>()?;
        Ok(Self { cpu: Counter::new(names::PROCESS_CPU.name, names::PROCESS_CPU.help)?, gauges })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.iter().flat_map(|(gauge, _)| gauge.desc()).chain(self.cpu.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.cpu.inc_by((cpu_seconds() - self.cpu.get()).max(0.0));
        self.gauges.iter().for_each(|(gauge, read)| gauge.set(read()));
        self.gauges.iter().flat_map(|(gauge, _)| gauge.collect()).chain(self.cpu.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        assert!(peak_rss_bytes() > 1 << 20);
        assert!(files_max() > 0 && open_files() > 2);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!((now - started_unix_s()).abs() < 86_400.0, "{}", started_unix_s());
    }
}
