//! Facts about the machine that bear on serving, and none about its owner.

use serde_json::{Map, Value, json};
use std::fs;

/// Files of the system, with what they are called in the bundle; those that are not there are left out.
const FILES: [(&str, &str); 9] = [
    ("kernel", "/proc/sys/kernel/osrelease"),
    ("memory", "/proc/meminfo"),
    ("pressure_cpu", "/proc/pressure/cpu"),
    ("pressure_memory", "/proc/pressure/memory"),
    ("pressure_io", "/proc/pressure/io"),
    ("load", "/proc/loadavg"),
    ("cgroup_memory_max", "/sys/fs/cgroup/memory.max"),
    ("cgroup_cpu_max", "/sys/fs/cgroup/cpu.max"),
    ("huge_pages", "/sys/kernel/mm/transparent_hugepage/enabled"),
];
/// The most bytes of one of them.
const FILE_BYTES_MAX: usize = 16 << 10;

/// The facts.
pub(super) fn facts() -> Value {
    let mut facts = Map::new();
    facts.insert("os".into(), json!(std::env::consts::OS));
    facts.insert("architecture".into(), json!(std::env::consts::ARCH));
    facts.insert("threads".into(), json!(std::thread::available_parallelism().map_or(0, usize::from)));
    for (name, path) in FILES {
        if let Ok(text) = fs::read_to_string(path) {
            facts.insert(name.into(), json!(text.chars().take(FILE_BYTES_MAX).collect::<String>().trim_end()));
        }
    }
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for field in ["model name", "flags", "Features", "cache size"] {
        let line = cpu.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == field));
        if let Some((_, value)) = line.and_then(|line| line.split_once(':')) {
            facts.insert(format!("cpu_{}", field.replace(' ', "_").to_lowercase()), json!(value.trim()));
        }
    }
    // Which of our settings come from the environment; their values are in config.toml, or secret.
    let names: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("FOREBAY_") || name.starts_with("OTEL_"))
        .collect();
    facts.insert("environment_names".into(), json!(names));
    Value::Object(facts)
}
