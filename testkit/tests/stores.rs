//! The loader's sources against real servers, by the one conformance suite.
//!
//! `evals/storage/run` starts the servers and names them in `FOREBAY_TEST_*`; a test whose server
//! is not named says that it was skipped. What needs no server but ours is in `sources` and
//! `credentials`.

#![expect(clippy::print_stdout, reason = "a skipped suite says so")]
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

#[path = "stores/store.rs"]
mod store;

use std::sync::Arc;
use std::time::Instant;

use loader::remote::http::{Client, HttpConfig};
use loader::remote::{Env, open};
use loader::{Landing, ReadOptions, Source, SourceError, conformance};
use store::Store;
use testkit::origin::{Origin, Shape};

/// The address of a server, if `evals/storage/run` has started it.
fn server(variable: &str) -> Option<String> {
    let address = std::env::var(variable).ok();
    if address.is_none() {
        println!("skipped: {variable} names no server; evals/storage/run starts one");
    }
    address
}

fn opened(url: &str, env: &[(&str, &str)]) -> Arc<dyn Source> {
    let client = Client::new(&HttpConfig::default()).unwrap();
    open(&url.parse().unwrap(), &Env::from_pairs(env.iter().copied()), &client).unwrap()
}

/// Stores the suite's objects in `store` and runs the suite on what `url` opens with `env`.
async fn conforms(store: &Store, url: &str, env: &[(&str, &str)]) {
    let objects = conformance::fixture();
    for (name, bytes) in &objects {
        store.put(name, bytes).await;
    }
    let replace = async |name: &str, bytes: &[u8]| store.put(name, bytes).await;
    conformance::check(opened(url, env), &objects, replace).await.unwrap();
    println!("conforms: {url}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_conforms() {
    let Some(endpoint) = server("FOREBAY_TEST_S3") else { return };
    let prefix = folder("conformance");
    let env = keys(&endpoint, store::SECRET);
    conforms(&Store::s3(&endpoint, &prefix), &format!("s3://{}/{prefix}", store::BUCKET), &env).await;
}

#[tokio::test]
async fn s3_refuses_a_signature_of_another_key() {
    let Some(endpoint) = server("FOREBAY_TEST_S3") else { return };
    let prefix = folder("refused");
    Store::s3(&endpoint, &prefix).put("a", b"a").await;
    let url = format!("s3://{}/{prefix}", store::BUCKET);
    assert_eq!(opened(&url, &keys(&endpoint, store::SECRET)).stat("a").await.unwrap().bytes, 1);
    let error = opened(&url, &keys(&endpoint, "another")).stat("a").await.unwrap_err();
    assert!(matches!(&error, SourceError::Denied { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_conforms() {
    let Some(endpoint) = server("FOREBAY_TEST_AZURITE") else { return };
    let prefix = folder("conformance");
    let env = [("AZURE_STORAGE_USE_EMULATOR", "true"), ("AZURITE_BLOB_STORAGE_URL", endpoint.as_str())];
    conforms(&Store::azure(&endpoint, &prefix).await, &container(&prefix), &env).await;
}

#[tokio::test]
async fn azure_takes_a_connection_string() {
    let Some(endpoint) = server("FOREBAY_TEST_AZURITE") else { return };
    let prefix = folder("connection");
    Store::azure(&endpoint, &prefix).await.put("a", b"abc").await;
    let connection = |key: &str| {
        let account = store::EMULATOR_ACCOUNT;
        format!("AccountName={account};AccountKey={key};BlobEndpoint={endpoint}/{account};")
    };
    let of = |text: &str| opened(&container(&prefix), &[("AZURE_STORAGE_CONNECTION_STRING", text)]);
    assert_eq!(of(&connection(store::EMULATOR_KEY)).stat("a").await.unwrap().bytes, 3);
    let error = of(&connection("YW5vdGhlcg==")).stat("a").await.unwrap_err();
    assert!(matches!(&error, SourceError::Denied { .. }), "{error:?}");
}

#[tokio::test]
async fn azure_takes_a_shared_access_signature() {
    let Some(endpoint) = server("FOREBAY_TEST_AZURITE") else { return };
    let prefix = folder("sas");
    let store = Store::azure(&endpoint, &prefix).await;
    store.put("a", b"abc").await;
    store.put("b", b"abc").await;
    let (token, endpoint) = (store.azure_sas("a").await, format!("{endpoint}/{}", store::EMULATOR_ACCOUNT));
    let env = [("AZURE_STORAGE_SAS_TOKEN", token.as_str()), ("AZURE_STORAGE_ENDPOINT", &endpoint)];
    let source = opened(&container(&prefix), &env);
    let object = source.stat("a").await.unwrap();
    let mut landing = Landing::small(1..3);
    source.read(&object, &mut landing, ReadOptions::default()).await.unwrap();
    assert_eq!(landing.into_bytes().unwrap(), b"bc");
    // The signature is of one blob, so the other shows that it is looked at; and it stays secret.
    let error = source.stat("b").await.unwrap_err();
    assert!(matches!(&error, SourceError::Denied { .. }), "{error:?}");
    let signature = token.split("sig=").nth(1).unwrap();
    assert!(!format!("{error} {error:?} {source:?}").contains(signature));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_conforms() {
    let (Some(endpoint), Some(root)) = (server("FOREBAY_TEST_NGINX"), server("FOREBAY_TEST_NGINX_ROOT")) else {
        return;
    };
    let prefix = folder("conformance");
    conforms(&Store::folder(&root, &prefix), &format!("{endpoint}/{prefix}/"), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_conforms() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap();
    conforms(&Store::folder(path, "model"), &format!("{path}/model"), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_conforms() {
    let objects = conformance::fixture();
    let builder = Origin::builder().shape(Shape::Hub);
    let put = |builder: testkit::origin::Builder, (name, bytes): &(String, Vec<u8>)| {
        builder.object(&format!("org/tiny/{name}"), bytes.clone())
    };
    let origin = objects.iter().fold(builder, put).start().unwrap();
    let source = opened("hf://org/tiny", &[("HF_ENDPOINT", origin.url().as_str())]);
    // A commit never changes, so there is nothing to replace.
    conformance::check(source, &objects, async |_: &str, _: &[u8]| {}).await.unwrap();
    println!("conforms: hf://org/tiny");
}

/// A folder of this run, so that runs do not meet.
fn folder(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

fn keys<'a>(endpoint: &'a str, secret: &'a str) -> [(&'a str, &'a str); 3] {
    [("AWS_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", store::KEY_ID), ("AWS_SECRET_ACCESS_KEY", secret)]
}

fn container(prefix: &str) -> String {
    format!("az://{}/{}/{prefix}", store::EMULATOR_ACCOUNT, store::BUCKET)
}

/// The cost of signing: the same bytes from the same server, read as S3 and as plain web pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; run it with --ignored on a quiet machine"]
async fn what_signing_costs() {
    const BYTES: u64 = 256 << 20;
    const FETCH_BYTES: u64 = 8 << 20;
    let (Some(endpoint), Some(root)) = (server("FOREBAY_TEST_NGINX"), server("FOREBAY_TEST_NGINX_ROOT")) else {
        return;
    };
    let prefix = folder("costs");
    Store::folder(&root, &prefix).put("weights", &conformance::noise(1, BYTES as usize)).await;
    let web = opened(&format!("{endpoint}/{prefix}/"), &[]);
    // As nginx has no buckets, the folder is one; it does not look at signatures.
    let s3 = opened(&format!("s3://{prefix}"), &keys(&endpoint, store::SECRET));
    for round in 0..6 {
        for (name, source) in [("web", &web), ("s3", &s3)] {
            let object = source.stat("weights").await.unwrap();
            let (started, before) = (Instant::now(), processor_seconds());
            let mut bytes = 0;
            for start in (0..4 * BYTES).step_by(FETCH_BYTES as usize).map(|start| start % BYTES) {
                let mut landing = Landing::bounce(start..start + FETCH_BYTES, Arc::new(|_| Ok(())));
                source.read(&object, &mut landing, ReadOptions::default()).await.unwrap();
                bytes += FETCH_BYTES;
            }
            let gigabytes = bytes as f64 / 1e9;
            let (wall, processor) = (started.elapsed().as_secs_f64(), processor_seconds() - before);
            println!("round {round}: {name}: {:.3} CPU s/GB, {:.2} GB/s", processor / gigabytes, gigabytes / wall);
        }
    }
}

/// Seconds of processor time this process has taken, in user and kernel mode.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // utime and stime, in hundredths: fields 14 and 15 of proc(5), of which two end before `)`.
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}
