//! How much memory there is: what the machine has, or the control group this process is in. Linux tells in files.

use std::fs::read_to_string;

/// Bytes that this process may use at most; `None` where nobody says.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = groups.into_iter().filter_map(|path| number(&read_to_string(path).ok()?));
    let machine = read_to_string("/proc/meminfo").ok().and_then(|facts| total(&facts));
    limits.chain(machine).min()
}

/// A control group's limit; `max` is none.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The machine's memory, from `/proc/meminfo`.
fn total(facts: &str) -> Option<u64> {
    let line = facts.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_words_are_understood() {
        assert_eq!(total("MemFree: 3 kB\nMemTotal:       16384 kB\n"), Some(16 << 20));
        assert_eq!((total("nothing"), number("max\n"), number("4096\n")), (None, None, Some(4096)));
        assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
