//! Kept models and their uses: without the origin, without the network, read-only, and for a
//! revision that differs in a small file alone.

use super::*;
use loader::cache::{Cache, CacheConfig};

async fn pull_from(loader: &Loader, url: &str, verdict: &Verdict) -> Result<(Weights, Summary), LoadError> {
    let probe = loader.probe(&url.parse().unwrap()).await?;
    let load = loader.open(probe, verdict, OpenOptions::default()).await?;
    let summary = load.finished().await.unwrap();
    Ok((load.weights, summary))
}

fn loader_with(config: &LoaderConfig, env: &[(&str, &str)]) -> Loader {
    Loader::new(config, Env::from_pairs(env.iter().copied()), &Registry::new()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_down_is_replaced_by_the_cache() {
    let model = safetensors(&SEEDS);
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let config = config(Some(cache.path()));
    let manifest = manifest(&model, SEEDS.len());
    origin.replace("m/forebay.manifest.json", manifest.to_json());
    let url = format!("{}/m/", origin.url());
    let loader = loader_with(&config, &[]);
    pull_from(&loader, &url, &proven(&manifest)).await.unwrap();
    // Busy for good; then gone.
    let busy = Fault::Status { status: 503, retry_after_seconds: None };
    let script = Script { object: None, first: 1, last: u64::MAX, fault: busy };
    origin.set_faults(Faults { scripts: vec![script], ..Faults::default() });
    let probe = loader.probe(&url.parse().unwrap()).await.unwrap();
    assert_eq!(probe.evidence().manifest.as_ref().map(Manifest::root), Some(manifest.root()));
    let load = loader.open(probe, &proven(&manifest), OpenOptions::default()).await.unwrap();
    check(&load.weights, &SEEDS);
    assert!(load.finished().await.unwrap().kept);
    drop(origin);
    let (weights, _) = pull_from(&loader, &url, &proven(&manifest)).await.unwrap();
    check(&weights, &SEEDS);
    assert_eq!(weights.proof(), Proof::Proven);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_not_taken_for_an_origin_that_is_down() {
    let model = safetensors(&SEEDS);
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let config = config(Some(cache.path()));
    pull(&origin, &config, &pinned()).await;
    let refusal = Fault::Status { status: 403, retry_after_seconds: None };
    let script = Script { object: None, first: 1, last: u64::MAX, fault: refusal };
    origin.set_faults(Faults { scripts: vec![script], ..Faults::default() });
    assert!(open(&origin, &config, &pinned(), None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_nobody_is_asked() {
    let model = safetensors(&SEEDS);
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let mut config = config(Some(cache.path()));
    pull(&origin, &config, &pinned()).await;
    config.offline = true;
    origin.reset_account();
    let (weights, summary) = pull(&origin, &config, &pinned()).await;
    check(&weights, &SEEDS);
    assert!(summary.kept);
    assert_eq!(origin.log().len(), 0, "{:?}", origin.log());
    let loader = loader_with(&config, &[]);
    let error = loader.probe(&format!("{}/other/", origin.url()).parse().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("offline") && error.to_string().contains("forebay pull"), "{error}");
}

/// The hub of the origin, with one repository.
fn hub(model: &[u8]) -> Origin {
    let builder = Origin::builder().seed(7).shape(testkit::origin::Shape::Hub);
    builder.object("org/name/config.json", CONFIG).object("org/name/model.safetensors", model.to_vec()).start().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_is_not_asked_offline_nor_about_a_commit_that_is_cached() {
    let model = safetensors(&SEEDS);
    let (hub, cache) = (hub(&model), tempfile::tempdir().unwrap());
    let config = config(Some(cache.path()));
    let endpoint = hub.url();
    let online = loader_with(&config, &[("HF_ENDPOINT", &endpoint)]);
    let branch = "hf://org/name@main";
    let probe = online.probe(&branch.parse().unwrap()).await.unwrap();
    let commit = probe.shards()[0].object.tag.version.clone().unwrap();
    drop(probe);
    let pinned_to = format!("hf://org/name@{commit}");
    for url in [branch, &pinned_to] {
        pull_from(&online, url, &pinned()).await.unwrap();
    }
    hub.reset_account();
    for offline in ["1", "true", "ON", "yes"] {
        let offline = loader_with(&config, &[("HF_ENDPOINT", &endpoint), ("HF_HUB_OFFLINE", offline)]);
        check(&pull_from(&offline, branch, &pinned()).await.unwrap().0, &SEEDS);
    }
    check(&pull_from(&online, &pinned_to, &pinned()).await.unwrap().0, &SEEDS);
    assert_eq!(hub.log().len(), 0, "{:?}", hub.log());
    pull_from(&online, branch, &pinned()).await.unwrap();
    assert!(!hub.log().is_empty(), "a branch may have moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hubs_commit_with_the_same_weights_fetches_small_files_alone() {
    let model = safetensors(&SEEDS);
    let (hub, cache) = (hub(&model), tempfile::tempdir().unwrap());
    let config = config(Some(cache.path()));
    let loader = loader_with(&config, &[("HF_ENDPOINT", &hub.url())]);
    let sha256 = <sha2::Sha256 as sha2::Digest>::digest(&model);
    let whole = Expected::Whole(AnyDigest::Sha256(wire::digest::Sha256(sha256.into())));
    let expected = BTreeMap::from([(MODEL.to_owned(), whole)]);
    let verdict = Verdict { proof: Proof::Proven, expected, ..Verdict::trusted("a test") };
    let (first, _) = pull_from(&loader, "hf://org/name", &verdict).await.unwrap();
    hub.replace("org/name/config.json", &br#"{"model_type":"other"}"#[..]);
    hub.reset_account();
    let (weights, summary) = pull_from(&loader, "hf://org/name", &verdict).await.unwrap();
    check(&weights, &SEEDS);
    assert_eq!(weights.identity(), first.identity());
    assert!(summary.kept && summary.bytes_by_source.iter().any(|(from, bytes)| from == "cache" && *bytes > 0));
    let fetched = hub.account().objects.get("org/name/model.safetensors").map_or(0, |object| object.bytes_sent);
    assert_eq!(fetched, 0, "the weights are there already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_small_file_does_not_fetch_the_weights_again() {
    let model = safetensors(&SEEDS);
    for is_proven in [true, false] {
        let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
        let config = config(Some(cache.path()));
        let of = |config: &[u8]| {
            let digest = |bytes: &[u8]| Digest(*blake3::hash(bytes).as_bytes());
            let mut files = manifest(&model, SEEDS.len()).files().to_vec();
            files[0].bytes = config.len() as u64;
            files[0].extents = vec![digest(config)];
            Manifest::new(files).unwrap()
        };
        let changed = br#"{"model_type":"changed"}"#;
        let verdict = |config: &[u8]| if is_proven { proven(&of(config)) } else { pinned() };
        let publish = |config: &[u8]| {
            if is_proven {
                origin.replace("m/forebay.manifest.json", of(config).to_json());
            }
        };
        publish(CONFIG);
        let (old, _) = pull(&origin, &config, &verdict(CONFIG)).await;
        origin.replace("m/config.json", &changed[..]);
        publish(changed);
        origin.reset_account();
        let (new, summary) = pull(&origin, &config, &verdict(changed)).await;
        check(&new, &SEEDS);
        assert_eq!((sent(&origin), summary.kept), (0, true), "proven: {is_proven}");
        drop((old, new));
        // Both are whole, share their bytes on the disk, and outlive each other.
        let cache_config = CacheConfig { root: Some(cache.path().to_owned()), ..config.cache.clone() };
        let cache = Cache::open(&cache_config, &Registry::new()).unwrap();
        let listed = cache.list();
        assert_eq!(listed.len(), 2, "{listed:?}");
        let total: u64 = listed.iter().map(|model| model.bytes).sum();
        assert!(total < model.len() as u64 * 3 / 2, "{total}");
        for model in &listed {
            assert!(cache.verify(&model.id, &mut |_, _| {}).unwrap().wrong.is_empty());
        }
        cache.remove(&listed[0].id).unwrap();
        assert!(cache.verify(&listed[1].id, &mut |_, _| {}).unwrap().wrong.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_a_shared_file_is_found_in_both_models_and_mended_without_touching_the_other() {
    let model = safetensors(&SEEDS);
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let config = config(Some(cache.path()));
    let (_, first) = pull(&origin, &config, &pinned()).await;
    origin.replace("m/config.json", &b"{}"[..]);
    let (_, second) = pull(&origin, &config, &pinned()).await;
    let path = |summary: &Summary| {
        let root = summary.root.as_deref().unwrap().trim_start_matches("blake3:").to_owned();
        cache.path().join("v1/models").join(root).join(MODEL)
    };
    let file = std::fs::File::options().write(true).open(path(&second)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 5_000_000).unwrap();
    drop(file);
    let (weights, _) = pull(&origin, &config, &pinned()).await;
    check(&weights, &SEEDS);
    assert!(std::fs::read(path(&second)).unwrap() == model);
    assert!(std::fs::read(path(&first)).unwrap() != model, "the other still has the damaged file, and finds it itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_cache_is_used_and_fetches_nothing_twice() {
    let model = safetensors(&SEEDS);
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let mut config = config(Some(cache.path()));
    pull(&origin, &config, &pinned()).await;
    config.cache.read_only = true;
    origin.reset_account();
    let before = snapshot(cache.path());
    let (weights, summary) = pull(&origin, &config, &pinned()).await;
    check(&weights, &SEEDS);
    assert_eq!((sent(&origin), summary.kept), (0, true));
    // What it lacks is loaded all the same, and not reported as kept.
    origin.replace("m/model.safetensors", safetensors(&[5; 10]));
    let (_, summary) = pull(&origin, &config, &pinned()).await;
    assert_eq!((summary.kept, summary.memory_only), (false, true));
    assert_eq!(snapshot(cache.path()), before, "nothing was written");
}

/// The variable by which the next test tells its own program, run below a read-only mount, what to load.
const MOUNTED: &str = "FOREBAY_TEST_MOUNTED";

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_on_a_read_only_mount_is_used_as_it_is() {
    if let Ok(told) = std::env::var(MOUNTED) {
        let (url, cache) = told.split_once(' ').unwrap();
        return load_from_mount(url, Path::new(cache)).await;
    }
    let model = safetensors(&SEEDS);
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    pull(&origin, &config(Some(cache.path())), &pinned()).await;
    origin.reset_account();
    let before = snapshot(cache.path());
    let mount = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && echo mounted && exec \"$0\" --exact \
                 keeping::a_cache_on_a_read_only_mount_is_used_as_it_is";
    let (program, root) = (std::env::current_exe().unwrap(), cache.path());
    let mut child = std::process::Command::new("unshare");
    child.args(["-r", "-m", "sh", "-c", mount]).args([program.as_path(), root]);
    child.env(MOUNTED, format!("{}/m/ {}", origin.url(), root.display()));
    let ran = tokio::task::spawn_blocking(move || child.output()).await.unwrap();
    let told = ran.as_ref().map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned()).unwrap_or_default();
    if !told.starts_with("mounted") {
        // Containers often forbid it.
        eprintln!("skipped: nothing can be mounted here: {ran:?}");
        return;
    }
    assert!(ran.as_ref().is_ok_and(|ran| ran.status.success()), "{ran:?}");
    assert_eq!((sent(&origin), snapshot(cache.path())), (0, before), "nothing was fetched and nothing written");
}

/// Loads what the mounted cache has, which nobody said is read-only.
async fn load_from_mount(url: &str, cache: &Path) {
    let refused = std::fs::write(cache.join("v1/new"), b"").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let loader = loader_with(&config(Some(cache)), &[]);
    let (weights, summary) = pull_from(&loader, url, &pinned()).await.unwrap();
    check(&weights, &SEEDS);
    assert!(summary.kept && !summary.memory_only);
}

/// Every path below a directory, with its modification time.
fn snapshot(directory: &Path) -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        all.push((entry.path(), entry.metadata().unwrap().modified().unwrap()));
        if entry.path().is_dir() {
            all.extend(snapshot(&entry.path()));
        }
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_could_not_be_kept_is_not_reported_as_kept() {
    let model = safetensors(&SEEDS);
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let mut config = config(Some(cache.path()));
    config.cache.quota_bytes = Some(1 << 20);
    assert!(!pull(&origin, &config, &pinned()).await.1.kept);
    config.cache.quota_bytes = None;
    // The last step fails: something stands where the models go before the last byte has come.
    origin.set_faults(Faults { total_bytes_per_second: Some(20_000_000), ..Faults::default() });
    let load = open(&origin, &config, &pinned(), None).await.unwrap();
    std::fs::remove_dir_all(cache.path().join("v1/models")).unwrap();
    std::fs::write(cache.path().join("v1/models"), b"").unwrap();
    let summary = load.finished().await.unwrap();
    check(&load.weights, &SEEDS);
    assert_eq!((summary.kept, summary.durable_seconds), (false, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_expectation_of_a_cached_file_is_checked_against_its_bytes() {
    let model = safetensors(&SEEDS);
    let (origin, cache) = (origin(&model), tempfile::tempdir().unwrap());
    let config = config(Some(cache.path()));
    let whole = |bytes: &[u8]| {
        let digest = AnyDigest::Blake3(Digest(*blake3::hash(bytes).as_bytes()));
        let expected = BTreeMap::from([(MODEL.to_owned(), Expected::Whole(digest))]);
        Verdict { proof: Proof::Proven, expected, ..Verdict::trusted("a test") }
    };
    pull(&origin, &config, &whole(&model)).await;
    let (weights, _) = pull(&origin, &config, &whole(&model)).await;
    check(&weights, &SEEDS);
    // Proven by one digest is not proven by another.
    assert!(open(&origin, &config, &whole(b"something else"), None).await.is_err());
}
