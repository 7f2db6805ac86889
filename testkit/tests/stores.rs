//! Every kind of source against a real server, by the one conformance suite.
//!
//! `evals/storage/run` starts the servers and names them in `FOREBAY_TEST_*`; a test whose server
//! is not named says that it was skipped. What needs no server besides ours is in `clouds`.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

#[path = "stores/store.rs"]
mod store;

use loader::conformance;
use loader::remote::http::{Client, HttpConfig};
use loader::remote::{Env, open};
use store::Store;

/// The address of a server, if `evals/storage/run` has started it.
fn server(variable: &str) -> Option<String> {
    let address = std::env::var(variable).ok();
    if address.is_none() {
        println!("skipped: {variable} names no server; evals/storage/run starts one");
    }
    address
}

fn client() -> Client {
    Client::new(&HttpConfig::default()).unwrap()
}

/// Stores the suite's objects in `store` and runs the suite on what `url` opens with `env`.
async fn conforms(store: &Store, url: &str, env: &[(&str, &str)]) {
    let objects = conformance::fixture();
    for (name, bytes) in &objects {
        store.put(name, bytes).await;
    }
    let source = open(&url.parse().unwrap(), &Env::from_pairs(env.iter().copied()), &client()).unwrap();
    let replace = async |name: &str, bytes: &[u8]| store.put(name, bytes).await;
    conformance::check(source, &objects, replace).await.unwrap();
    println!("conforms: {url}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_conforms() {
    let Some(endpoint) = server("FOREBAY_TEST_S3") else { return };
    let prefix = format!("conformance-{}", std::process::id());
    let store = Store::s3(&endpoint, &prefix);
    let env = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", store::KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", store::SECRET),
    ];
    conforms(&store, &format!("s3://{}/{prefix}", store::BUCKET), &env).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_conforms() {
    let Some(endpoint) = server("FOREBAY_TEST_AZURITE") else { return };
    let prefix = format!("conformance-{}", std::process::id());
    let store = Store::azure(&endpoint, &prefix).await;
    let env = [("AZURE_STORAGE_USE_EMULATOR", "true"), ("AZURITE_BLOB_STORAGE_URL", endpoint.as_str())];
    conforms(&store, &format!("az://{}/{}/{prefix}", store::EMULATOR_ACCOUNT, store::BUCKET), &env).await;
}
