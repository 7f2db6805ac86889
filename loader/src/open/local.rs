//! A directory of this machine: used in place, read ahead only if that is asked for or needed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use wire::digest::Digest;
use wire::evidence::Verdict;
use wire::proof::Proof;

use super::{Load, OpenOptions, Summary};
use crate::disk::{self, FileExtent};
use crate::fetch::Progress;
use crate::probe::Probe;
use crate::verify::Checks;
use crate::{Content, LoadError, Region, Weights};

/// Opens a directory. If digests are known, nothing is shown before every byte was held against
/// them.
pub(super) async fn open(
    probe: &Probe,
    directory: &Path,
    verdict: &Verdict,
    options: &OpenOptions,
) -> Result<Load, LoadError> {
    let begun = Instant::now();
    let mut weights = as_probed(probe, directory)?;
    weights.set_proof(verdict.proof);
    let bytes = weights.total_bytes();
    if options.read_all || verdict.proof == Proof::Proven {
        let digests = read(probe, &weights, verdict, options).await?;
        // A trusted directory may change after it was read: it has no identity.
        let identity = digests.filter(|_| verdict.proof == Proof::Proven).and_then(|digests| probe.identity(digests));
        weights.set_identity(identity);
    }
    let manifest = verdict.root.and(probe.evidence().manifest.as_ref()).filter(|_| verdict.proof == Proof::Proven);
    let proof = (verdict.proof, BTreeMap::new());
    let content =
        manifest.and_then(|manifest| Content::of_load(probe, manifest, proof, &weights.regions(), Arc::new(())));
    let root = verdict.root.map(|root| root.to_string());
    let (seconds, bytes_by_source) = (begun.elapsed().as_secs_f64(), vec![("disk".to_owned(), bytes)]);
    Ok(Load::done(
        probe,
        weights,
        Progress::default(),
        Summary { bytes, bytes_by_source, seconds, root, ..Summary::default() },
        content,
    ))
}

/// The files that were probed, with the headers and names that were read then.
fn as_probed(probe: &Probe, directory: &Path) -> Result<Weights, LoadError> {
    let mut weights = Weights::new(Proof::Trusted);
    for shard in &probe.shards {
        let region = Region::map_file(&directory.join(&shard.object.name))?;
        if region.len() != shard.object.bytes || !shard.describes(&region) {
            return Err(LoadError::DirectoryChanged { directory: probe.url().to_string() });
        }
        weights.add(&region, &shard.header)?;
    }
    Ok(weights)
}

/// Reads every byte once, in execution order, and holds it against what it must be. Gives the digests
/// of all extents, file by file.
async fn read(
    probe: &Probe,
    weights: &Weights,
    verdict: &Verdict,
    options: &OpenOptions,
) -> Result<Option<Vec<Vec<Digest>>>, LoadError> {
    let regions = weights.regions();
    let checks: Vec<Checks> = probe.shards.iter().map(|shard| Checks::of(shard, verdict)).collect();
    let pieces = order(probe, options)?;
    let url = probe.source.url().to_owned();
    let cancelled = Arc::new(AtomicBool::new(false));
    let guard = CancelOnDrop(Arc::clone(&cancelled));
    let reading = tokio::task::spawn_blocking(move || {
        disk::read(&regions, &pieces, &cancelled, &|piece, _, bytes| {
            let digest = blake3::hash(bytes);
            let checks = &checks[piece.file];
            checks.check(piece.extent, digest, &url)?;
            Ok(checks.keep(piece.extent, digest, bytes, &url)?)
        })?;
        for (checks, region) in checks.iter().zip(&regions) {
            checks.judge_whole(region, &url).map_err(LoadError::Ended)?;
        }
        Ok(checks.iter().map(Checks::digests).collect())
    });
    let result = reading.await.unwrap_or(Err(LoadError::Cancelled));
    drop(guard);
    result
}

/// Every extent, those that are wanted first first.
fn order(probe: &Probe, options: &OpenOptions) -> Result<Vec<FileExtent>, LoadError> {
    let every_byte = crate::plan::PlanOptions { every_byte: true, ..crate::plan::PlanOptions::default() };
    let plan = probe.plan(&options.order, &crate::plan::Slices::default(), &every_byte)?;
    let pieces = plan.fetches.iter().flat_map(|fetch| {
        let file = fetch.file;
        fetch.extents.clone().map(move |extent| FileExtent { file, extent })
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
