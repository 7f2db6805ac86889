//! A disk that is really full: a small file system of its own, where the machine lets us have one.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

use std::path::Path;
use std::process::Command;

use loader::cache::{Begin, Cache, CacheConfig, CacheError, Entry, Wanted};
use loader::{Object, Region, Tag};
use telemetry::metrics::Registry;
use wire::EXTENT_BYTES;
use wire::digest::Digest;
use wire::manifest::{Manifest, ManifestFile};
use wire::proof::Proof;

const BYTES: u64 = 2 * EXTENT_BYTES;

fn object() -> Object {
    Object { name: "model.safetensors".into(), bytes: BYTES, tag: Tag::default(), checksum: None }
}

async fn begin(cache: &Cache, url: &str) -> Result<Begin, CacheError> {
    cache.begin(&Wanted { url, objects: &[object()], root: None }).await
}

async fn load(cache: &Cache, url: &str, byte: u8) {
    let Begin::Load(entry) = begin(cache, url).await.unwrap() else { panic!("{url} is there") };
    fill(&entry, byte).await;
    let digest = Digest(*blake3::hash(&vec![byte; EXTENT_BYTES as usize]).as_bytes());
    let file = ManifestFile { name: object().name, bytes: BYTES, extents: vec![digest; 2], tensors: Vec::new() };
    entry.finish(&Manifest::new(vec![file]).unwrap().to_json(), Proof::Pinned).await.unwrap();
}

async fn fill(entry: &Entry, byte: u8) {
    let file = entry.file(&object()).await.unwrap();
    let region = Region::create_file(file.path(), BYTES).unwrap();
    let bytes = vec![byte; EXTENT_BYTES as usize];
    for extent in 0..2 {
        assert!(region.fill_extent(extent, &bytes));
        file.landed(extent, blake3::hash(&bytes));
    }
}

#[test]
fn a_full_disk_is_an_error_and_nothing_worse() {
    let directory = tempfile::tempdir().unwrap();
    let can_mount = Command::new("unshare")
        .args(["-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(directory.path())
        .output()
        .is_ok_and(|output| output.status.success());
    if !can_mount {
        println!("skipped: a file system can be mounted by root only");
        return;
    }
    // In a name space of its own, so that nothing is left mounted however it ends.
    let inside = format!(
        "mount -t tmpfs -o size=28m tmpfs '{0}' && FULL_DISK='{0}' exec '{1}' --exact inside --ignored --nocapture",
        directory.path().display(),
        std::env::current_exe().unwrap().display()
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &inside]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[ignore = "runs within the test above"]
async fn inside() {
    let Ok(disk) = std::env::var("FULL_DISK") else { return };
    let disk = Path::new(&disk);
    let config = CacheConfig { root: Some(disk.join("cache")), min_free_bytes: 1 << 20, ..CacheConfig::default() };
    let registry = Registry::new();
    let cache = Cache::open(&config, &registry).unwrap();
    // 28 MB hold three models of 8 MB; the fourth makes the first leave.
    for (index, url) in ["s3://a/1", "s3://a/2", "s3://a/3", "s3://a/4"].into_iter().enumerate() {
        load(&cache, url, index as u8 + 1).await;
    }
    let listed = cache.list();
    assert_eq!(listed.len(), 3, "{listed:?}");
    // Someone else fills the disk between our count and our allocation; everything of ours stays.
    listed.iter().for_each(|model| drop(cache.pin(&model.id).unwrap()));
    assert!(begin(&cache, "s3://a/5").await.unwrap_err().is_full());
    listed.iter().for_each(|model| drop(cache.unpin(&model.id).unwrap()));
    let Begin::Load(entry) = begin(&cache, "s3://a/5").await.unwrap() else { panic!("it is there") };
    for model in cache.list() {
        drop(cache.pin(&model.id).unwrap());
    }
    let rest = std::fs::File::create(disk.join("other")).unwrap();
    let left = rustix::fs::statvfs(disk).unwrap();
    rustix::fs::fallocate(&rest, rustix::fs::FallocateFlags::empty(), 0, left.f_bavail * left.f_frsize).unwrap();
    let error = entry.file(&object()).await.unwrap_err();
    assert!(matches!(error, CacheError::NoSpace { .. }), "{error}");
    assert!(entry.small_file("config.json", b"{}").unwrap_err().is_full());
    assert!(begin(&cache, "s3://a/6").await.is_err_and(|error| error.is_full()), "and no crash");
    assert!(registry.render().contains("forebay_loader_cache_failures_total{reason=\"full\"}"));
    // Room again: the same load goes on.
    drop(rest);
    std::fs::remove_file(disk.join("other")).unwrap();
    fill(&entry, 5).await;
}
