//! How much memory there is: what the machine has, or the control group this process is in. Linux tells in files.

use std::fs::read_to_string;

/// Bytes that this process may use at most; `None` where nobody says.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = groups.into_iter().filter_map(|path| number(&read_to_string(path).ok()?));
    let machine = read_to_string("/proc/meminfo").ok().and_then(|facts| line(&facts, "MemTotal:"));
    limits.chain(machine).min()
}

/// Bytes that this process may take now without swapping, as the kernel estimates it; `None` where nobody says. What
/// the page cache holds counts as free: mapped weights can be read again.
#[must_use]
pub fn free_bytes() -> Option<u64> {
    let machine = read_to_string("/proc/meminfo").ok().and_then(|facts| line(&facts, "MemAvailable:"));
    machine.into_iter().chain(group_free_bytes()).min()
}

/// What the control group leaves: its limit less what it uses, but for the page cache.
fn group_free_bytes() -> Option<u64> {
    let read = |name: &str| read_to_string(format!("/sys/fs/cgroup/memory.{name}")).ok();
    let (limit, used) = (number(&read("max")?)?, number(&read("current")?)?);
    let facts = read("stat")?;
    let cached = facts.lines().filter_map(|line| line.strip_prefix("file ")).find_map(number).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

/// A control group's limit; `max` is none.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A line of `/proc/meminfo`, in bytes.
fn line(facts: &str, name: &str) -> Option<u64> {
    let line = facts.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_words_are_understood() {
        assert_eq!(line("MemFree: 3 kB\nMemTotal:       16384 kB\n", "MemTotal:"), Some(16 << 20));
        assert_eq!((line("nothing", "MemTotal:"), number("max\n"), number("4096\n")), (None, None, Some(4096)));
        assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(free_bytes().is_some_and(|bytes| bytes > 1 << 20 && bytes < available_bytes().unwrap_or(0)));
    }
}
