//! The calls of the hub's clients, and what they must carry.

use crate::harness::{CONFIG, REPOSITORY, WEIGHTS, file, hub, noise, start, weights};
use testkit::gguf::GgufFile;
use testkit::origin::{Origin, Shape};

/// The commit that the hub says.
async fn commit(running: &crate::harness::Running) -> String {
    let info = running.get(&format!("/api/models/{REPOSITORY}/revision/main")).await.json();
    info["sha"].as_str().expect("a commit").to_owned()
}

#[tokio::test]
async fn a_revision_and_its_tree_are_told_as_the_hub_tells_them() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    let info = running.get(&format!("/api/models/{REPOSITORY}/revision/main")).await;
    let sha = info.json()["sha"].as_str().expect("a commit").to_owned();
    assert_eq!((info.status, sha.len(), info.header("x-repo-commit")), (200, 40, sha.as_str()));
    let info = info.json();
    let siblings = info["siblings"].as_array().expect("a list");
    assert!(siblings.iter().any(|sibling| sibling["rfilename"] == "onnx/model.onnx"), "{siblings:?}");
    assert_eq!(running.get(&format!("/api/models/{REPOSITORY}")).await.json(), info);
    let tree = running.get(&format!("/api/models/{REPOSITORY}/tree/{sha}?recursive=true&expand=false")).await.json();
    let entry = tree.as_array().expect("a list").iter().find(|entry| entry["path"] == WEIGHTS).expect("the weights");
    assert_eq!((&entry["type"], &entry["size"]), (&"file".into(), &weights().len().into()));
    assert_eq!(entry["lfs"]["oid"].as_str().map(str::len), Some(64));
    let folder = running.get(&format!("/api/models/{REPOSITORY}/tree/main/onnx")).await.json();
    assert_eq!(folder.as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_tree_comes_whole_however_the_hub_pages_it() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    let tree = running.get(&format!("/api/models/{REPOSITORY}/tree/main?recursive=true&limit=2")).await;
    assert_eq!((tree.status, tree.json().as_array().map(Vec::len)), (200, Some(5)));
    assert_eq!(tree.header("link"), "", "a client would go on at the hub");
}

#[tokio::test]
async fn a_head_tells_commit_tag_and_length_and_no_other_way() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    let sha = commit(&running).await;
    for (name, bytes) in [("config.json", CONFIG.len()), (WEIGHTS, weights().len()), ("empty.txt", 0)] {
        let head = running.head(&file(name)).await;
        assert_eq!((head.status, head.header("x-repo-commit")), (200, sha.as_str()), "{name}");
        assert_eq!(head.header("content-length"), bytes.to_string(), "{name}");
        assert!(head.header("etag").starts_with('"') && head.body.is_empty(), "{name}: {head:?}");
        let leads = |name: &str| name.starts_with("x-xet") || matches!(name, "link" | "location");
        assert!(!head.names().any(leads), "{head:?}");
    }
    let head = running.head(&file(WEIGHTS)).await;
    assert_eq!(head.header("x-linked-etag").len(), 66, "the SHA-256 that names the client's blob");
    assert_eq!(head.header("x-linked-size"), weights().len().to_string());
    assert_eq!(origin.account().bytes_sent, 0, "a head costs no bytes");
}

#[tokio::test]
async fn every_kind_of_file_is_what_the_hub_has() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    for (name, bytes) in [
        ("config.json", CONFIG.to_vec()),
        ("README.md", b"# tiny\n".to_vec()),
        ("empty.txt", Vec::new()),
        ("onnx/model.onnx", noise(70_000)),
        (WEIGHTS, weights()),
    ] {
        for _ in 0..2 {
            let answer = running.ask("GET", &file(name), &[("Accept-Encoding", "gzip, deflate, br")]).await;
            assert_eq!((answer.status, answer.header("content-encoding")), (200, ""), "{name}");
            assert_eq!(answer.header("content-length"), bytes.len().to_string(), "{name}");
            assert!(answer.body == bytes, "{name}: other bytes");
            assert_eq!(answer.header("etag"), running.head(&file(name)).await.header("etag"), "{name}");
        }
    }
}

#[tokio::test]
async fn a_download_is_resumed_where_it_broke_off() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    let all = weights();
    for (range, from, to) in [
        ("bytes=5000000-", 5_000_000, all.len()),
        ("bytes=0-0", 0, 1),
        ("bytes=4194303-4194304", 4_194_303, 4_194_305),
        ("bytes=-10", all.len() - 10, all.len()),
    ] {
        let part = running.ask("GET", &file(WEIGHTS), &[("Range", range)]).await;
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {from}-{}/{}", to - 1, all.len()));
        assert!(part.body == all[from..to], "{range}");
    }
    let beyond = running.ask("GET", &file(WEIGHTS), &[("Range", &format!("bytes={}-", all.len()))]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, format!("bytes */{}", all.len()).as_str()));
    let etag = running.head(&file("config.json")).await.header("etag").to_owned();
    let same = running.ask("GET", &file("config.json"), &[("If-None-Match", &etag)]).await;
    assert_eq!((same.status, same.body.len()), (304, 0));
    let other = running.ask("GET", &file("config.json"), &[("Range", "bytes=2-"), ("If-Range", "\"other\"")]).await;
    assert_eq!((other.status, other.body.as_slice()), (200, CONFIG));
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_the_hubs_words() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    let sha = commit(&running).await;
    for method in ["HEAD", "GET"] {
        let missing = running.ask(method, &file("adapter_config.json"), &[]).await;
        assert_eq!((missing.status, missing.header("x-error-code")), (404, "EntryNotFound"));
        assert_eq!(missing.header("x-repo-commit"), sha, "clients remember it by the commit");
        let unknown = running.ask(method, "/org/unknown/resolve/main/config.json", &[]).await;
        assert_eq!((unknown.status, unknown.header("x-error-code")), (404, "RepoNotFound"));
    }
    for path in [
        "/datasets/org/tiny/resolve/main/x.parquet",
        "/api/datasets/org/tiny/revision/main",
        "/spaces/org/tiny/resolve/main/app.py",
    ] {
        let refused = running.get(path).await;
        let named = path.split('/').find(|part| matches!(*part, "datasets" | "spaces")).expect("a kind");
        assert_eq!(refused.status, 501, "{path}");
        assert!(refused.header("x-error-message").contains(named), "{refused:?}");
        assert!(refused.json()["error"].as_str().expect("text").contains("HF_ENDPOINT"));
    }
    for path in ["/org/tiny/resolve/main/../../x", "/org/tiny/resolve/main/%2e%2e/x", "/nothing", "/"] {
        assert_eq!(running.get(path).await.status, 404, "{path}");
    }
    let posted = running.ask("POST", &file("config.json"), &[("Content-Length", "0")]).await;
    assert_eq!((posted.status, posted.header("allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn gguf_files_and_weights_that_are_no_model_are_files_too() {
    let gguf = gguf_file();
    let broken = b"not safetensors at all, and long enough to look like a header of some kind".to_vec();
    let origin = Origin::builder()
        .shape(Shape::Hub)
        .object("org/mixed/tiny.gguf", gguf.clone())
        .object("org/mixed/broken.safetensors", broken.clone())
        .object("org/mixed/broken.gguf", broken.clone())
        .object("org/mixed/unet/diffusion.safetensors", weights())
        .start()
        .expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    for (name, bytes) in [
        ("tiny.gguf", gguf),
        ("broken.safetensors", broken.clone()),
        ("broken.gguf", broken),
        ("unet/diffusion.safetensors", weights()),
    ] {
        let answer = running.get(&format!("/org/mixed/resolve/main/{name}")).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.header("x-error-message"));
        assert!(answer.body == bytes, "{name}");
    }
}

fn gguf_file() -> Vec<u8> {
    let mut file = GgufFile::default();
    file.tensor("token_embd.weight", &[2, 32], 0, noise(256));
    file.bytes()
}

#[tokio::test]
async fn a_branch_that_moves_is_followed_and_a_commit_stays() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |settings| settings.node.right_ms = 0).await;
    let before = commit(&running).await;
    assert_eq!(running.get(&file("config.json")).await.body, CONFIG);
    origin.replace(&format!("{REPOSITORY}/config.json"), &b"{\"model_type\": \"other\"}"[..]);
    let head = running.head(&file("config.json")).await;
    assert_ne!(head.header("x-repo-commit"), before);
    let now = running.get(&file("config.json")).await;
    assert_eq!(now.body, b"{\"model_type\": \"other\"}");
    assert_eq!(now.header("x-repo-commit"), head.header("x-repo-commit"));
}

#[tokio::test]
async fn health_status_and_metrics_are_told() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    for path in ["/livez", "/healthz", "/readyz", "/health"] {
        assert_eq!(running.get(path).await.status, 200, "{path}");
    }
    running.get(&file(WEIGHTS)).await;
    running.filled().await;
    let status = running.get("/status").await.json();
    assert_eq!((&status["draining"], &status["hub"]), (&false.into(), &origin.url().into()));
    assert_eq!(status["open"][0]["bytes_missing"], 0, "{status}");
    let metrics = String::from_utf8(running.get("/metrics").await.body).expect("text");
    for series in [
        "forebay_node_requests_total{call=\"file\",code=\"200\"} 1",
        "forebay_node_fills_total{outcome=\"done\"} 1",
        "forebay_node_hub_answers_total{outcome=\"allowed\"} 1",
        "forebay_node_filling 0",
        "forebay_node_open 1",
    ] {
        assert!(metrics.contains(series), "{series}: {metrics}");
    }
    assert_eq!(running.metric("forebay_node_sent_bytes_total"), weights().len() as f64);
    running.drain.start();
}
