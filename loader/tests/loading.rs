//! Whole loads against a real origin on a socket: cold, cached, broken off, corrupted, changed,
//! without a disk, and a new revision beside an old one.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

#[path = "loading/first_look.rs"]
mod first_look;
#[path = "loading/keeping.rs"]
mod keeping;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use loader::remote::Env;
use loader::{Load, LoadError, Loader, LoaderConfig, OpenOptions, Proof, Summary, Weights};
use telemetry::metrics::Registry;
use testkit::origin::{BitFlip, Fault, Faults, Generated, Origin, Script};
use wire::digest::{AnyDigest, Digest};
use wire::evidence::{Expected, Verdict};
use wire::manifest::{Manifest, ManifestFile, TensorDigest};

const CONFIG: &[u8] = br#"{"model_type":"test"}"#;
const MODEL: &str = "model.safetensors";

/// A safetensors file: tensors of 3 MB each, so that extents cut through them.
fn safetensors(seeds: &[u64]) -> Vec<u8> {
    const BYTES: usize = 3_000_000;
    let tensor = |place: usize| {
        format!(
            "\"layers.{place}\":{{\"dtype\":\"U8\",\"shape\":[{BYTES}],\"data_offsets\":[{},{}]}}",
            place * BYTES,
            (place + 1) * BYTES
        )
    };
    let header = format!("{{{}}}", (0..seeds.len()).map(tensor).collect::<Vec<_>>().join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    seeds.iter().for_each(|seed| bytes.extend(Generated::new(BYTES as u64, *seed).bytes(0..BYTES as u64)));
    bytes
}

fn order(weights: usize) -> Vec<String> {
    (0..weights).map(|place| format!("layers.{place}")).collect()
}

fn manifest(model: &[u8], tensors: usize) -> Manifest {
    let data = model.len() - tensors * 3_000_000;
    let digest = |bytes: &[u8]| Digest(*blake3::hash(bytes).as_bytes());
    let tensor = |place: usize| TensorDigest {
        name: format!("layers.{place}"),
        digest: digest(&model[data + place * 3_000_000..][..3_000_000]),
    };
    let file = |name: &str, bytes: &[u8], tensors| ManifestFile {
        name: name.into(),
        bytes: bytes.len() as u64,
        extents: bytes.chunks(4 << 20).map(digest).collect(),
        tensors,
    };
    let model = file(MODEL, model, (0..tensors).map(tensor).collect());
    Manifest::new(vec![file("config.json", CONFIG, Vec::new()), model]).unwrap()
}

fn origin(model: &[u8]) -> Origin {
    Origin::builder()
        .seed(7)
        .object("m/config.json", CONFIG)
        .object("m/model.safetensors", model.to_vec())
        .start()
        .unwrap()
}

fn config(cache: Option<&Path>) -> LoaderConfig {
    let mut config = LoaderConfig::default();
    config.cache.enabled = cache.is_some();
    config.cache.root = cache.map(Path::to_owned);
    config.cache.min_free_bytes = 0;
    config
}

fn pinned() -> Verdict {
    Verdict { proof: Proof::Pinned, ..Verdict::trusted("a test") }
}

fn proven(manifest: &Manifest) -> Verdict {
    let expected: BTreeMap<String, Expected> =
        manifest.files().iter().map(|file| (file.name.clone(), Expected::Extents(file.extents.clone()))).collect();
    let root = Some(manifest.root());
    Verdict { proof: Proof::Proven, expected, is_exhaustive: true, root, reasons: Vec::new() }
}

async fn open(
    origin: &Origin,
    config: &LoaderConfig,
    verdict: &Verdict,
    base: Option<Weights>,
) -> Result<Load, LoadError> {
    let loader = Loader::new(config, Env::default(), &Registry::new()).unwrap();
    let url = format!("{}/m/", origin.url()).parse().unwrap();
    let probe = loader.probe(&url).await?;
    let options = OpenOptions { order: order(64), base, ..OpenOptions::default() };
    loader.open(probe, verdict, options).await
}

async fn pull(origin: &Origin, config: &LoaderConfig, verdict: &Verdict) -> (Weights, Summary) {
    let load = open(origin, config, verdict, None).await.unwrap();
    let summary = load.finished().await.unwrap();
    (load.weights, summary)
}

fn sent(origin: &Origin) -> u64 {
    origin.account().objects.get("m/model.safetensors").map_or(0, |object| object.bytes_sent)
}

fn check(weights: &Weights, seeds: &[u64]) {
    assert!(weights.is_complete());
    for (place, seed) in seeds.iter().enumerate() {
        let expected = Generated::new(3_000_000, *seed).bytes(0..3_000_000);
        assert!(weights.get(&format!("layers.{place}")).unwrap().bytes() == expected, "layers.{place}");
    }
}

const SEEDS: [u64; 10] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_loaded_once_and_its_cached_file_is_the_published_one() {
    let model = safetensors(&SEEDS);
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let config = config(Some(cache.path()));
    let (weights, summary) = pull(&origin, &config, &pinned()).await;
    check(&weights, &SEEDS);
    assert_eq!((weights.proof(), summary.memory_only), (Proof::Pinned, false));
    assert!(summary.durable_seconds.is_some());
    let root = summary.root.unwrap();
    let kept = cache.path().join("v1/models").join(root.trim_start_matches("blake3:"));
    assert!(std::fs::read(kept.join(MODEL)).unwrap() == model);
    assert_eq!(std::fs::read(kept.join("config.json")).unwrap(), CONFIG);
    let before = sent(&origin);
    drop(weights);
    let (weights, summary) = pull(&origin, &config, &pinned()).await;
    check(&weights, &SEEDS);
    assert_eq!(summary.bytes_by_source, [("cache".to_owned(), model.len() as u64)]);
    assert_eq!(sent(&origin), before, "a hit reads nothing of the weights again");
}

/// The model with the names of its first two tensors exchanged in the header: equal in length, and
/// different in what it means.
fn with_names_exchanged(model: &[u8]) -> Vec<u8> {
    let data = model.len() - SEEDS.len() * 3_000_000;
    let header = String::from_utf8_lossy(&model[8..data]).into_owned();
    let header = header.replace("layers.0\"", "?\"").replace("layers.1\"", "layers.0\"").replace("?\"", "layers.1\"");
    [&model[..8], header.as_bytes(), &model[data..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_model_takes_its_header_and_settings_from_the_verified_files() {
    let model = safetensors(&SEEDS);
    let manifest = manifest(&model, SEEDS.len());
    for is_proven in [true, false] {
        let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
        let config = config(Some(cache.path()));
        if is_proven {
            origin.replace("m/forebay.manifest.json", manifest.to_json());
        }
        let verdict = if is_proven { proven(&manifest) } else { pinned() };
        pull(&origin, &config, &verdict).await;
        origin.replace_unnoticed("m/model.safetensors", with_names_exchanged(&model));
        origin.replace_unnoticed("m/config.json", vec![b'x'; CONFIG.len()]);
        origin.reset_account();
        let (weights, summary) = pull(&origin, &config, &verdict).await;
        check(&weights, &SEEDS);
        assert_eq!(summary.bytes_by_source, [("cache".to_owned(), model.len() as u64)]);
        assert_eq!(sent(&origin), 0, "nothing that the cache has is read again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_does_not_make_a_strangers_header_describe_the_cached_file() {
    let model = safetensors(&SEEDS);
    let manifest = manifest(&model, SEEDS.len());
    let (first, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let config = config(Some(cache.path()));
    first.replace("m/forebay.manifest.json", manifest.to_json());
    pull(&first, &config, &proven(&manifest)).await;
    // A mirror under another URL, with the same manifest and another header.
    let mirror = origin(&with_names_exchanged(&model));
    mirror.replace("m/forebay.manifest.json", manifest.to_json());
    let error = open(&mirror, &config, &proven(&manifest), None).await.unwrap_err();
    assert!(matches!(error, LoadError::HeaderContradicted { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_changes_under_its_tag_is_not_mixed_with_what_an_earlier_load_left() {
    let model = safetensors(&SEEDS);
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let mut config = config(Some(cache.path()));
    config.fetch.in_flight_bytes = 16 << 20;
    let stall = Script::always("m/model.safetensors", Fault::Stall { after: 4 << 20, milliseconds: None });
    origin.set_faults(Faults { scripts: vec![stall], ..Faults::default() });
    let load = open(&origin, &config, &pinned(), None).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), load.weights.ready("layers.3")).await.unwrap().unwrap();
    drop(load);
    origin.set_faults(Faults::default());
    let changed = with_names_exchanged(&safetensors(&[21; 10]));
    origin.replace_unnoticed("m/model.safetensors", changed.clone());
    let (weights, summary) = pull(&origin, &config, &pinned()).await;
    assert_eq!(summary.bytes_by_source.iter().map(|(_, bytes)| bytes).sum::<u64>(), model.len() as u64);
    let expected = Generated::new(3_000_000, 21).bytes(0..3_000_000);
    for place in 0..10 {
        assert!(weights.get(&format!("layers.{place}")).unwrap().bytes() == expected, "layers.{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_never_read_as_absence() {
    let model = safetensors(&SEEDS);
    for name in ["tokenizer.json", "chat_template.jinja", "forebay.manifest.json", "model.sig"] {
        for status in [401, 403, 410, 451] {
            let origin = origin(&model);
            let refusal = Fault::Status { status, retry_after_seconds: None };
            let scripts = vec![Script::always(&format!("m/{name}"), refusal)];
            origin.set_faults(Faults { scripts, ..Faults::default() });
            let error = open(&origin, &config(None), &pinned(), None).await.unwrap_err();
            let text = format!("{error}");
            assert!(text.contains(name) && text.contains(&status.to_string()), "{status} on {name}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_manifest_only_what_it_lists_must_be_readable() {
    let model = safetensors(&SEEDS);
    let manifest = manifest(&model, SEEDS.len());
    let origin = origin(&model);
    origin.replace("m/forebay.manifest.json", manifest.to_json());
    let refuse = |name: &str| {
        let refusal = Fault::Status { status: 403, retry_after_seconds: None };
        origin.set_faults(Faults { scripts: vec![Script::always(&format!("m/{name}"), refusal)], ..Faults::default() });
    };
    // A bucket that may not be listed says so of every file that is not there.
    refuse("tokenizer.json");
    let (weights, _) = pull(&origin, &config(None), &proven(&manifest)).await;
    check(&weights, &SEEDS);
    refuse("config.json");
    let error = open(&origin, &config(None), &proven(&manifest), None).await.unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("forebay.manifest.json"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_have_one_identity_wherever_they_come_from_and_another_when_a_byte_changes() {
    let model = safetensors(&SEEDS);
    let manifest = manifest(&model, SEEDS.len());
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let config_with = config(Some(cache.path()));
    let load = open(&origin, &config_with, &pinned(), None).await.unwrap();
    let early = load.weights.clone();
    load.arrived().await.unwrap();
    let first = early.identity().expect("known when all has arrived");
    drop((load, early));
    // From a manifest: before anything has arrived.
    origin.set_faults(Faults { total_bytes_per_second: Some(20_000_000), ..Faults::default() });
    let load = open(&origin, &config(None), &proven(&manifest), None).await.unwrap();
    assert!(!load.weights.is_complete());
    assert_eq!(load.weights.identity(), Some(first));
    drop(load);
    origin.set_faults(Faults::default());
    // From the cache, at once; it may not have been finished when the first load arrived.
    let (weights, _) = pull(&origin, &config_with, &pinned()).await;
    assert_eq!(weights.identity(), Some(first));
    let mut seeds = SEEDS;
    seeds[9] = 77;
    origin.replace("m/model.safetensors", safetensors(&seeds));
    let (weights, _) = pull(&origin, &config_with, &pinned()).await;
    assert!(weights.identity().is_some_and(|other| other != first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_an_identity_only_if_a_manifest_vouches_for_it() {
    let model = safetensors(&SEEDS[..2]);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(MODEL), &model).unwrap();
    std::fs::write(directory.path().join("config.json"), CONFIG).unwrap();
    let loader = Loader::new(&config(None), Env::default(), &Registry::new()).unwrap();
    let url = directory.path().to_str().unwrap().parse().unwrap();
    let mut identities = Vec::new();
    for verdict in [Verdict::trusted("a test"), proven(&manifest(&model, 2))] {
        let probe = loader.probe(&url).await.unwrap();
        let options = OpenOptions { read_all: true, ..OpenOptions::default() };
        identities.push(loader.open(probe, &verdict, options).await.unwrap().weights.identity());
    }
    let origin = origin(&model);
    let (weights, _) = pull(&origin, &config(None), &pinned()).await;
    assert_eq!(identities, [None, weights.identity()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cache_weights_live_in_memory() {
    let model = safetensors(&SEEDS);
    let origin = origin(&model);
    let (weights, summary) = pull(&origin, &config(None), &pinned()).await;
    check(&weights, &SEEDS);
    assert!(summary.memory_only);
    assert_eq!(summary.durable_seconds, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cache_degrades_to_memory() {
    let model = safetensors(&SEEDS);
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let mut config = config(Some(cache.path()));
    config.cache.quota_bytes = Some(1 << 20);
    let (weights, summary) = pull(&origin, &config, &pinned()).await;
    check(&weights, &SEEDS);
    assert!(summary.memory_only);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_on_the_way_is_fetched_again_and_one_flipped_for_good_is_named() {
    let model = safetensors(&SEEDS);
    let verdict = proven(&manifest(&model, SEEDS.len()));
    for times in [Some(1), None] {
        let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
        // Beyond the header's first read.
        let flip = BitFlip { object: "m/model.safetensors".into(), offset: 9_000_000, bit: 3, times };
        origin.set_faults(Faults { flips: vec![flip], ..Faults::default() });
        let load = open(&origin, &config(Some(cache.path())), &verdict, None).await.unwrap();
        let result = load.finished().await;
        if times.is_some() {
            let summary = result.unwrap();
            check(&load.weights, &SEEDS);
            assert_eq!((load.weights.proof(), summary.fetch.unwrap().corrupt_extents), (Proof::Proven, 1));
        } else {
            let message = format!("{:?}", result.unwrap_err());
            assert!(message.contains("model.safetensors") && message.contains("8388608..12582912"), "{message}");
            let damaged = load.weights.get("layers.3").unwrap();
            assert!(!damaged.is_ready() && damaged.wait().is_err(), "nothing damaged is ever shown");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_known_only_as_a_whole_is_fetched_once_more_and_never_shown_while_it_is_wrong() {
    let model = safetensors(&SEEDS);
    let whole = AnyDigest::Blake3(Digest(*blake3::hash(&model).as_bytes()));
    let expected = BTreeMap::from([(MODEL.to_owned(), Expected::Whole(whole))]);
    let verdict = Verdict { proof: Proof::Proven, expected, ..Verdict::trusted("a test") };
    for (with_cache, times) in [(true, Some(1)), (false, Some(1)), (true, None)] {
        let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
        let flip = BitFlip { object: "m/model.safetensors".into(), offset: 9_000_000, bit: 3, times };
        origin.set_faults(Faults { flips: vec![flip], ..Faults::default() });
        let cache = with_cache.then(|| cache.path());
        let load = open(&origin, &config(cache), &verdict, None).await.unwrap();
        let result = load.finished().await;
        if times.is_some() {
            assert_eq!(result.unwrap().fetch.unwrap().discarded_bytes, model.len() as u64);
            check(&load.weights, &SEEDS);
        } else {
            let message = format!("{:?}", result.unwrap_err());
            assert!(message.contains("Corrupt") && message.contains("model.safetensors"), "{message}");
            assert!(load.weights.get("layers.3").unwrap().wait().is_err(), "nothing of it is ever shown");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_busy_at_first_is_asked_again_for_every_file() {
    let model = safetensors(&SEEDS);
    let origin = origin(&model);
    let busy = Fault::Status { status: 503, retry_after_seconds: None };
    let script = Script { object: None, first: 1, last: 2, fault: busy };
    origin.set_faults(Faults { scripts: vec![script], ..Faults::default() });
    let (weights, _) = pull(&origin, &config(None), &pinned()).await;
    check(&weights, &SEEDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_was_broken_off_is_gone_on_with() {
    let model = safetensors(&SEEDS);
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let mut config = config(Some(cache.path()));
    config.fetch.in_flight_bytes = 16 << 20;
    // The end never comes, until the load is broken off.
    let stall = Script::always("m/model.safetensors", Fault::Stall { after: 4 << 20, milliseconds: None });
    origin.set_faults(Faults { scripts: vec![stall], ..Faults::default() });
    let load = open(&origin, &config, &pinned(), None).await.unwrap();
    // Of both requests that are in flight an extent lands; the header's alone would be read again in any case.
    for name in ["layers.0", "layers.3"] {
        tokio::time::timeout(Duration::from_secs(20), load.weights.ready(name)).await.unwrap().unwrap();
    }
    drop(load);
    origin.set_faults(Faults::default());
    origin.reset_account();
    let (weights, summary) = pull(&origin, &config, &pinned()).await;
    check(&weights, &SEEDS);
    let cached = summary.bytes_by_source.iter().find(|(from, _)| from == "cache").map_or(0, |(_, bytes)| *bytes);
    assert!(cached > 0, "{summary:?}");
    assert!(sent(&origin) < model.len() as u64, "what had landed is not fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_changes_is_an_error_and_never_a_mix() {
    let model = safetensors(&SEEDS);
    let origin = origin(&model);
    let loader = Loader::new(&config(None), Env::default(), &Registry::new()).unwrap();
    let probe = loader.probe(&format!("{}/m/", origin.url()).parse().unwrap()).await.unwrap();
    origin.replace("m/model.safetensors", safetensors(&[11; 10]));
    let load = loader.open(probe, &pinned(), OpenOptions::default()).await.unwrap();
    let message = format!("{:?}", load.finished().await.unwrap_err());
    assert!(message.contains("Changed"), "{message}");
    assert!(load.weights.ready("layers.0").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_fetches_only_what_changed_and_shares_the_rest() {
    let old = safetensors(&SEEDS);
    let mut seeds = SEEDS;
    seeds[4] = 99;
    let new = safetensors(&seeds);
    let (origin, cache) = (origin(&old), tempfile::tempdir().unwrap());
    let config = config(Some(cache.path()));
    origin.replace("m/forebay.manifest.json", manifest(&old, 10).to_json());
    let (base, _) = pull(&origin, &config, &proven(&manifest(&old, 10))).await;
    origin.replace("m/model.safetensors", new.clone());
    origin.reset_account();
    origin.replace("m/forebay.manifest.json", manifest(&new, 10).to_json());
    let load = open(&origin, &config, &proven(&manifest(&new, 10)), Some(base.clone())).await.unwrap();
    let summary = load.finished().await.unwrap();
    check(&load.weights, &seeds);
    check(&base, &SEEDS);
    assert!(sent(&origin) < 13 << 20, "the header's extent and those of one tensor: {}", sent(&origin));
    let shared = summary.bytes_by_source.iter().find(|(from, _)| from == "shared").map_or(0, |(_, bytes)| *bytes);
    assert_eq!(shared, 9 * 3_000_000);
}
