//! Loads, hits, second comers, damage and room, as a loader sees them.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

use super::*;
use crate::region::Region;
use crate::source::{Object, Tag};
use std::fs;
use std::path::Path;
use telemetry::names;
use wire::EXTENT_BYTES;
use wire::manifest::{Manifest, ManifestFile};
use wire::proof::Proof;

const URL: &str = "https://models.test/m/";
const WEIGHTS: &str = "deep/model.safetensors";
const BYTES: u64 = 2 * EXTENT_BYTES + 10;

/// A model of two extents and a bit; `seed` makes it another.
struct Model {
    url: String,
    objects: Vec<Object>,
    seed: u8,
}

impl Model {
    fn new(seed: u8) -> Self {
        let object = |name: &str, bytes| Object {
            name: name.into(),
            bytes,
            tag: Tag { etag: Some(format!("\"{seed}\"")), ..Tag::default() },
            checksum: None,
        };
        let objects = vec![object(WEIGHTS, BYTES), object("config.json", 2), object("forebay.manifest.json", 99)];
        Self { url: format!("{URL}{seed}"), objects, seed }
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted { url: &self.url, objects: &self.objects, root: None }
    }

    fn extent(&self, index: u64) -> Vec<u8> {
        let range = wire::extent::range(BYTES, index).unwrap();
        let mut bytes = vec![self.seed; (range.end - range.start) as usize];
        bytes[0] = index as u8;
        bytes
    }

    fn manifest(&self) -> Manifest {
        let digest = |bytes: &[u8]| Digest(*blake3::hash(bytes).as_bytes());
        let file = |name: &str, bytes, extents| ManifestFile { name: name.into(), bytes, extents, tensors: Vec::new() };
        let weights = file(WEIGHTS, BYTES, (0..3).map(|index| digest(&self.extent(index))).collect());
        Manifest::new(vec![weights, file("config.json", 2, vec![digest(b"{}")])]).unwrap()
    }

    /// Lands these extents through a mapping, as a load does.
    async fn land(&self, entry: &Entry, extents: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let file = entry.file(&self.objects[0]).await.unwrap();
        let region = Region::create_file(file.path(), BYTES).unwrap();
        let found: Vec<u64> = file.found().iter().map(|(extent, _)| *extent).collect();
        found.iter().for_each(|extent| assert!(region.adopt(*extent)));
        for extent in extents {
            let bytes = self.extent(extent);
            if region.fill_extent(extent, &bytes) {
                file.landed(extent, blake3::hash(&bytes));
            }
        }
        found
    }

    async fn load(&self, cache: &Cache) -> Finished {
        let entry = expect_load(cache.begin(&self.wanted()).await);
        self.land(&entry, 0..3).await;
        entry.small_file("config.json", b"{}").unwrap();
        entry.finish(&self.manifest().to_json(), Proof::Pinned).await.unwrap()
    }
}

fn expect_load(begun: Result<Begin, CacheError>) -> Entry {
    match begun.unwrap() {
        Begin::Load(entry) => *entry,
        Begin::Finished(finished) => panic!("it is there: {finished:?}"),
    }
}

fn open(root: &Path, change: impl FnOnce(&mut CacheConfig)) -> (Cache, Registry) {
    let mut config = CacheConfig { root: Some(root.to_owned()), min_free_bytes: 0, ..CacheConfig::default() };
    change(&mut config);
    let registry = Registry::new();
    (Cache::open(&config, &registry).unwrap(), registry)
}

#[tokio::test]
async fn a_finished_model_is_a_plain_directory_and_a_hit() {
    let root = tempfile::tempdir().unwrap();
    let (cache, registry) = open(root.path(), |_| {});
    let model = Model::new(1);
    assert!(cache.lookup(&model.wanted()).await.unwrap().is_none());
    let finished = model.load(&cache).await;
    assert_eq!(finished.root, model.manifest().root());
    let expected: Vec<u8> = (0..3).flat_map(|index| model.extent(index)).collect();
    assert!(fs::read(finished.directory.join(WEIGHTS)).unwrap() == expected, "byte for byte as published");
    assert_eq!(fs::read(finished.directory.join("config.json")).unwrap(), b"{}");
    assert_eq!(fs::read(finished.directory.join("forebay.manifest.json")).unwrap(), model.manifest().to_json());

    let Begin::Finished(hit) = cache.begin(&model.wanted()).await.unwrap() else { panic!("not a hit") };
    assert_eq!((hit.root, hit.proof, &hit.directory), (finished.root, Proof::Pinned, &finished.directory));
    let text = registry.render();
    assert!(shows(&text, &names::LOADER_CACHE_LOOKUPS, "{outcome=\"hit\"} 1"), "{text}");
    assert!(shows(&text, &names::LOADER_CACHE_LOOKUPS, "{outcome=\"miss\"} 1"), "{text}");
    assert!(shows(&text, &names::LOADER_CACHE_UNSYNCED_BYTES, " 0"), "{text}");
}

#[tokio::test]
async fn a_changed_object_is_no_hit_and_the_manifests_root_is_one_under_any_url() {
    let root = tempfile::tempdir().unwrap();
    let (cache, _) = open(root.path(), |_| {});
    let model = Model::new(1);
    let finished = model.load(&cache).await;
    let mut changed = Model::new(1);
    changed.objects[0].tag.etag = Some("\"new\"".into());
    assert!(cache.lookup(&changed.wanted()).await.unwrap().is_none());
    let elsewhere = Wanted { url: "s3://mirror/m", root: Some(finished.root), ..changed.wanted() };
    assert_eq!(cache.lookup(&elsewhere).await.unwrap().unwrap().root, finished.root);
    // And from then on without the manifest.
    assert!(cache.lookup(&Wanted { root: None, ..elsewhere }).await.unwrap().is_some());
    let other_root = Wanted { root: Some(Digest([7; 32])), ..model.wanted() };
    assert!(cache.lookup(&other_root).await.unwrap().is_none(), "a digest outweighs equal tags");
    assert_eq!(cache.last_known(&model.url).unwrap().objects, model.objects);
}

#[tokio::test]
async fn a_load_that_was_broken_off_is_gone_on_with() {
    let root = tempfile::tempdir().unwrap();
    let (cache, registry) = open(root.path(), |_| {});
    let model = Model::new(1);
    let entry = expect_load(cache.begin(&model.wanted()).await);
    assert!(model.land(&entry, [2]).await.is_empty());
    let error = entry.finish(&model.manifest().to_json(), Proof::Pinned).await.unwrap_err();
    assert!(error.to_string().contains("lacks extent 0"), "{error}");
    let entry = expect_load(cache.begin(&model.wanted()).await);
    assert_eq!(model.land(&entry, [0]).await, [2]);
    drop(entry);
    let entry = expect_load(cache.begin(&model.wanted()).await);
    assert_eq!(model.land(&entry, [1]).await, [0, 2]);
    entry.small_file("config.json", b"{}").unwrap();
    entry.finish(&model.manifest().to_json(), Proof::Proven).await.unwrap();
    assert!(registry.render().contains("{outcome=\"resumed\"} 2"));
    assert!(cache.lookup(&model.wanted()).await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_not_the_manifests_is_not_published() {
    let root = tempfile::tempdir().unwrap();
    let (cache, _) = open(root.path(), |_| {});
    let (model, other) = (Model::new(1), Model::new(2));
    let entry = expect_load(cache.begin(&model.wanted()).await);
    model.land(&entry, 0..3).await;
    let error = entry.finish(&other.manifest().to_json(), Proof::Proven).await.unwrap_err();
    assert!(matches!(error, CacheError::Mismatch { .. }), "{error}");
    let entry = expect_load(cache.begin(&model.wanted()).await);
    model.land(&entry, 0..3).await;
    entry.small_file("config.json", b"[]").unwrap();
    let error = entry.finish(&model.manifest().to_json(), Proof::Proven).await.unwrap_err();
    assert!(error.to_string().contains("`config.json` is not what the manifest says"), "{error}");
    assert!(cache.models().is_empty());
}

/// Whoever keeps a finished load's files keeps nobody from what comes after.
#[tokio::test]
async fn a_finished_loads_files_hold_no_lock() {
    let root = tempfile::tempdir().unwrap();
    let (cache, _) = open(root.path(), |_| {});
    let model = Model::new(1);
    let entry = expect_load(cache.begin(&model.wanted()).await);
    model.land(&entry, 0..3).await;
    let _kept = entry.file(&model.objects[0]).await.unwrap();
    let finished = entry.finish(&model.manifest().to_json(), Proof::Pinned).await.unwrap();
    fs::remove_dir_all(&finished.directory).unwrap();
    drop(finished);
    let wanted = model.wanted();
    let begun = tokio::time::timeout(Duration::from_secs(30), cache.begin(&wanted)).await;
    drop(expect_load(begun.expect("nobody is waited for")));
}

#[tokio::test]
async fn the_second_waits_for_the_first_and_finds_its_model() {
    let root = tempfile::tempdir().unwrap();
    let (cache, _) = open(root.path(), |_| {});
    let (second, _) = open(root.path(), |_| {});
    let model = Model::new(1);
    let entry = expect_load(cache.begin(&model.wanted()).await);
    let waiting = tokio::spawn(async move { second.begin(&Model::new(1).wanted()).await });
    model.land(&entry, 0..3).await;
    entry.small_file("config.json", b"{}").unwrap();
    assert!(!waiting.is_finished());
    let first = entry.finish(&model.manifest().to_json(), Proof::Pinned).await.unwrap();
    let Begin::Finished(found) = waiting.await.unwrap().unwrap() else { panic!("it was loaded twice") };
    assert_eq!(found.root, first.root);
}

#[tokio::test]
async fn two_urls_of_one_content_end_as_one_model() {
    let root = tempfile::tempdir().unwrap();
    let (cache, _) = open(root.path(), |_| {});
    let (model, mut mirror) = (Model::new(1), Model::new(1));
    mirror.url = "s3://mirror/m".into();
    model.load(&cache).await;
    mirror.load(&cache).await;
    let listed = cache.list();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].urls, [model.url.clone(), mirror.url.clone()]);
    assert_eq!(listed[0].files, 2);
}

#[tokio::test]
async fn a_touched_file_is_read_and_a_changed_one_is_loaded_again_where_it_is_wrong() {
    let root = tempfile::tempdir().unwrap();
    let (cache, _) = open(root.path(), |_| {});
    let model = Model::new(1);
    let finished = model.load(&cache).await;
    let path = finished.directory.join(WEIGHTS);
    drop(finished);
    disk::touch(&path).unwrap();
    assert!(cache.lookup(&model.wanted()).await.unwrap().is_some(), "the bytes are right");
    flip(&path, EXTENT_BYTES + 5);
    assert!(cache.lookup(&model.wanted()).await.unwrap().is_none());
    let entry = expect_load(cache.begin(&model.wanted()).await);
    assert_eq!(model.land(&entry, [1]).await, [0, 2]);
    entry.small_file("config.json", b"{}").unwrap();
    entry.finish(&model.manifest().to_json(), Proof::Pinned).await.unwrap();
}

#[tokio::test]
async fn verify_finds_what_identity_cannot_see() {
    let root = tempfile::tempdir().unwrap();
    let (cache, _) = open(root.path(), |_| {});
    let model = Model::new(1);
    let finished = model.load(&cache).await;
    let id = finished.root.to_hex();
    let mut last = (0, 0);
    let verified = cache.verify(&id[..8], &mut |done, total| last = (done, total)).unwrap();
    assert!(verified.wrong.is_empty() && last == (BYTES + 2, BYTES + 2), "{verified:?} {last:?}");
    let path = finished.directory.join(WEIGHTS);
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    flip(&path, 3);
    fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
    assert!(cache.lookup(&model.wanted()).await.unwrap().is_some(), "trusted by identity");
    let verified = cache.verify(&model.url, &mut |_, _| {}).unwrap();
    assert_eq!(verified.wrong, [WrongFile { file: WEIGHTS.into(), extents: vec![0] }]);
    assert!(!verified.is_taken_back, "someone uses it");
    drop(finished);
    assert!(cache.verify(&id, &mut |_, _| {}).unwrap().is_taken_back);
    let entry = expect_load(cache.begin(&model.wanted()).await);
    assert_eq!(model.land(&entry, []).await, [1, 2]);
}

#[tokio::test]
async fn the_oldest_unused_model_makes_room_and_pins_and_users_are_spared() {
    let root = tempfile::tempdir().unwrap();
    // Two models and their small files fit.
    let (cache, registry) = open(root.path(), |config| config.quota_bytes = Some(2 * BYTES + EXTENT_BYTES));
    let models: Vec<Model> = (1..=4).map(Model::new).collect();
    let first = models[0].load(&cache).await;
    let second = models[1].load(&cache).await;
    let full = cache.begin(&models[2].wanted()).await.unwrap_err();
    assert!(full.is_full() && full.to_string().contains("pinned or in use"), "{full}");
    age(&first, 10);
    drop((first, second));
    let third = models[2].load(&cache).await;
    assert!(cache.lookup(&models[0].wanted()).await.unwrap().is_none(), "the oldest is gone");
    assert!(cache.lookup(&models[1].wanted()).await.unwrap().is_some());
    assert!(shows(&registry.render(), &names::LOADER_CACHE_EVICTIONS, " 1"));
    drop(third);
    cache.pin(&models[1].url).unwrap();
    assert!(matches!(cache.remove(&models[1].url), Err(CacheError::Pinned { .. })));
    models[3].load(&cache).await;
    assert!(cache.lookup(&models[1].wanted()).await.unwrap().is_some(), "pinned, although older");
    assert!(cache.lookup(&models[2].wanted()).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_in_use_is_not_removed_and_gc_keeps_to_its_target() {
    let root = tempfile::tempdir().unwrap();
    let (cache, _) = open(root.path(), |_| {});
    let model = Model::new(1);
    let entry = expect_load(cache.begin(&model.wanted()).await);
    assert!(matches!(cache.remove(&model.url), Err(CacheError::InUse { .. })));
    assert!(cache.gc(Some(0), false).unwrap().removed.is_empty());
    drop(entry);
    let finished = model.load(&cache).await;
    let id = finished.root.to_hex();
    assert!(matches!(cache.remove(&id), Err(CacheError::InUse { .. })));
    drop(finished);
    let would = cache.gc(Some(0), true).unwrap();
    assert_eq!((would.removed.as_slice(), would.kept_bytes), ([id.clone()].as_slice(), 0));
    assert_eq!(cache.list().len(), 1, "dry");
    let gone = cache.gc(Some(0), false).unwrap();
    assert!(gone.removed == [id.clone()] && gone.freed_bytes >= BYTES, "{gone:?}");
    assert!(cache.last_known(&model.url).is_none() && cache.list().is_empty());
    assert!(matches!(cache.remove(&id), Err(CacheError::Unknown { .. })));
}

#[tokio::test]
async fn a_load_broken_off_long_ago_is_collected() {
    let root = tempfile::tempdir().unwrap();
    let (cache, _) = open(root.path(), |config| config.partial_keep_ms = 60_000);
    let model = Model::new(1);
    let entry = expect_load(cache.begin(&model.wanted()).await);
    let used = layout::used(entry.directory());
    drop(entry);
    until_unused(&cache).await;
    assert!(cache.gc(None, false).unwrap().removed.is_empty());
    let past = SystemTime::now() - Duration::from_secs(61);
    fs::File::options().write(true).open(used).unwrap().set_modified(past).unwrap();
    assert_eq!(cache.gc(None, false).unwrap().removed.len(), 1);
}

/// Returns true if this metric has these labels and this value.
fn shows(text: &str, metric: &telemetry::metrics::Def, rest: &str) -> bool {
    text.lines().any(|line| line.strip_prefix(metric.name) == Some(rest))
}

/// A dropped load's thread makes its bytes durable before it lets go.
async fn until_unused(cache: &Cache) {
    while cache.list().iter().any(|listed| listed.is_in_use) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn age(finished: &Finished, seconds: u64) {
    let file = fs::File::options().write(true).open(layout::used(&finished.directory)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}
