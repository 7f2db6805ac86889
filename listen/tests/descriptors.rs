//! A process without a descriptor left still says that it lives. A test binary of its own: the limit
//! of open files is the process's.

use listen::{Drain, ListenConfig, Listener};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::time::Duration;
use telemetry::metrics::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Opens files until there are none to open.
fn exhaust() -> Vec<File> {
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    files
}

async fn ask(mut client: TcpStream, path: &str) -> String {
    client
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .expect("writes");
    let mut answer = String::new();
    let read = client.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("in time").expect("reads");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_answers_when_no_descriptor_is_left() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(600), maximum: limit.maximum }).expect("lowers its own limit");
    let config = ListenConfig { address: ([127, 0, 0, 1], 0).into(), ..ListenConfig::default() };
    let listener = Listener::bind(&config).await.expect("binds").with_metrics(&Registry::new(), "test");
    let address = listener.local_addr();
    let app = axum::Router::new()
        .route("/livez", axum::routing::get(|| async { "ok" }))
        .route("/v1/models", axum::routing::get(|| async { "models" }));
    tokio::spawn(listener.serve(app, Drain::new()));
    assert!(ask(TcpStream::connect(address).await.expect("connects"), "/livez").await.contains("ok"));
    let mut files = exhaust();
    assert!(files.len() > 100);
    for (path, status) in [("/livez", "200"), ("/v1/models", "503"), ("/livez", "200")] {
        // One for the client's end; the server's has to come from its spares.
        files.pop();
        let client = TcpStream::connect(address).await.expect("connects");
        let answer = ask(client, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        files.extend(exhaust());
    }
    drop(files);
    let answer = ask(TcpStream::connect(address).await.expect("connects"), "/v1/models").await;
    assert!(answer.contains("200"), "{answer}");
}
