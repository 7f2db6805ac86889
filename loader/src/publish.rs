//! Computing a model's manifest from its bytes: what a publisher puts beside the files, and what
//! everyone else compares with.
//!
//! Every byte is read once for the extents' digests; the tensors' digests are a second look at
//! pages that are in memory by then. This file writes nothing and believes nobody.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use wire::digest::Digest;
use wire::extent;
use wire::manifest::{Manifest, ManifestFile, TensorDigest};

use crate::probe::{Probe, speaks_for_others};
use crate::verify::digests_of;
use crate::{LoadError, Region, Tensor, Weights, disk};

/// The manifest of a model whose weights have all arrived: its shard files, its small files, and
/// for a directory every other file that a manifest must list. Blocks for as long as reading takes.
///
/// # Errors
/// A file cannot be read, or the files make no manifest.
pub fn manifest(probe: &Probe, weights: &Weights) -> Result<Manifest, LoadError> {
    let regions = weights.regions();
    let extents = extents_of(&regions)?;
    let tensors = tensors_of(weights, &regions);
    let mut files: Vec<ManifestFile> = Vec::new();
    for ((shard, extents), tensors) in probe.shards.iter().zip(extents).zip(tensors) {
        files.push(ManifestFile { name: shard.object.name.clone(), bytes: shard.object.bytes, extents, tensors });
    }
    for (name, file) in probe.files.iter().filter(|(name, _)| !speaks_for_others(name)) {
        files.push(small(name, &file.bytes));
    }
    if let crate::ModelUrl::Local(directory) = probe.url() {
        let others = others(directory, &files)?;
        files.extend(others);
    }
    Manifest::new(files).map_err(|source| LoadError::Manifest { url: probe.url().to_string(), source })
}

fn small(name: &str, bytes: &[u8]) -> ManifestFile {
    ManifestFile { name: name.to_owned(), bytes: bytes.len() as u64, extents: digests_of(bytes), tensors: Vec::new() }
}

fn extents_of(regions: &[Arc<Region>]) -> Result<Vec<Vec<Digest>>, LoadError> {
    let empty = |region: &Arc<Region>| Mutex::new(vec![Digest([0; 32]); extent::count(region.len()) as usize]);
    let found: Vec<Mutex<Vec<Digest>>> = regions.iter().map(empty).collect();
    disk::read(regions, &disk::all_extents(regions), &AtomicBool::new(false), &|piece, _, bytes| {
        let digest = Digest(*blake3::hash(bytes).as_bytes());
        found[piece.file].lock()[piece.extent as usize] = digest;
        Ok(())
    })?;
    Ok(found.into_iter().map(|digests| digests.into_inner()).collect())
}

/// The digests of the tensors of each region, in the regions' order.
fn tensors_of(weights: &Weights, regions: &[Arc<Region>]) -> Vec<Vec<TensorDigest>> {
    let tensors: Vec<(&str, &Tensor)> = weights.names().filter_map(|name| Some((name, weights.get(name)?))).collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(tensors.len())));
    let work = || {
        while let Some((name, tensor)) = tensors.get(next.fetch_add(1, Ordering::Relaxed)) {
            let digest = Digest(*blake3::hash(tensor.bytes()).as_bytes());
            let region = regions.iter().position(|region| Arc::ptr_eq(region, tensor.region()));
            done.lock().push((region, (*name).to_owned(), digest));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut files: Vec<Vec<TensorDigest>> = regions.iter().map(|_| Vec::new()).collect();
    for (region, name, digest) in done.into_inner() {
        files[region.expect("every tensor lies in one of its weights' regions")].push(TensorDigest { name, digest });
    }
    files
}

/// The other files at a directory's top: a tool that uses the model may read them, so a manifest
/// should answer for it.
fn others(directory: &Path, listed: &[ManifestFile]) -> Result<Vec<ManifestFile>, LoadError> {
    let list_error = |source| LoadError::ListDirectory { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(list_error)? {
        let path = entry.map_err(list_error)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let is_known = name.starts_with('.') || speaks_for_others(name) || listed.iter().any(|file| file.name == name);
        if is_known || !path.is_file() {
            continue;
        }
        let region = Region::map_file(&path)?;
        files.push(small(name, region.bytes().unwrap_or_default()));
    }
    Ok(files)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;
    use crate::fetch::{FetchConfig, Metrics};
    use crate::remote::LocalSource;
    use telemetry::metrics::Registry;

    #[tokio::test]
    async fn a_directorys_manifest_names_every_file_extent_and_tensor() {
        let directory = tempfile::tempdir().unwrap();
        let header = br#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}"#;
        let model = [&(header.len() as u64).to_le_bytes()[..], header, b"abcde"].concat();
        for (name, bytes) in
            [("model.safetensors", &model[..]), ("config.json", b"{}"), ("LICENSE", b"free"), (".hidden", b"x")]
        {
            std::fs::write(directory.path().join(name), bytes).unwrap();
        }
        let url = crate::ModelUrl::Local(directory.path().to_owned());
        let source = Arc::new(LocalSource::new(directory.path().to_owned()));
        let reads = crate::fetch::SmallReads::new(
            source,
            &crate::fetch::Budgets::new(&FetchConfig::default()),
            &FetchConfig::default(),
            &Metrics::new(&Registry::new()),
        );
        let probe =
            crate::probe::look(crate::probe::Look { url: &url, reads, pinned: None, is_offline: false }).await.unwrap();
        let weights = Weights::open_dir(directory.path()).unwrap();
        let manifest = manifest(&probe, &weights).unwrap();
        let names: Vec<&str> = manifest.files().iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["LICENSE", "config.json", "model.safetensors"]);
        let file = manifest.file("model.safetensors").unwrap();
        assert_eq!(file.extents, digests_of(&model));
        assert_eq!(file.tensors[1], TensorDigest { name: "b".into(), digest: Digest(*blake3::hash(b"de").as_bytes()) });
        assert_eq!(Manifest::parse(&manifest.to_json()).unwrap(), manifest);
    }
}
