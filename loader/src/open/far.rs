//! A model in far storage: the cache ▸ the origin, into files of the cache or, without a disk,
//! into memory.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::Instrument;
use wire::digest::Digest;
use wire::evidence::{Expected, Verdict};
use wire::extent;
use wire::manifest::{Manifest, ManifestFile};
use wire::proof::Proof;

use super::{AbortOnDrop, Load, OpenOptions, Shared, State, Summary, warn};
use crate::attested::{Attestation, AttestedKeeper, Whole};
use crate::cache::{Begin, Cache, CacheError, CachedFile, Entry, Finished, Wanted};
use crate::fetch::{self, Claims, Job, Keeper, Neighbours, Progress, Target};
use crate::landing::LandingError;
use crate::peers;
use crate::plan::{Fetch, Plan, PlanOptions, Slice, Slices};
use crate::probe::{Probe, Shard};
use crate::verify::{Checks, fingerprint};
use crate::weights::Weights;
use crate::{Content, LoadError, Object, Region};

/// Opens a model of far storage.
pub(super) async fn open(
    shared: Arc<Shared>,
    probe: Probe,
    verdict: &Verdict,
    options: OpenOptions,
) -> Result<Load, LoadError> {
    let begun = Instant::now();
    let url = probe.url().to_string();
    let objects = objects(&probe);
    let wanted = Wanted { url: &url, objects: &objects, root: verdict.root };
    let place = match &shared.cache {
        None => Destination::Memory,
        Some(cache) => match cache.begin_reusing(&wanted, &expected_of(&probe, verdict)).await {
            Ok(Begin::Finished(finished)) => {
                let load = hit(cache, &probe, finished, verdict, begun).await?;
                shared.metrics.found("cache", load.weights.total_bytes());
                return Ok(load);
            }
            Ok(Begin::Load(entry)) => Destination::Cache(entry),
            Err(error) => in_memory(&error),
        },
    };
    let held = Held::new(&probe, verdict, &options, place).await?;
    let claims = Arc::default();
    Arrival { shared, probe, verdict: verdict.clone(), options, held, claims, begun }.begin()
}

/// The destination of the bytes.
enum Destination {
    Cache(Box<Entry>),
    Memory,
}

fn in_memory(error: &CacheError) -> Destination {
    warn("the cache cannot take this model: it is loaded into memory only", error);
    Destination::Memory
}

/// The expectation of each file of weights.
fn expected_of(probe: &Probe, verdict: &Verdict) -> BTreeMap<String, Expected> {
    let names = probe.shards.iter().map(|shard| &shard.object.name);
    names.map(|name| (name.clone(), verdict.expected(name).clone())).collect()
}

/// Every object that a load reads.
fn objects(probe: &Probe) -> Vec<Object> {
    let small = probe.files.values().map(|file| file.object.clone());
    small.chain(probe.shards.iter().map(|shard| shard.object.clone())).collect()
}

/// Opens what the cache has: the files are mapped, and nothing is read but what is needed to prove
/// what an earlier load did not.
async fn hit(
    cache: &Cache,
    probe: &Probe,
    finished: Finished,
    verdict: &Verdict,
    begun: Instant,
) -> Result<Load, LoadError> {
    let error = |source| LoadError::Manifest { url: probe.url().to_string(), source };
    let manifest = Manifest::parse(&finished.manifest).map_err(error)?;
    let mut weights = Weights::new(Proof::Pinned);
    for shard in &probe.shards {
        let region = Region::map_file(&finished.directory.join(&shard.object.name))?;
        // The map must be one of these bytes: what a store says now of a file that was verified
        // before counts for nothing.
        if !shard.describes(&region) {
            let (object, source_url) = (shard.object.name.clone(), probe.source.url().to_owned());
            return Err(LoadError::HeaderContradicted { object, source_url });
        }
        weights.add(&region, &shard.header)?;
    }
    judge_what_is_not_known(cache, probe, &finished, &manifest, &weights, verdict).await?;
    let is_proven = verdict.proof == Proof::Proven;
    weights.set_proof(if is_proven { Proof::Proven } else { finished.proof });
    let extents = |shard: &Shard| Some(manifest.file(&shard.object.name)?.extents.clone());
    weights.set_identity(probe.shards.iter().map(extents).collect::<Option<_>>().and_then(|all| probe.identity(all)));
    weights.set_tensor_digests(probe.tensor_digests(&manifest));
    let bytes = weights.total_bytes();
    let summary = Summary {
        bytes,
        bytes_by_source: vec![("cache".to_owned(), bytes)],
        seconds: begun.elapsed().as_secs_f64(),
        durable_seconds: Some(begun.elapsed().as_secs_f64()),
        kept: true,
        root: Some(finished.root.to_string()),
        ..Summary::default()
    };
    // While the weights live, nobody removes the model.
    let finished = Arc::new(finished);
    weights.keep_alive(Arc::clone(&finished) as _);
    let proof = (weights.proof(), wholes(probe, verdict));
    let content = Content::of_load(probe, &manifest, proof, &weights.regions(), finished);
    Ok(Load::done(probe, weights, Progress::default(), summary, content))
}

/// Reads the cached files of which the verdict says more than an earlier load has found, and notes
/// what they were found to be.
async fn judge_what_is_not_known(
    cache: &Cache,
    probe: &Probe,
    finished: &Finished,
    manifest: &Manifest,
    weights: &Weights,
    verdict: &Verdict,
) -> Result<(), LoadError> {
    let is_known = |shard: &Shard| {
        let name = &shard.object.name;
        match verdict.expected(name) {
            Expected::Unknown => true,
            Expected::Extents(extents) => manifest.file(name).is_some_and(|file| file.extents == *extents),
            expected => fingerprint(expected).is_some_and(|met| finished.has_met(name, met)),
        }
    };
    let unknown = probe.shards.iter().zip(weights.regions()).filter(|(shard, _)| !is_known(shard));
    let checks: Vec<(Checks, Arc<Region>)> =
        unknown.map(|(shard, region)| (Checks::of(shard, verdict), region)).collect();
    if checks.is_empty() {
        return Ok(());
    }
    let met = wholes(probe, verdict);
    let url = probe.source.url().to_owned();
    let judging = move || {
        let judge = |(checks, region): &(Checks, Arc<Region>)| checks.judge_file(region, &url);
        checks.iter().try_for_each(judge)
    };
    tokio::task::spawn_blocking(judging).await.unwrap_or(Err(LoadError::Cancelled))?;
    if let Err(error) = cache.note_met(finished, met).await {
        warn("what a cached model was found to be cannot be noted: it is read again at its next load", &error);
    }
    Ok(())
}

/// The expectations that files met as wholes, once the verdict was carried out.
fn wholes(probe: &Probe, verdict: &Verdict) -> BTreeMap<String, Digest> {
    let met = |shard: &Shard| Some((shard.object.name.clone(), fingerprint(verdict.expected(&shard.object.name))?));
    probe.shards.iter().filter_map(met).collect()
}

/// The memory of every shard file, and who judges and keeps what lands there.
struct Held {
    entry: Option<Box<Entry>>,
    files: Vec<File>,
}

struct File {
    region: Arc<Region>,
    keeper: Arc<FileKeeper>,
    /// The file is another model's as well, and was judged when that was finished.
    is_linked: bool,
}

impl Held {
    /// Makes room; if the disk has none, in memory.
    async fn new(
        probe: &Probe,
        verdict: &Verdict,
        options: &OpenOptions,
        place: Destination,
    ) -> Result<Self, LoadError> {
        if let Destination::Cache(entry) = place {
            match Self::in_cache(&entry, probe, verdict, options).await {
                Ok(files) => return Ok(Self { entry: Some(entry), files }),
                Err(Room::Cache(error)) => drop(in_memory(&error)),
                Err(Room::Region(error @ LoadError::NoSpace { .. })) => {
                    warn("the disk is full: the model is loaded into memory only", &error);
                }
                Err(Room::Region(error)) => return Err(error),
            }
        }
        let file = |shard: &Shard| {
            let region = Region::anonymous(&shard.object.name, shard.object.bytes)?;
            Ok(File::new(region, None, shard, verdict))
        };
        Ok(Self { entry: None, files: probe.shards.iter().map(file).collect::<Result<_, LoadError>>()? })
    }

    async fn in_cache(
        entry: &Entry,
        probe: &Probe,
        verdict: &Verdict,
        options: &OpenOptions,
    ) -> Result<Vec<File>, Room> {
        let mut files = Vec::with_capacity(probe.shards.len());
        for shard in &probe.shards {
            if let Some(file) = File::linked(entry, shard, verdict).map_err(Room::Region)? {
                files.push(file);
                continue;
            }
            let cached = entry.file(&shard.object).await.map_err(Room::Cache)?;
            // What is judged as a whole is read once more.
            let is_unread = options.to_cache && !Checks::of(shard, verdict).is_held();
            let create = if is_unread { Region::create_unread_file } else { Region::create_file };
            let region = create(cached.path(), shard.object.bytes).map_err(Room::Region)?;
            let found: Vec<(u64, blake3::Hash)> = cached.found().to_vec();
            let file = File::new(region, Some(cached), shard, verdict);
            file.believe(&found, probe.source.url());
            files.push(file);
        }
        Ok(files)
    }
}

enum Room {
    Cache(CacheError),
    Region(LoadError),
}

impl File {
    fn new(region: Arc<Region>, cached: Option<CachedFile>, shard: &Shard, verdict: &Verdict) -> Self {
        let checks = Checks::of(shard, verdict);
        if checks.is_held() {
            region.hold();
        }
        Self { region, keeper: Arc::new(FileKeeper { checks, cached }), is_linked: false }
    }

    /// A file that another model of the cache has as well, unless its header is another than the store
    /// shows.
    fn linked(entry: &Entry, shard: &Shard, verdict: &Verdict) -> Result<Option<Self>, LoadError> {
        let Some((path, linked)) = entry.linked(&shard.object.name) else { return Ok(None) };
        let region = Region::map_file(&path)?;
        if region.len() != shard.object.bytes || !shard.describes(&region) {
            entry.unlink(&shard.object.name);
            return Ok(None);
        }
        let checks = Checks::of(shard, verdict);
        (0..).zip(&linked.extents).for_each(|(extent, digest)| checks.note(extent, digest.0.into()));
        Ok(Some(Self { region, keeper: Arc::new(FileKeeper { checks, cached: None }), is_linked: true }))
    }

    /// Shows what an earlier load left and its journal vouches for, as far as it is what is
    /// expected now.
    fn believe(&self, found: &[(u64, blake3::Hash)], url: &str) {
        let checks = &self.keeper.checks;
        let header = checks.header_extents();
        let has_header = header.clone().all(|extent| found.iter().any(|(known, _)| *known == extent));
        let is_described = has_header && self.begins_with(checks.head());
        if has_header && !is_described && !checks.knows_extents() {
            // The store shows another header under the same tag: the rest is another file's, too.
            tracing::warn!(file = self.region.name(), "the store changed this file under its tag; it is fetched anew");
            return;
        }
        for (extent, digest) in found {
            // Extents of a header that is not there whole come again, to be compared with it.
            let is_doubtful = header.contains(extent) && !is_described;
            if is_doubtful || checks.check(*extent, *digest, url).is_err() {
                continue;
            }
            checks.note(*extent, *digest);
            self.region.adopt(*extent);
        }
    }

    /// Returns true if the cached file begins with these bytes.
    fn begins_with(&self, head: &[u8]) -> bool {
        let Some(cached) = &self.keeper.cached else { return false };
        let mut bytes = vec![0; head.len()];
        let read = std::fs::File::open(cached.path()).and_then(|file| file.read_exact_at(&mut bytes, 0));
        read.is_ok() && bytes == head
    }
}

/// Judges what lands in one file and notes it in the cache's journal.
struct FileKeeper {
    checks: Checks,
    cached: Option<CachedFile>,
}

impl Keeper for FileKeeper {
    fn check(&self, extent: u64, digest: blake3::Hash, source_url: &str) -> Result<(), LandingError> {
        self.checks.check(extent, digest, source_url)
    }

    fn keep(&self, extent: u64, digest: blake3::Hash, bytes: &[u8]) -> Result<(), LandingError> {
        self.checks.keep(extent, digest, bytes, "the origin")?;
        if let Some(cached) = &self.cached {
            cached.landed(extent, digest);
        }
        Ok(())
    }
}

/// A load about to begin.
struct Arrival {
    shared: Arc<Shared>,
    probe: Probe,
    verdict: Verdict,
    options: OpenOptions,
    held: Held,
    /// Claims: the extents that peers are told will soon be here.
    claims: Arc<Claims>,
    begun: Instant,
}

impl Arrival {
    fn begin(self) -> Result<Load, LoadError> {
        let manifest = self.verdict.root.and(self.probe.evidence().manifest.as_ref());
        let digests = manifest.map(|manifest| self.probe.tensor_digests(manifest)).unwrap_or_default();
        let mut unchanged = self.options.base.as_ref().map(|base| base.unchanged(&digests)).unwrap_or_default();
        let mut weights = Weights::new(self.verdict.proof);
        for (file, shard) in self.held.files.iter().zip(&self.probe.shards) {
            weights.add(&file.region, &shard.header)?;
        }
        weights.set_identity(self.probe.expected_identity(&self.verdict));
        let shared_bytes = weights.share(&mut unchanged);
        weights.set_tensor_digests(digests);
        let plan = self.plan(&unchanged)?;
        let progress = Progress::default();
        let (sender, state) = watch::channel(State::Loading);
        // The cache's lock on the finished model comes when it is finished.
        let finished: Arc<OnceLock<Finished>> = Arc::default();
        weights.keep_alive(Arc::clone(&finished) as _);
        let known = manifest.and_then(|manifest| self.content(manifest, &finished));
        let (offered, content) = watch::channel(known.map(Arc::new));
        let of = weights.clone();
        let files = super::files_of(&self.probe, &weights);
        let task =
            Task { arrival: self, plan, progress: progress.clone(), shared_bytes, finished, offered, weights: of };
        let handle = tokio::spawn(task.run(sender));
        Ok(Load { weights, files, progress, state, content, _task: Some(AbortOnDrop(handle.abort_handle())) })
    }

    /// The files as others may have them.
    fn content(&self, manifest: &Manifest, finished: &Arc<OnceLock<Finished>>) -> Option<Content> {
        let regions: Vec<_> = self.held.files.iter().map(|file| Arc::clone(&file.region)).collect();
        let proof = (self.verdict.proof, wholes(&self.probe, &self.verdict));
        let content = Content::of_load(&self.probe, manifest, proof, &regions, Arc::clone(finished) as _);
        content.map(|content| content.with_claims(Arc::clone(&self.claims)))
    }

    fn plan(&self, unchanged: &BTreeMap<String, crate::Tensor>) -> Result<Plan, LoadError> {
        let skip = |name: &String| (name.clone(), Slice::Skip);
        let slices = Slices { by_name: unchanged.keys().map(skip).collect(), otherwise: Slice::Whole };
        let fetch_bytes = self.shared.config.fetch.fetch_bytes;
        let options = PlanOptions { fetch_bytes, every_byte: unchanged.is_empty(), ..PlanOptions::default() };
        let have = |file: usize, extent: u64| {
            let region = &self.held.files[file].region;
            extent::range(region.len(), extent).is_some_and(|range| region.has_arrived(range))
        };
        self.probe.plan_without(&self.options.order, &slices, &options, &have)
    }
}

/// The digests by which extents of peers are judged.
enum Guide {
    /// A manifest that decides.
    Proven(Manifest),
    /// A peer's word: storage is judged by the wholes alone.
    Attested(Arc<Attestation>),
}

/// The judge of one file's extents.
fn keeper(file: &File, shard: &Shard, guide: Option<&Guide>) -> Arc<dyn Keeper> {
    let keeper: Arc<dyn Keeper> = Arc::clone(&file.keeper) as _;
    match guide {
        Some(Guide::Attested(attestation)) => {
            let (attestation, object) = (Arc::clone(attestation), shard.object.name.clone());
            Arc::new(AttestedKeeper { keeper, attestation, object })
        }
        _ => keeper,
    }
}

/// The judgement of a file as a whole.
type Judgement = Result<(), Arc<LoadError>>;

/// A load under way.
struct Task {
    arrival: Arrival,
    plan: Plan,
    progress: Progress,
    shared_bytes: u64,
    finished: Arc<OnceLock<Finished>>,
    /// The files as others may have them, as soon as they have a manifest.
    offered: watch::Sender<Option<Arc<Content>>>,
    weights: Weights,
}

impl Task {
    async fn run(self, sender: watch::Sender<State>) {
        // Told to the waiters however this ends: by an error, a panic or a cancelled load.
        let mut end = FailOnDrop { regions: self.regions(), error: None };
        // The spans of the fetch and of who attests are its children.
        let span = tracing::info_span!("arrival", url = %self.arrival.probe.url());
        match self.arrive().instrument(span).await {
            Ok(summary) => {
                end.regions.clear();
                self.weights.set_identity(self.identity());
                sender.send_replace(State::Arrived(summary.clone()));
                let summary = self.settle(summary).await;
                sender.send_replace(State::Finished(summary));
            }
            Err(error) => {
                end.error = Some(Arc::clone(&error));
                sender.send_replace(State::Failed(error));
            }
        }
    }

    /// The identity of what has arrived; none while a file is not complete, as beside an older
    /// revision.
    fn identity(&self) -> Option<Digest> {
        let files = self.arrival.held.files.iter();
        self.arrival.probe.identity(files.map(|file| file.keeper.checks.digests()).collect::<Option<_>>()?)
    }

    fn regions(&self) -> Vec<Arc<Region>> {
        self.arrival.held.files.iter().map(|file| Arc::clone(&file.region)).collect()
    }

    /// Fetches and verifies everything. A file that is known only as a whole and was found wrong is
    /// fetched once more, as nobody can say where it is wrong; and once more than that if peers brought some of it.
    async fn arrive(&self) -> Result<Summary, Arc<LoadError>> {
        let guide = self.guide().await;
        let attestation = match &guide {
            Some(Guide::Attested(attestation)) => Some(Arc::clone(attestation)),
            _ => None,
        };
        let mut tries_left = 1 + u32::from(attestation.is_some());
        let (mut report, mut wrong) = self.bring(self.plan.fetches.clone(), &self.held(), guide).await?;
        while let Some((_, error)) = wrong.first() {
            if tries_left == 0 {
                return Err(Arc::clone(error));
            }
            tries_left -= 1;
            warn("a file is not what it must be as a whole: it is fetched once more", &**error);
            let again: Vec<usize> = wrong.iter().map(|(place, _)| *place).collect();
            let (more, found) = self.bring(self.whole(&again)?, &again, None).await?;
            (report, wrong) = (report.then(more), found);
        }
        if let Some(attestation) = &attestation {
            self.judge_attestation(attestation, &report);
        }
        let seconds = self.arrival.begun.elapsed().as_secs_f64();
        Ok(self.summary(report, attestation.as_deref(), seconds))
    }

    /// The places of files that are judged as wholes.
    fn held(&self) -> Vec<usize> {
        let is_held = |file: &File| file.keeper.checks.is_held() && !file.is_linked;
        let places = (0..).zip(&self.arrival.held.files);
        places.filter(|(_, file)| is_held(file)).map(|(place, _)| place).collect()
    }

    /// The digests by which extents of peers are judged; none where peers are not asked.
    async fn guide(&self) -> Option<Guide> {
        let Arrival { shared, probe, held, verdict, .. } = &self.arrival;
        let fleet = shared.fleet.as_ref().filter(|_| !self.plan.fetches.is_empty())?;
        let manifest = probe.evidence().manifest.as_ref().filter(|manifest| verdict.root == Some(manifest.root()));
        if let Some(manifest) = manifest {
            let is_known = held.files.iter().all(|file| file.keeper.checks.knows_extents());
            return is_known.then(|| Guide::Proven(manifest.clone()));
        }
        let met = wholes(probe, verdict);
        let whole = |shard: &Shard| {
            let Object { name, bytes, .. } = &shard.object;
            Some(Whole::new(name, *bytes, *met.get(name)?))
        };
        let files = probe.shards.iter().map(whole).collect::<Option<Vec<Whole>>>()?;
        let span = tracing::info_span!("attest", files = files.len(), by = tracing::field::Empty);
        let attestation = peers::attest(fleet, &files).instrument(span.clone()).await?;
        span.record("by", &attestation.by);
        Some(Guide::Attested(Arc::new(attestation)))
    }

    /// Holds what was attested against what was found: either it was right, and who sent other bytes lied, or its giver
    /// did.
    fn judge_attestation(&self, Attestation { manifest, by, .. }: &Attestation, report: &fetch::Report) {
        let Arrival { shared, probe, held, .. } = &self.arrival;
        let Some(fleet) = &shared.fleet else { return };
        let is_right = |(file, shard): (&File, &Shard)| {
            let attested = manifest.file(&shard.object.name).map(|file| &file.extents);
            file.keeper.checks.digests().is_none_or(|found| Some(&found) == attested)
        };
        if !held.files.iter().zip(&probe.shards).all(is_right) {
            return fleet.ban(by, peers::Wrong::Attested);
        }
        let banned = report.sources.iter().filter(|source| source.dismissed == Some("banned"));
        let members = banned.filter_map(|source| source.url.strip_prefix("peer://"));
        members.for_each(|member| fleet.ban(member, peers::Wrong::Sent));
    }

    /// Fetches, beside peers if there is a guide, and judges the files of `held` meanwhile. Says which of them were
    /// found wrong.
    async fn bring(
        &self,
        fetches: Vec<Fetch>,
        held: &[usize],
        guide: Option<Guide>,
    ) -> Result<(fetch::Report, Vec<(usize, Arc<LoadError>)>), Arc<LoadError>> {
        let Arrival { shared, probe, held: Held { files, .. }, .. } = &self.arrival;
        let targets = files.iter().zip(&probe.shards).map(|(file, shard)| Target {
            objects: vec![shard.object.clone()],
            region: Arc::clone(&file.region),
            keeper: keeper(file, shard, guide.as_ref()),
        });
        let neighbours = guide.as_ref().and_then(|guide| self.neighbours(guide));
        // Peers that showed the model are no storage.
        let has_origin = neighbours.is_none() || !probe.is_from_peers;
        let job = Job {
            fetches,
            targets: targets.collect(),
            sources: if has_origin { vec![Arc::clone(&probe.source)] } else { Vec::new() },
            budgets: shared.budgets.clone(),
            progress: self.progress.clone(),
            seed: rand::random(),
        };
        let judging = self.judge(held);
        let report = fetch::run_beside(job, neighbours, &shared.config.fetch, &shared.metrics);
        let report = report.await.map_err(|error| Arc::new(LoadError::from(error)))?;
        let mut wrong = Vec::new();
        for (place, judged) in judging {
            match judged.await.unwrap_or_else(|_| Err(Arc::new(LoadError::Cancelled))) {
                Err(error) if matches!(*error, LoadError::Corrupt { .. }) => wrong.push((place, error)),
                result => result?,
            }
        }
        Ok((report, wrong))
    }

    /// Peers to load beside.
    fn neighbours(&self, guide: &Guide) -> Option<Neighbours> {
        let Arrival { shared, probe, claims, .. } = &self.arrival;
        let names: Vec<&str> = probe.shards.iter().map(|shard| shard.object.name.as_str()).collect();
        let (manifest, is_proven) = match guide {
            Guide::Proven(manifest) => (manifest, true),
            Guide::Attested(attestation) => (&attestation.manifest, false),
        };
        peers::join(shared.fleet.as_ref()?, manifest, is_proven, &names, Arc::clone(claims))
    }

    /// Fetches for every byte of some files, of which nothing counts any more.
    fn whole(&self, files: &[usize]) -> Result<Vec<Fetch>, LoadError> {
        let Arrival { shared, probe, held, options, .. } = &self.arrival;
        files.iter().for_each(|place| held.files[*place].region.begin_again());
        let fetch_bytes = shared.config.fetch.fetch_bytes;
        let every_byte = PlanOptions { fetch_bytes, every_byte: true, ..PlanOptions::default() };
        let others = |file: usize, _| !files.contains(&file);
        Ok(probe.plan_without(&options.order, &Slices::default(), &every_byte, &others)?.fetches)
    }

    /// Hashes what is known only as a whole, on threads of their own, as it arrives.
    fn judge(&self, held: &[usize]) -> Vec<(usize, JoinHandle<Judgement>)> {
        let url = self.arrival.probe.source.url();
        let judge = |place: &usize| {
            let file = &self.arrival.held.files[*place];
            let (region, keeper, url) = (Arc::clone(&file.region), Arc::clone(&file.keeper), url.to_owned());
            (*place, tokio::task::spawn_blocking(move || keeper.checks.judge_whole(&region, &url)))
        };
        held.iter().map(judge).collect()
    }

    fn summary(&self, report: fetch::Report, attestation: Option<&Attestation>, seconds: f64) -> Summary {
        let Arrival { shared, probe, held, verdict, .. } = &self.arrival;
        let bytes = probe.weight_bytes();
        let mut bytes_by_source = report.bytes_by_source.clone();
        let found = bytes.saturating_sub(self.plan.fetched_bytes).saturating_sub(self.shared_bytes);
        for (from, count) in [("cache", found), ("shared", self.shared_bytes)] {
            if count > 0 {
                shared.metrics.found(from, count);
                bytes_by_source.push((from.to_owned(), count));
            }
        }
        Summary {
            bytes,
            bytes_by_source,
            seconds,
            durable_seconds: None,
            memory_only: held.entry.is_none(),
            kept: false,
            root: verdict.root.map(|root| root.to_string()),
            attested_by: attestation.map(|attestation| attestation.by.clone()),
            fetch: Some(report),
        }
    }

    /// Makes what has arrived a finished model of the cache.
    async fn settle(self, mut summary: Summary) -> Summary {
        let Self { arrival, finished, offered, weights, .. } = self;
        drop(weights);
        let Some(manifest) = arrival.manifest() else { return summary };
        summary.root = Some(manifest.root().to_string());
        if offered.borrow().is_none() {
            offered.send_replace(arrival.content(&manifest, &finished).map(Arc::new));
        }
        let Arrival { probe, held, verdict, begun, .. } = arrival;
        let Some(entry) = held.entry else { return summary };
        let proof = verdict.proof;
        wholes(&probe, &verdict).into_iter().for_each(|(name, met)| entry.note_met(&name, met));
        let kept = keep_small(&entry, &probe);
        // A published manifest stays as it was published, byte for byte.
        let published = verdict.root.and_then(|_| probe.file(crate::probe::MANIFEST)).map(<[u8]>::to_vec);
        let json = published.unwrap_or_else(|| manifest.to_json());
        let result = match kept {
            Ok(()) => entry.finish(&json, proof).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(model) => {
                (summary.durable_seconds, summary.kept) = (Some(begun.elapsed().as_secs_f64()), true);
                // Set once: there is one task.
                let _ = finished.set(model);
            }
            Err(error) => warn("the model is loaded, but the cache could not keep it", &error),
        }
        summary
    }
}

fn keep_small(entry: &Entry, probe: &Probe) -> Result<(), CacheError> {
    let files = probe.files.iter().filter(|(name, _)| *name != crate::probe::MANIFEST);
    files.into_iter().try_for_each(|(name, file)| entry.small_file(name, &file.bytes))
}

impl Arrival {
    /// The manifest that decided, or one computed from what was judged; none while a file is not
    /// complete, as beside an older revision.
    fn manifest(&self) -> Option<Manifest> {
        let digests: Option<Vec<_>> = self.held.files.iter().map(|file| file.keeper.checks.digests()).collect();
        let digests = digests?;
        if let Some(manifest) = self.verdict.root.and(self.probe.evidence().manifest.as_ref()) {
            return Some(manifest.clone());
        }
        let shards = self.probe.shards.iter().zip(digests).map(|(shard, extents)| ManifestFile {
            name: shard.object.name.clone(),
            bytes: shard.object.bytes,
            extents,
            tensors: Vec::new(),
        });
        let small = self.probe.files.iter().filter(|(name, _)| !crate::probe::speaks_for_others(name));
        let small = small.map(|(name, file)| ManifestFile {
            name: name.clone(),
            bytes: file.object.bytes,
            extents: crate::verify::digests_of(&file.bytes),
            tensors: Vec::new(),
        });
        Manifest::new(shards.chain(small).collect()).ok()
    }
}

/// Tells everyone who waits for a region when the load ends without its bytes.
struct FailOnDrop {
    regions: Vec<Arc<Region>>,
    error: Option<Arc<LoadError>>,
}

impl Drop for FailOnDrop {
    fn drop(&mut self) {
        let error = self.error.take().unwrap_or_else(|| Arc::new(LoadError::Cancelled));
        self.regions.iter().for_each(|region| region.fail(Arc::clone(&error)));
    }
}
