//! `forebay cache` on a cache that the loader filled.

use crate::process::forebay;
use loader::cache::{Begin, Cache, CacheConfig, Wanted};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Output;

const URL: &str = "s3://bucket/tiny";
const CONTENT: &[u8] = b"weights";

/// A cache with one model of one file.
async fn fill(root: &Path) -> String {
    let config = CacheConfig { root: Some(root.to_owned()), min_free_bytes: 0, ..CacheConfig::default() };
    let cache = Cache::open(&config, &telemetry::metrics::Registry::new()).expect("opens");
    let tag = loader::Tag { etag: Some("\"1\"".into()), ..loader::Tag::default() };
    let object = loader::Object { name: "model.safetensors".into(), bytes: CONTENT.len() as u64, tag, checksum: None };
    let objects = [object];
    let begun = cache.begin(&Wanted { url: URL, objects: &objects, root: None }).await.expect("begins");
    let Begin::Load(entry) = begun else { panic!("it is there") };
    let file = entry.file(&objects[0]).await.expect("has room");
    let region = loader::Region::create_file(file.path(), objects[0].bytes).expect("maps");
    assert!(region.fill_extent(0, CONTENT));
    file.landed(0, blake3::hash(CONTENT));
    let digest = wire::digest::Digest(*blake3::hash(CONTENT).as_bytes());
    let name = objects[0].name.clone();
    let bytes = objects[0].bytes;
    let listed = wire::manifest::ManifestFile { name, bytes, extents: vec![digest], tensors: Vec::new() };
    let manifest = wire::manifest::Manifest::new(vec![listed]).expect("a manifest");
    entry.finish(&manifest.to_json(), wire::proof::Proof::Pinned).await.expect("finishes").root.to_hex()
}

fn cache(root: &Path, args: &[&str]) -> Output {
    forebay().arg("cache").args(args).env("FOREBAY_CACHE", root).output().expect("runs")
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test]
async fn a_model_is_listed_pinned_verified_and_removed() {
    let root = tempfile::tempdir().expect("a directory");
    let id = fill(root.path()).await;
    let listed = json(&cache(root.path(), &["ls", "--json"]));
    assert_eq!((&listed[0]["id"], &listed[0]["urls"][0]), (&id.as_str().into(), &URL.into()), "{listed}");
    let text = cache(root.path(), &["ls"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains(&id[..12]));

    assert!(cache(root.path(), &["pin", &id[..8]]).status.success());
    let refused = cache(root.path(), &["rm", URL]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cache unpin"), "it names the fix");
    assert_eq!(json(&cache(root.path(), &["gc", "--target-bytes", "0", "--json"]))["removed"], serde_json::json!([]));
    assert!(cache(root.path(), &["unpin", URL]).status.success());

    assert_eq!(json(&cache(root.path(), &["verify", "--json"]))[0]["wrong"], serde_json::json!([]));
    let path = Path::new(listed[0]["directory"].as_str().expect("a path")).join("model.safetensors");
    let file = std::fs::File::options().write(true).open(path).expect("opens");
    file.write_all_at(b"W", 0).expect("writes");
    let wrong = cache(root.path(), &["verify", URL]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stdout).contains("`model.safetensors` is wrong"));
    let broken = json(&cache(root.path(), &["ls", "--json"]));
    assert_eq!(broken[0]["is_partial"], true, "{broken}");
    assert!(cache(root.path(), &["rm", URL]).status.success());
    assert_eq!(json(&cache(root.path(), &["ls", "--json"])), serde_json::json!([]));
    assert_eq!(cache(root.path(), &["rm", URL]).status.code(), Some(1));
}
