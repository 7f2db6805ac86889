//! `forebay cache`: what the node's cache holds, for people and for scripts.

use crate::cli::CacheCommand;
use anyhow::Context;
use loader::cache::{Cache, CacheConfig, Collected, Listed, Verified};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

/// Runs one of the cache's commands.
///
/// # Errors
/// What the cache says.
pub(crate) fn run(config: &CacheConfig, command: CacheCommand) -> anyhow::Result<ExitCode> {
    let cache = Cache::open(config, &telemetry::metrics::Registry::new()).context("opening the cache")?;
    match command {
        CacheCommand::Ls { json } => report(json, &cache.list(), |listed| print_list(listed))?,
        CacheCommand::Rm { ids, json } => {
            let removed = ids.iter().map(|id| cache.remove(id)).collect::<Result<Vec<_>, _>>()?;
            report(json, &removed, |all| all.iter().for_each(|one| print_collected(one, "removed")))?;
        }
        CacheCommand::Pin { ids, json } => pinned(json, ids.iter().map(|id| cache.pin(id)), "pinned")?,
        CacheCommand::Unpin { ids, json } => pinned(json, ids.iter().map(|id| cache.unpin(id)), "unpinned")?,
        CacheCommand::Gc { target_bytes, dry_run, json } => {
            let collected = cache.gc(target_bytes, dry_run)?;
            report(json, &collected, |one| print_collected(one, if dry_run { "would remove" } else { "removed" }))?;
        }
        CacheCommand::Verify { ids, json } => {
            let ids = if ids.is_empty() { cache.models() } else { ids };
            let verified = ids.iter().map(|id| verify(&cache, id)).collect::<anyhow::Result<Vec<_>>>()?;
            report(json, &verified, |all| all.iter().for_each(print_verified))?;
            if verified.iter().any(|one| !one.wrong.is_empty()) {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn report<T: Serialize>(json: bool, value: &T, print: impl FnOnce(&T)) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(value)?);
    } else {
        print(value);
    }
    Ok(())
}

fn pinned<E: std::error::Error + Send + Sync + 'static>(
    json: bool,
    ids: impl Iterator<Item = Result<String, E>>,
    done: &str,
) -> anyhow::Result<()> {
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    report(json, &ids, |ids| ids.iter().for_each(|id| println!("{done} {id}")))
}

fn verify(cache: &Cache, id: &str) -> anyhow::Result<Verified> {
    let is_terminal = std::io::stderr().is_terminal();
    let mut told = Instant::now();
    let verified = cache.verify(id, &mut |done, total| {
        if is_terminal && told.elapsed() > Duration::from_millis(200) {
            told = Instant::now();
            eprint!("\r{} of {} read ", size(done), size(total));
            let _ = std::io::stderr().flush();
        }
    })?;
    if is_terminal {
        eprint!("\r\x1b[K");
    }
    Ok(verified)
}

fn print_list(listed: &[Listed]) {
    if listed.is_empty() {
        println!("the cache is empty");
        return;
    }
    println!("{:12}  {:>9}  {:8}  {:10}  {:9}  MODEL", "ID", "SIZE", "PROOF", "STATE", "USED");
    for one in listed {
        let proof = one.proof.map_or_else(|| "-".to_owned(), |proof| proof.to_string());
        let state = match (one.is_partial, one.is_pinned, one.is_in_use) {
            (true, _, true) => "loading",
            (true, _, false) => "broken off",
            (false, true, _) => "pinned",
            (false, false, true) => "in use",
            (false, false, false) => "ready",
        };
        let urls = one.urls.join(" ");
        let (id, size, used) = (&one.id[..12], size(one.bytes), ago(one.last_used));
        println!("{id}  {size:>9}  {proof:8}  {state:10}  {used:9}  {urls}");
    }
}

fn print_collected(collected: &Collected, done: &str) {
    collected.removed.iter().for_each(|id| println!("{done} {id}"));
    println!("{} freed, {} kept", size(collected.freed_bytes), size(collected.kept_bytes));
}

fn print_verified(verified: &Verified) {
    if verified.wrong.is_empty() {
        println!("{}: all of {} is right", verified.id, size(verified.bytes));
        return;
    }
    for wrong in &verified.wrong {
        println!("{}: `{}` is wrong, extents {:?}", verified.id, wrong.file, wrong.extents);
    }
    println!(
        "{}: {}",
        verified.id,
        if verified.is_taken_back {
            "given up; the next pull reads what is wrong again"
        } else {
            "left as it is, because a process uses it; stop that and run this again"
        }
    );
}

fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

fn ago(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    match now.saturating_sub(seconds) {
        past @ 0..60 => format!("{past} s ago"),
        past @ 60..3_600 => format!("{} min ago", past / 60),
        past @ 3_600..86_400 => format!("{} h ago", past / 3_600),
        past => format!("{} d ago", past / 86_400),
    }
}
