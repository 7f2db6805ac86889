//! `pull`, `plan`, `manifest` and `verify`: models before anyone serves them.

use crate::cli::{ManifestArgs, ModelArgs, PlanArgs, PullArgs};
use crate::config::Config;
use crate::fleet::{self, Own};
use crate::out;
use crate::progress::{Progress, size};
use crate::serve::url;
use anyhow::{Context, anyhow, bail};
use loader::probe::Probe;
use loader::{Load, Loader, ModelUrl, OpenOptions, Summary};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use telemetry::metrics::Registry;
use wire::digest::Digest;
use wire::evidence::Verdict;
use wire::manifest::{MANIFEST_NAME, Manifest, ManifestFile};

/// The interval between two looks at the progress.
const REDRAW: Duration = Duration::from_millis(100);

/// The report of `pull`.
#[derive(Serialize)]
struct Pulled {
    url: String,
    #[serde(flatten)]
    summary: Summary,
    /// Seconds from the command's beginning, so the look at the model before the load included,
    /// until every byte was verified.
    total_seconds: f64,
    gb_per_s: f64,
    proof: String,
    retries: u64,
    hedges: u64,
    hedged_bytes: u64,
    cpu_seconds: f64,
    peak_rss_bytes: u64,
}

/// Fetches a model into the cache; reads a local one through.
pub(crate) async fn pull(config: &Config, args: &PullArgs) -> anyhow::Result<()> {
    let PullArgs { model: args, warm } = args;
    let begun = Instant::now();
    let (loader, mut probe, verdict) = look(config, &args.model).await?;
    let options = OpenOptions { order: order(&mut probe), read_all: true, to_cache: !warm, base: None };
    let looked = begun.elapsed();
    let load = loader.open(probe, &verdict, options).await?;
    let summary = watch(&load).await?;
    let fetch = summary.fetch.clone().unwrap_or_default();
    let pulled = Pulled {
        url: url(&args.model)?.to_string(),
        total_seconds: looked.as_secs_f64() + summary.seconds,
        gb_per_s: gigabytes(summary.bytes) / summary.seconds.max(1e-9),
        proof: load.weights.proof().to_string(),
        retries: fetch.retries,
        hedges: fetch.hedges,
        hedged_bytes: fetch.hedged_bytes,
        cpu_seconds: telemetry::process::cpu_seconds(),
        peak_rss_bytes: telemetry::process::peak_rss_bytes(),
        summary,
    };
    let was_kept = pulled.summary.kept || url(&args.model)?.is_local();
    if args.json {
        out::line(serde_json::to_string(&pulled)?)?;
        return reported_as_kept(was_kept);
    }
    let Pulled { summary, .. } = &pulled;
    out::line(format_args!(
        "{}: {} in {:.2} s ({:.2} GB/s), {}",
        pulled.url,
        size(summary.bytes),
        summary.seconds,
        pulled.gb_per_s,
        pulled.proof
    ))?;
    for (from, bytes) in &summary.bytes_by_source {
        out::line(format_args!("  {:>9} from {from}", size(*bytes)))?;
    }
    if let Some(root) = &summary.root {
        out::line(format_args!("  root {root}"))?;
    }
    reported_as_kept(was_kept)
}

/// A pull is for the cache: one that left nothing there has failed.
fn reported_as_kept(was_kept: bool) -> anyhow::Result<()> {
    if was_kept {
        return Ok(());
    }
    bail!("the model was read, but the cache does not hold it now; its warning above says why")
}

/// Prints the reads of a load in their order; reads headers only.
pub(crate) async fn plan(config: &Config, args: &PlanArgs) -> anyhow::Result<()> {
    let loader = Loader::new(&config.loader, loader::remote::Env::from_process(), &Registry::new())?;
    let mut probe = loader.probe(&url(&args.model)?).await?;
    let order = order(&mut probe);
    let slices = if args.ranks == 1 && args.rank == 0 {
        loader::plan::Slices::default()
    } else {
        let config = sizes(&mut probe)?.ok_or_else(|| anyhow!("the model has no config.json to split by"))?;
        let tensors = probe.shards().iter().flat_map(|shard| &shard.header.tensors);
        models::slices(&config, tensors, args.rank, args.ranks)?
    };
    let plan = probe.plan(&order, &slices, &loader::plan::PlanOptions::default())?;
    out::line(if args.json { serde_json::to_string(&plan)? } else { plan.to_string() })
}

/// Computes a model's manifest and prints or writes it.
pub(crate) async fn manifest(config: &Config, args: &ManifestArgs) -> anyhow::Result<()> {
    let model = url(&args.model)?;
    let directory = match (&model, args.write) {
        (ModelUrl::Local(directory), true) => Some(directory.clone()),
        (_, true) => bail!(
            "--write puts the manifest beside the files, and {model} is not a directory of this machine; print it and upload it as {MANIFEST_NAME}"
        ),
        _ => None,
    };
    let (_, computed) = compute(config, &model, false).await?;
    let Some(directory) = directory else {
        return out::write(&computed.to_json());
    };
    write(&directory, &computed)?;
    out::line(format_args!("{}  {}", computed.root(), directory.join(MANIFEST_NAME).display()))
}

/// Replaces the manifest in one step: a reader sees the old one or the new one.
fn write(directory: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let (aside, place) = (directory.join(format!(".{MANIFEST_NAME}.new")), directory.join(MANIFEST_NAME));
    std::fs::write(&aside, manifest.to_json()).with_context(|| format!("writing {}", aside.display()))?;
    std::fs::rename(&aside, &place).with_context(|| format!("writing {}", place.display()))
}

/// Reads every byte of a model and holds it against its manifest.
pub(crate) async fn verify(config: &Config, args: &ModelArgs) -> anyhow::Result<()> {
    let model = url(&args.model)?;
    let (published, computed) = compute(config, &model, true).await?;
    let published = published.ok_or_else(|| {
        anyhow!(
            "{model} has no {MANIFEST_NAME} to verify it by; its publisher makes one with `forebay manifest --write`"
        )
    })?;
    let loader = Loader::new(&config.loader, loader::remote::Env::from_process(), &Registry::new())?;
    for file in published.files() {
        let found = match computed.file(&file.name) {
            Some(found) => found.clone(),
            // Listed, and not read by a load: a licence, a picture.
            None => loader
                .digest(&model, &file.name)
                .await
                .with_context(|| format!("`{}` is in the manifest and cannot be read from the model", file.name))?,
        };
        compare(file, &found)?;
    }
    let (root, bytes) = (published.root(), published.total_bytes());
    if args.json {
        return out::line(serde_json::json!({ "url": model.to_string(), "root": root.to_string(), "bytes": bytes }));
    }
    out::line(format_args!("{model}: all {bytes} bytes are what the manifest says  {root}"))
}

/// Compares a file as the manifest lists it with the file that was read.
fn compare(listed: &ManifestFile, found: &ManifestFile) -> anyhow::Result<()> {
    let name = &listed.name;
    let differs = |(at, digest): (usize, &Digest)| found.extents.get(at) != Some(digest);
    if let Some(extent) = listed.extents.iter().enumerate().position(differs) {
        let range = wire::extent::range(listed.bytes, extent as u64).unwrap_or_default();
        bail!("`{name}`, bytes {}..{}: not what the manifest says", range.start, range.end);
    }
    if found.bytes != listed.bytes {
        bail!("`{name}` has {} bytes; the manifest says {}", found.bytes, listed.bytes);
    }
    Ok(())
}

/// The published manifest, if there is one, and the one that the bytes make. A published one is
/// obeyed only where that is the question: one about to be replaced may well be wrong.
async fn compute(config: &Config, model: &ModelUrl, obey: bool) -> anyhow::Result<(Option<Manifest>, Manifest)> {
    let loader = Loader::new(&config.loader, loader::remote::Env::from_process(), &Registry::new())?;
    let probe = loader.probe(model).await?;
    let published = probe.evidence().manifest.clone();
    let verdict = if obey || !model.is_local() {
        policy::Trust::new(&config.trust)?.decide(probe.evidence())?
    } else {
        Verdict::trusted("its manifest is being computed")
    };
    let again = loader.probe(model).await?;
    let load = loader.open(probe, &verdict, OpenOptions::default()).await?;
    watch(&load).await?;
    let weights = load.weights.clone();
    let computed = tokio::task::spawn_blocking(move || loader::publish::manifest(&again, &weights)).await;
    Ok((published, computed.context("computing the manifest")??))
}

/// A first look, and whom to believe about it.
async fn look(config: &Config, model: &str) -> anyhow::Result<(Loader, Probe, Verdict)> {
    let registry = Registry::new();
    let own = Own { port: None, key: config.worker.api_key.clone(), roots: config.trust.roots.clone() };
    let peers = fleet::peers(&config.peers, own, &registry)?;
    let loader = Loader::beside(peers, &config.loader, loader::remote::Env::from_process(), &registry)?;
    let probe = loader.probe(&url(model)?).await?;
    let verdict = policy::Trust::new(&config.trust)?.decide(probe.evidence())?;
    verdict.reasons.iter().for_each(|reason| tracing::info!("{reason}"));
    Ok((loader, probe, verdict))
}

/// The execution order, as far as the model is one that we know.
fn order(probe: &mut Probe) -> Vec<String> {
    match sizes(probe) {
        Ok(Some(config)) => models::order(&config),
        Err(error) => {
            tracing::warn!(%error, "the execution order of this model is not known: its files are read from the start");
            Vec::new()
        }
        Ok(None) => Vec::new(),
    }
}

fn sizes(probe: &mut Probe) -> anyhow::Result<Option<models::Config>> {
    let config = models::gguf::config_of(probe)?;
    Ok(config.map(|config| models::Config::parse(&config)).transpose()?)
}

/// Waits for a load, saying how far it is.
async fn watch(load: &Load) -> anyhow::Result<Summary> {
    let progress = load.progress();
    let mut finished = std::pin::pin!(load.finished());
    let mut shown = Progress::begin();
    let mut tick = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            result = &mut finished => return result.map_err(chain),
            _ = tick.tick() => {
                let now = progress.snapshot();
                shown.show("reading", now.bytes_done, now.bytes_total, now.eta_seconds);
            }
        }
    }
}

/// An error that others share, with its causes.
fn chain(error: Arc<loader::LoadError>) -> anyhow::Error {
    anyhow!(wire::Chain(&*error).to_string())
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}
