//! A directory of this machine: used in place, read ahead only if that is asked for or needed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use wire::evidence::Verdict;
use wire::proof::Proof;

use super::{Load, OpenOptions, Summary};
use crate::disk::{self, Piece};
use crate::fetch::Progress;
use crate::probe::Probe;
use crate::verify::Checks;
use crate::{LoadError, Region, Weights};

/// Opens a directory. If digests are known, nothing is shown before every byte was held against
/// them.
pub(super) async fn open(
    probe: &Probe,
    directory: &Path,
    verdict: &Verdict,
    options: &OpenOptions,
) -> Result<Load, LoadError> {
    let begun = Instant::now();
    // A GGUF file's tensors go by the names that the probe has been given since.
    let mut weights = if probe.gguf().is_some() { as_probed(probe, directory)? } else { Weights::open_dir(directory)? };
    weights.set_proof(verdict.proof);
    let bytes = weights.total_bytes();
    if options.read_all || verdict.proof == Proof::Proven {
        read(probe, &weights, verdict, options).await?;
    }
    let root = verdict.root.map(|root| root.to_string());
    let (seconds, bytes_by_source) = (begun.elapsed().as_secs_f64(), vec![("disk".to_owned(), bytes)]);
    Ok(Load::done(
        weights,
        Progress::default(),
        Summary { bytes, bytes_by_source, seconds, root, ..Summary::default() },
    ))
}

/// The files that were probed, their headers as they were read then.
fn as_probed(probe: &Probe, directory: &Path) -> Result<Weights, LoadError> {
    let mut weights = Weights::new(Proof::Trusted);
    for shard in &probe.shards {
        let region = Region::map_file(&directory.join(&shard.object.name))?;
        if region.len() != shard.object.bytes || !region.bytes().unwrap_or_default().starts_with(&shard.head) {
            return Err(LoadError::DirectoryChanged { directory: probe.url().to_string() });
        }
        weights.add(&region, &shard.header)?;
    }
    Ok(weights)
}

/// Reads every byte once, in execution order, and holds it against what it must be.
async fn read(probe: &Probe, weights: &Weights, verdict: &Verdict, options: &OpenOptions) -> Result<(), LoadError> {
    let regions = weights.regions();
    // The files are opened by the same rules as they were probed, in the same order.
    let checks: Vec<Checks> = probe
        .shards
        .iter()
        .map(|shard| {
            let (name, bytes) = (&shard.object.name, shard.object.bytes);
            Checks::new(name, bytes, verdict.expected(name).clone(), Arc::clone(&shard.head))
        })
        .collect();
    if regions.len() != checks.len() {
        return Err(LoadError::DirectoryChanged { directory: probe.url().to_string() });
    }
    let pieces = order(probe, options)?;
    let url = probe.source.url().to_owned();
    let cancelled = Arc::new(AtomicBool::new(false));
    let guard = CancelOnDrop(Arc::clone(&cancelled));
    let reading = tokio::task::spawn_blocking(move || {
        let regions: Vec<Arc<Region>> = regions;
        disk::read(&regions, &pieces, &cancelled, &|piece, _, bytes| {
            let digest = blake3::hash(bytes);
            let checks = &checks[piece.file];
            checks.check(piece.extent, digest, &url)?;
            Ok(checks.keep(piece.extent, digest, bytes, &url)?)
        })?;
        for (checks, region) in checks.iter().zip(&regions) {
            checks.judge_whole(region, &url).map_err(LoadError::Ended)?;
        }
        Ok(())
    });
    let result = reading.await.unwrap_or(Err(LoadError::Cancelled));
    drop(guard);
    result
}

/// Every extent, those that are wanted first first.
fn order(probe: &Probe, options: &OpenOptions) -> Result<Vec<Piece>, LoadError> {
    let every_byte = crate::plan::PlanOptions { every_byte: true, ..crate::plan::PlanOptions::default() };
    let plan = probe.plan(&options.order, &crate::plan::Slices::default(), &every_byte)?;
    let pieces = plan.fetches.iter().flat_map(|fetch| {
        let file = fetch.file;
        fetch.extents.clone().map(move |extent| Piece { file, extent })
    });
    Ok(pieces.collect())
}

/// A reader whose caller has gone stops at its next extent.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
