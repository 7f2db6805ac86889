//! Hubs and mirrors that answer in their own ways, over sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use super::super::http::HttpConfig;
use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CONTENT: &str = "{\"vocab\": 1}";

/// A server that answers each request's first line with what `answer` says, then closes.
fn serve(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                let (mut text, mut byte) = (Vec::new(), [0]);
                while !text.ends_with(b"\r\n\r\n") {
                    if stream.read_exact(&mut byte).is_err() {
                        return;
                    }
                    text.push(byte[0]);
                }
                let _ = stream.write_all(answer(&String::from_utf8_lossy(&text)).as_bytes());
            });
        }
    });
    address
}

fn source(hub: SocketAddr) -> HubSource {
    let endpoint = format!("http://{hub}");
    let env = Env::from_pairs([("HF_ENDPOINT", endpoint.as_str())]);
    let client = Client::new(&HttpConfig::default()).expect("a client");
    HubSource::new("org/name", COMMIT, &env, client).expect("a source")
}

fn answered(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}Connection: close\r\n\r\n{body}")
}

/// Where the bytes are: answers `HEAD` as `to_head` says, and `GET` with the part that was asked for.
fn storage(to_head: &'static str) -> SocketAddr {
    serve(move |request| {
        let all = CONTENT.len();
        if request.starts_with("HEAD") {
            return match to_head {
                "refuses" => answered("403 Forbidden", "Content-Length: 0\r\n", ""),
                "is vague" => answered("200 OK", "", ""),
                _ => answered("200 OK", &format!("ETag: \"x\"\r\nContent-Length: {all}\r\n"), ""),
            };
        }
        let range = request.lines().find_map(|line| line.strip_prefix("range: bytes=")).unwrap_or("0-");
        let (from, to) = range.split_once('-').expect("a range");
        let (from, to) = (from.parse().unwrap_or(0), to.parse().unwrap_or(all - 1));
        let body = &CONTENT[from..=to];
        let fields =
            format!("ETag: \"x\"\r\nContent-Range: bytes {from}-{to}/{all}\r\nContent-Length: {}\r\n", body.len());
        answered("206 Partial Content", &fields, body)
    })
}

async fn content(source: &HubSource) -> Vec<u8> {
    let object = source.stat("tokenizer.json").await.expect("found");
    let mut landing = Landing::small(0..object.bytes);
    source.read(&object, &mut landing, ReadOptions::default()).await.expect("read");
    landing.into_bytes().expect("its own buffer")
}

#[tokio::test]
async fn a_redirections_own_length_is_never_the_files() {
    for to_head in ["tells", "refuses", "is vague"] {
        let storage = storage(to_head);
        let hub = serve(move |_| {
            let fields = format!("Location: http://{storage}/blob\r\nContent-Length: 0\r\n");
            answered("302 Found", &fields, "")
        });
        assert_eq!(content(&source(hub)).await, CONTENT.as_bytes(), "storage that {to_head}");
    }
}

#[tokio::test]
async fn a_length_of_any_other_answer_is_not_the_files_either() {
    for status in ["204 No Content", "206 Partial Content", "300 Multiple Choices", "304 Not Modified"] {
        let hub = serve(move |_| answered(status, "Content-Length: 0\r\n", ""));
        let outcome = source(hub).stat("tokenizer.json").await;
        assert!(outcome.is_err(), "{status} gave {outcome:?}");
    }
}

#[tokio::test]
async fn only_the_file_itself_can_be_missing() {
    for (code, is_absent) in [("EntryNotFound", true), ("", true), ("RepoNotFound", false), ("RevisionNotFound", false)]
    {
        let hub =
            serve(move |_| answered("404 Not Found", &format!("X-Error-Code: {code}\r\nContent-Length: 0\r\n"), ""));
        let error = source(hub).stat("tokenizer.json").await.expect_err("not there");
        assert_eq!(matches!(error, SourceError::NotFound { .. }), is_absent, "{code}: {error}");
    }
}
