//! `forebay cache`: what the node's cache holds, for people and for scripts.

use crate::cli::CacheCommand;
use crate::out;
use crate::progress::{Progress, size};
use anyhow::Context;
use loader::cache::{Cache, CacheConfig, Collected, Listed, Verified};
use serde::Serialize;
use std::process::ExitCode;
use std::time::SystemTime;

/// Runs one of the cache's commands.
///
/// # Errors
/// Those of the cache.
pub(crate) fn run(config: &CacheConfig, command: CacheCommand) -> anyhow::Result<ExitCode> {
    let cache = Cache::open(config, &telemetry::metrics::Registry::new()).context("opening the cache")?;
    match command {
        CacheCommand::Ls { json } => report(json, &cache.list(), |listed| list(listed))?,
        CacheCommand::Rm { ids, json } => {
            let removed = ids.iter().map(|id| cache.remove(id)).collect::<Result<Vec<_>, _>>()?;
            report(json, &removed, |all| each(all, |one| collected_text(one, "removed")))?;
        }
        CacheCommand::Pin { ids, json } => pinned(json, ids.iter().map(|id| cache.pin(id)), "pinned")?,
        CacheCommand::Unpin { ids, json } => pinned(json, ids.iter().map(|id| cache.unpin(id)), "unpinned")?,
        CacheCommand::Gc { target_bytes, dry_run, json } => {
            let collected = cache.gc(target_bytes, dry_run)?;
            report(json, &collected, |one| collected_text(one, if dry_run { "would remove" } else { "removed" }))?;
        }
        CacheCommand::Verify { ids, json } => {
            let ids = if ids.is_empty() { cache.models() } else { ids };
            let verified = ids.iter().map(|id| verify(&cache, id)).collect::<anyhow::Result<Vec<_>>>()?;
            report(json, &verified, |all| each(all, verified_text))?;
            if verified.iter().any(|one| !one.wrong.is_empty()) {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn report<T: Serialize>(json: bool, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    if json { out::line(serde_json::to_string(value)?) } else { out::write(text(value).as_bytes()) }
}

/// One text for each, one below the other.
fn each<T>(all: &[T], text: impl Fn(&T) -> String) -> String {
    all.iter().map(text).collect()
}

fn pinned<E: std::error::Error + Send + Sync + 'static>(
    json: bool,
    ids: impl Iterator<Item = Result<String, E>>,
    done: &str,
) -> anyhow::Result<()> {
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    report(json, &ids, |ids| each(ids, |id| format!("{done} {id}\n")))
}

fn verify(cache: &Cache, id: &str) -> anyhow::Result<Verified> {
    let mut progress = Progress::begin();
    Ok(cache.verify(id, &mut |done, total| progress.show("reading", done, total, None))?)
}

fn list(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "the cache is empty\n".into();
    }
    let head = format!("{:12}  {:>9}  {:8}  {:10}  {:9}  MODEL\n", "ID", "SIZE", "PROOF", "STATE", "USED");
    head + &each(listed, |one| {
        let proof = one.proof.map_or_else(|| "-".to_owned(), |proof| proof.to_string());
        let state = match (one.is_partial, one.is_pinned, one.is_in_use) {
            (true, _, true) => "loading",
            (true, _, false) => "broken off",
            (false, true, _) => "pinned",
            (false, false, true) => "in use",
            (false, false, false) => "ready",
        };
        let urls = one.urls.join(" ");
        let (id, size, used) = (one.id.get(..12).unwrap_or(&one.id), size(one.bytes), ago(one.last_used));
        format!("{id}  {size:>9}  {proof:8}  {state:10}  {used:9}  {urls}\n")
    })
}

fn collected_text(collected: &Collected, done: &str) -> String {
    let removed = each(&collected.removed, |id| format!("{done} {id}\n"));
    removed + &format!("{} freed, {} kept\n", size(collected.freed_bytes), size(collected.kept_bytes))
}

fn verified_text(verified: &Verified) -> String {
    if verified.wrong.is_empty() {
        return format!("{}: all of {} is right\n", verified.id, size(verified.bytes));
    }
    let wrong = each(&verified.wrong, |wrong| {
        format!("{}: `{}` is wrong, extents {:?}\n", verified.id, wrong.file, wrong.extents)
    });
    let then = if verified.is_taken_back {
        "given up; the next pull reads what is wrong again"
    } else {
        "left as it is, because a process uses it; stop that and run this again"
    };
    wrong + &format!("{}: {then}\n", verified.id)
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
