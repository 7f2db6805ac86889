//! A worker that fails on demand: an OpenAI-speaking server on a real socket whose every byte is
//! scripted, for tests of what stands before it.
//!
//! It speaks just enough HTTP/1.1 (content-length requests, chunked answers, keep-alive) to be
//! reached by any client, and no more, so that it can break off wherever a test wants: before the
//! head, inside an event, inside a character. It knows neither the router nor our worker.

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The largest request head we read.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As HTTP wants it.
    Clean,
    /// The connection is closed in the middle of the body.
    Cut,
    /// Nothing more comes, and the connection stays open.
    Stall,
}

/// A scripted answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status; 0 closes the connection without a word.
    pub status: u16,
    /// Header lines besides those that frame the body.
    pub headers: Vec<(String, String)>,
    /// The body, piece by piece; each is sent on its own.
    pub pieces: Vec<Vec<u8>>,
    /// How long to wait before the head.
    pub head_delay: Duration,
    /// How long to wait before each piece.
    pub piece_delay: Duration,
    /// How it ends.
    pub ending: Ending,
}

impl Answer {
    /// A status and a JSON body.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: vec![("content-type".into(), "application/json".into())],
            pieces: vec![body.to_string().into_bytes()],
            head_delay: Duration::ZERO,
            piece_delay: Duration::ZERO,
            ending: Ending::Clean,
        }
    }

    /// An error as OpenAI writes it.
    #[must_use]
    pub fn error(status: u16, message: &str) -> Self {
        let error = json!({"message": message, "type": "server_error", "param": null, "code": null});
        Self::json(status, &json!({ "error": error }))
    }

    /// Closes the connection without a word.
    #[must_use]
    pub fn silence() -> Self {
        Self { status: 0, ..Self::json(200, &Value::Null) }
    }

    /// An event stream of these bytes.
    #[must_use]
    pub fn stream(pieces: Vec<Vec<u8>>) -> Self {
        let headers = vec![("content-type".into(), "text/event-stream".into())];
        Self { headers, pieces, ..Self::json(200, &Value::Null) }
    }

    /// A chat answer in the form the request asks for, one chunk per text, ended by `[DONE]`.
    #[must_use]
    pub fn chat(texts: &[&str]) -> Self {
        let mut pieces: Vec<Vec<u8>> = texts.iter().map(|text| chat_event(0, text, None)).collect();
        pieces.push(chat_event(0, "", Some("stop")));
        pieces.push(b"data: [DONE]\n\n".to_vec());
        Self::stream(pieces)
    }

    /// A chat answer that is not streamed.
    #[must_use]
    pub fn whole_chat(text: &str) -> Self {
        let message = json!({"role": "assistant", "content": text});
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
        let usage = json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2});
        Self::json(
            200,
            &json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}),
        )
    }

    /// With another header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With another ending.
    #[must_use]
    pub fn ending(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }

    /// Waiting before each piece.
    #[must_use]
    pub fn paced(self, piece_delay: Duration) -> Self {
        Self { piece_delay, ..self }
    }

    /// The same bytes, cut anew: at up to `cuts` random places, inside characters too.
    #[must_use]
    pub fn cut_at_random(mut self, seed: u64, cuts: usize) -> Self {
        let whole = self.pieces.concat();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut at: Vec<usize> = (0..cuts).map(|_| rng.random_range(0..=whole.len())).collect();
        at.extend([0, whole.len()]);
        at.sort_unstable();
        at.dedup();
        self.pieces = at.windows(2).map(|pair| whole[pair[0]..pair[1]].to_vec()).collect();
        self
    }
}

/// One chat chunk as an event.
#[must_use]
pub fn chat_event(index: u32, text: &str, finish_reason: Option<&str>) -> Vec<u8> {
    let choice = json!({"index": index, "delta": {"content": text}, "finish_reason": finish_reason});
    let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]});
    format!("data: {chunk}\n\n").into_bytes()
}

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The path.
    pub path: String,
    /// Header lines, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

#[derive(Debug)]
struct Script {
    models: Vec<String>,
    models_body: Option<Vec<u8>>,
    status: Option<Value>,
    is_refusing_checks: bool,
    is_frozen: bool,
    drops_reused: bool,
    poison: Option<(Vec<u8>, Answer)>,
    next: VecDeque<Answer>,
    always: Answer,
    received: Vec<Received>,
    left: Vec<Instant>,
}

/// A running worker; it stops when this is dropped.
#[derive(Debug)]
pub struct FaultyWorker {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    tasks: JoinSet<()>,
}

impl FaultyWorker {
    /// Starts a worker that serves `models` and answers every request with `always`.
    ///
    /// # Panics
    /// Where no loopback port is free.
    pub async fn start(models: &[&str], always: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let script = Arc::new(Mutex::new(Script {
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            models_body: None,
            status: None,
            is_refusing_checks: false,
            is_frozen: false,
            drops_reused: false,
            poison: None,
            next: VecDeque::new(),
            always,
            received: Vec::new(),
            left: Vec::new(),
        }));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&script)));
        Self { address, script, tasks }
    }

    /// The base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// Answers every request that is not scripted with `answer` from now on.
    pub fn always(&self, answer: Answer) {
        self.script.lock().always = answer;
    }

    /// Answers the next unscripted request with `answer`.
    pub fn next(&self, answer: Answer) {
        self.script.lock().next.push_back(answer);
    }

    /// Answers `GET /status` with this, as a worker of ours does; without it, with 404.
    pub fn status(&self, status: Value) {
        self.script.lock().status = Some(status);
    }

    /// Answers health checks with 500, or no longer.
    pub fn refuse_checks(&self, is_refusing: bool) {
        self.script.lock().is_refusing_checks = is_refusing;
    }

    /// Answers `GET /v1/models` with these bytes.
    pub fn models_body(&self, body: &[u8]) {
        self.script.lock().models_body = Some(body.to_vec());
    }

    /// Stops or resumes everything, like a stopped process: connections are accepted, and no byte
    /// is sent on any.
    pub fn freeze(&self, is_frozen: bool) {
        self.script.lock().is_frozen = is_frozen;
    }

    /// Closes connections without a word on their second request, like a server whose idle timeout
    /// meets a request.
    pub fn drop_reused(&self, drops: bool) {
        self.script.lock().drops_reused = drops;
    }

    /// Answers every request whose body holds `needle` with `answer`, before anything scripted.
    pub fn poison(&self, needle: &str, answer: Answer) {
        self.script.lock().poison = Some((needle.as_bytes().to_vec(), answer));
    }

    /// The generation requests so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.script.lock().received.clone()
    }

    /// When clients closed their connection before the answer's end.
    #[must_use]
    pub fn left(&self) -> Vec<Instant> {
        self.script.lock().left.clone()
    }

    /// Closes the socket and every connection: the process died.
    pub async fn die(&mut self) {
        self.tasks.shutdown().await;
    }
}

async fn accept(listener: TcpListener, script: Arc<Mutex<Script>>) {
    // Dropped with the accept loop: no connection outlives the worker.
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors, as tests arrange.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let _ = socket.set_nodelay(true);
        connections.spawn(connection(socket, Arc::clone(&script)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut socket: TcpStream, script: Arc<Mutex<Script>>) {
    let mut buffer = Vec::new();
    let mut is_reused = false;
    while let Some(request) = read_request(&mut socket, &mut buffer).await {
        thawed(&script).await;
        let drops = script.lock().drops_reused && !matches!(request.path.as_str(), "/v1/models" | "/status");
        if drops && std::mem::replace(&mut is_reused, true) {
            return;
        }
        let answer = answer_to(request, &script);
        let is_scripted = answer.1;
        match write_answer(&mut socket, &answer.0, &script).await {
            Written::Whole => {}
            Written::Closed => return,
            Written::ClientLeft => {
                if is_scripted {
                    script.lock().left.push(Instant::now());
                }
                return;
            }
        }
    }
}

/// Waits as long as the worker is frozen.
async fn thawed(script: &Mutex<Script>) {
    while script.lock().is_frozen {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The answer, and whether it was to a generation request.
fn answer_to(request: Received, script: &Mutex<Script>) -> (Answer, bool) {
    let mut script = script.lock();
    let answer = match request.path.as_str() {
        "/v1/models" | "/status" if script.is_refusing_checks => Answer::error(500, "unwell"),
        "/v1/models" if script.models_body.is_some() => {
            let pieces = script.models_body.iter().cloned().collect();
            Answer { pieces, ..Answer::json(200, &Value::Null) }
        }
        "/v1/models" => {
            let model = |id: &String| json!({"id": id, "object": "model", "created": 1, "owned_by": "test"});
            let data: Vec<Value> = script.models.iter().map(model).collect();
            Answer::json(200, &json!({"object": "list", "data": data}))
        }
        "/status" => {
            script.status.as_ref().map_or_else(|| Answer::error(404, "no such path"), |s| Answer::json(200, s))
        }
        _ => {
            let poison = script.poison.as_ref().filter(|(needle, _)| {
                request.body.windows(needle.len().max(1)).any(|window| window == needle.as_slice())
            });
            if let Some(answer) = poison.map(|(_, answer)| answer.clone()) {
                script.received.push(request);
                return (answer, true);
            }
            script.received.push(request);
            let answer = script.next.pop_front().unwrap_or_else(|| script.always.clone());
            return (answer, true);
        }
    };
    (answer, false)
}

async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Received> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if buffer.len() > HEAD_BYTES_MAX || socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer[..head_end].to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(Some(0), |length| length.parse().ok())?;
    while buffer.len() < head_end + length {
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer[head_end..head_end + length].to_vec();
    buffer.drain(..head_end + length);
    Some(Received { path, headers, body })
}

enum Written {
    Whole,
    Closed,
    ClientLeft,
}

async fn write_answer(socket: &mut TcpStream, answer: &Answer, script: &Mutex<Script>) -> Written {
    if !wait(socket, answer.head_delay).await {
        return Written::ClientLeft;
    }
    if answer.status == 0 {
        return Written::Closed;
    }
    let mut head = format!("HTTP/1.1 {} Scripted\r\ntransfer-encoding: chunked\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    if socket.write_all(head.as_bytes()).await.is_err() {
        return Written::ClientLeft;
    }
    for piece in answer.pieces.iter().filter(|piece| !piece.is_empty()) {
        if !wait(socket, answer.piece_delay).await {
            return Written::ClientLeft;
        }
        thawed(script).await;
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        if socket.write_all(&chunk).await.is_err() || socket.flush().await.is_err() {
            return Written::ClientLeft;
        }
    }
    match answer.ending {
        Ending::Clean if socket.write_all(b"0\r\n\r\n").await.is_ok() => Written::Whole,
        Ending::Clean => Written::ClientLeft,
        Ending::Cut => Written::Closed,
        Ending::Stall => {
            let _ = wait(socket, Duration::MAX).await;
            Written::ClientLeft
        }
    }
}

/// Waits, and notices a client that leaves meanwhile. Clients here do not send ahead.
async fn wait(socket: &TcpStream, delay: Duration) -> bool {
    if delay.is_zero() {
        return true;
    }
    let left = async {
        loop {
            let mut byte = [0];
            match socket.peek(&mut byte).await {
                Ok(0) | Err(_) => return,
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::select! {
        () = left => false,
        () = tokio::time::sleep(delay) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_cuts_the_same_bytes_the_same_way() {
        let answer = Answer::chat(&["für", " ☃"]);
        let (one, two) = (answer.clone().cut_at_random(7, 9), answer.clone().cut_at_random(7, 9));
        assert_eq!(one, two);
        assert_ne!(one, answer.clone().cut_at_random(8, 9));
        assert_eq!(one.pieces.concat(), answer.pieces.concat());
    }

    #[tokio::test]
    async fn answers_models_and_scripted_requests_on_one_connection() {
        let worker = FaultyWorker::start(&["m"], Answer::error(503, "full")).await;
        let mut socket = TcpStream::connect(worker.name()).await.expect("connects");
        for (path, expected) in [("/v1/models", "HTTP/1.1 200"), ("/v1/completions", "HTTP/1.1 503")] {
            let request = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}");
            socket.write_all(request.as_bytes()).await.expect("sends");
            let mut answer = Vec::new();
            while !answer.ends_with(b"0\r\n\r\n") {
                assert!(socket.read_buf(&mut answer).await.expect("reads") > 0);
            }
            assert!(answer.starts_with(expected.as_bytes()), "{path}");
        }
        assert_eq!(worker.received().len(), 1);
        assert_eq!(worker.received()[0].body, b"{}");
    }
}
