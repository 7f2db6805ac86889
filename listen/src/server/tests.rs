//! Listening on real sockets: clocks, bounds, drain and health in reserve.

use super::*;
use axum::routing::get;
use std::os::fd::{AsFd, BorrowedFd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

struct Running {
    address: SocketAddr,
    drain: Drain,
    registry: Registry,
    entered: Arc<Notify>,
    task: JoinHandle<Result<(), ListenError>>,
}

async fn start(change: impl FnOnce(&mut ListenConfig)) -> Running {
    let mut config = ListenConfig { address: SocketAddr::from(([127, 0, 0, 1], 0)), ..ListenConfig::default() };
    change(&mut config);
    let registry = Registry::new();
    let listener = Listener::bind(&config).await.expect("binds").with_metrics(&registry, "test");
    let drain = Drain::new();
    let entered = Arc::new(Notify::new());
    let (in_handler, in_drain) = (Arc::clone(&entered), drain.clone());
    // Answers only once the drain is refusing: proof that it was under way.
    let slow = move || async move {
        in_handler.notify_one();
        while !in_drain.is_refusing() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        "slow"
    };
    let in_held = Arc::clone(&entered);
    let held = move || async move {
        in_held.notify_one();
        std::future::pending::<&str>().await
    };
    let app = axum::Router::new().route("/", get(|| async { "hello" })).route("/slow", get(slow));
    let app = app.route("/held", get(held));
    let address = listener.local_addr();
    let task = tokio::spawn(listener.serve(app, drain.clone()));
    Running { address, drain, registry, entered, task }
}

async fn send(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn a_head_that_does_not_come_closes_the_connection() {
    let running = start(|config| config.header_read_timeout_ms = 100).await;
    for sent in ["", "P", "GET / HT", "GET / HTTP/1.1\r\nhost"] {
        let mut stream = TcpStream::connect(running.address).await.expect("connects");
        stream.write_all(sent.as_bytes()).await.expect("writes");
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "still open after {sent:?}");
    }
}

#[tokio::test]
async fn connections_beyond_the_bound_are_refused_and_counted() {
    let running = start(|config| config.connections_max = 1).await;
    let _held = TcpStream::connect(running.address).await.expect("connects");
    let one = format!("{}{{listener=\"test\"}} 1", names::LISTEN_CONNECTIONS.name);
    while !running.registry.render().contains(&one) {
        tokio::task::yield_now().await;
    }
    let refused = send(running.address, "/").await.expect("an answer");
    assert!(refused.starts_with("HTTP/1.1 503"), "a second connection is for health alone: {refused}");
    assert!(running.registry.render().contains("refused_connections_total{listener=\"test\"} 1"));
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_refuses_new_connections() {
    let running = start(|_| ()).await;
    let slow = tokio::spawn(send(running.address, "/slow"));
    running.entered.notified().await;
    running.drain.start();
    running.task.await.expect("joins").expect("drains");
    assert!(slow.await.expect("joins").expect("answers").ends_with("slow"));
    assert!(send(running.address, "/").await.is_err(), "the socket is closed");
}

#[tokio::test]
async fn new_connections_are_refused_at_once_while_streams_finish() {
    let running = start(|_| ()).await;
    let held = tokio::spawn(send(running.address, "/held"));
    running.entered.notified().await;
    running.drain.start();
    while !running.drain.is_refusing() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let refused = tokio::time::timeout(Duration::from_secs(10), send(running.address, "/")).await;
    assert!(refused.is_ok_and(|result| result.is_err()), "a connection that nobody serves is a hang");
    assert!(!held.is_finished() && !running.task.is_finished(), "the drain is under way");
}

#[tokio::test]
async fn during_the_notice_requests_are_still_served() {
    let running = start(|config| config.drain_notice_ms = 60_000).await;
    running.drain.start();
    assert!(send(running.address, "/").await.expect("answers").ends_with("hello"));
    assert!(!running.drain.is_refusing());
}

/// A piece of a body, and the file that it claims to be mapped from; that has other bytes, so that it shows which were sent.
static PIECE: [u8; 100_000] = [b'm'; 100_000];
static FILE: std::sync::OnceLock<std::fs::File> = std::sync::OnceLock::new();

fn behind(bytes: &[u8]) -> Option<(BorrowedFd<'_>, u64)> {
    let offset = bytes.as_ptr().addr().checked_sub(PIECE.as_ptr().addr()).filter(|offset| *offset < PIECE.len())?;
    Some((FILE.get()?.as_fd(), offset as u64))
}

#[tokio::test]
async fn a_mapped_piece_is_sent_from_its_file_and_only_without_tls() {
    let path = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(path.path(), [b'f'; 100_000]).expect("writes");
    FILE.set(std::fs::File::open(path.path()).expect("opens")).expect("once");
    let config = ListenConfig { address: SocketAddr::from(([127, 0, 0, 1], 0)), ..ListenConfig::default() };
    let listener = Listener::bind(&config).await.expect("binds").with_files(behind);
    let address = listener.local_addr();
    let piece = || async { axum::body::Bytes::from_static(&PIECE) };
    let text = || async { axum::body::Bytes::from_static(&PIECE[..100]) };
    let app = axum::Router::new().route("/piece", get(piece)).route("/small", get(text));
    let drain = Drain::new();
    tokio::spawn(listener.serve(app, drain.clone()));
    let body = |answer: &str| answer.split_once("\r\n\r\n").expect("a body").1.to_owned();
    let piece = body(&send(address, "/piece").await.expect("an answer"));
    assert!(piece.len() == 100_000 && piece.bytes().all(|byte| byte == b'f'));
    let small = body(&send(address, "/small").await.expect("an answer"));
    assert!(small.len() == 100 && small.bytes().all(|byte| byte == b'm'), "not worth a system call of its own");
    drain.start();
}
