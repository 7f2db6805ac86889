//! A small OpenAI server whose answers follow a script: truths that a client's measurements can be
//! held against, and every way in which an answer can go wrong.
//!
//! It generates nothing and parses little: the script alone decides what comes back, and when.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// The one model it lists.
pub const MODEL: &str = "scripted";

/// The behaviour of the script at one request.
#[derive(Debug, Clone, Copy)]
pub enum Behaviour {
    /// An answer; streamed when the request asks for it.
    Answer(Answer),
    /// A status and an OpenAI error body.
    Status(u16),
    /// The response's headers never come.
    Silent,
}

/// A scripted answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// Before the response's headers and the first, empty chunk.
    pub first_chunk: Duration,
    /// From then until the first chunk with text.
    pub first_token: Duration,
    /// Between chunks with text.
    pub gap: Duration,
    /// Chunks with text, each one token.
    pub tokens: u32,
    /// How the stream ends.
    pub ending: Ending,
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Finish reason, usage, `[DONE]`.
    Whole,
    /// The connection breaks after the last token.
    Broken,
    /// The body ends in order after the last token, without a finish reason.
    Short,
    /// Everything but `[DONE]`.
    NoDone,
    /// After the last token, an event that is not JSON.
    Garbage,
    /// After the last token, an error event.
    Error,
}

impl Answer {
    /// A whole answer of `tokens` tokens, `gap` apart, the first one after `gap`.
    #[must_use]
    pub fn steady(tokens: u32, gap: Duration) -> Self {
        Self { first_chunk: Duration::ZERO, first_token: gap, gap, tokens, ending: Ending::Whole }
    }
}

type Script = Box<dyn Fn(u64, Duration) -> Behaviour + Send + Sync>;

struct Shared {
    script: Script,
    started: Instant,
    requests: AtomicU64,
    bodies: Mutex<Vec<Value>>,
    authorizations: Mutex<Vec<String>>,
}

/// A running server; dropping it stops it.
pub struct OpenAiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl OpenAiServer {
    /// Starts on a free loopback port. `script` is asked about each chat completion: its number
    /// from 0, and the time since the server started.
    ///
    /// # Panics
    /// When no loopback port can be bound.
    pub async fn start(script: impl Fn(u64, Duration) -> Behaviour + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            started: Instant::now(),
            requests: AtomicU64::new(0),
            bodies: Mutex::default(),
            authorizations: Mutex::default(),
        });
        let app = Router::new()
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(chat))
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            // Without it, Nagle's algorithm holds a small chunk back until the client has acknowledged
            // the one before, 40 ms later, and the script's timings are none.
            let listener = listener.tap_io(|socket| socket.set_nodelay(true).expect("an open socket takes the option"));
            // Ends only with the task.
            let _ = axum::serve(listener, app).await;
        });
        Self { address, shared, task }
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Chat completions asked for so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The bodies of the chat completions asked for so far.
    #[must_use]
    pub fn bodies(&self) -> Vec<Value> {
        self.shared.bodies.lock().clone()
    }

    /// The `authorization` headers of those requests that had one.
    #[must_use]
    pub fn authorizations(&self) -> Vec<String> {
        self.shared.authorizations.lock().clone()
    }
}

impl Drop for OpenAiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn models() -> Response {
    let model = json!({"id": MODEL, "object": "model", "created": 1, "owned_by": "testkit"});
    axum::Json(json!({"object": "list", "data": [model]})).into_response()
}

async fn chat(State(shared): State<Arc<Shared>>, headers: http::HeaderMap, body: Bytes) -> Response {
    let number = shared.requests.fetch_add(1, Ordering::SeqCst);
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let stream = body["stream"] == true;
    shared.bodies.lock().push(body);
    if let Some(Ok(value)) = headers.get(http::header::AUTHORIZATION).map(http::HeaderValue::to_str) {
        shared.authorizations.lock().push(value.to_owned());
    }
    match (shared.script)(number, shared.started.elapsed()) {
        Behaviour::Answer(answer) if stream => streamed(answer).await,
        Behaviour::Answer(answer) => whole(answer).await,
        Behaviour::Status(status) => {
            let status = StatusCode::from_u16(status).expect("the script holds valid statuses");
            let error = json!({"message": "as scripted", "type": "server_error", "param": null, "code": null});
            (status, axum::Json(json!({"error": error}))).into_response()
        }
        Behaviour::Silent => std::future::pending().await,
    }
}

async fn whole(answer: Answer) -> Response {
    tokio::time::sleep(answer.first_chunk + answer.first_token + answer.gap * answer.tokens.saturating_sub(1)).await;
    let message = json!({"role": "assistant", "content": "word ".repeat(answer.tokens as usize)});
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
    let head = json!({"id": "c", "object": "chat.completion", "created": 1, "model": MODEL});
    axum::Json(merge(head, json!({"choices": [choice], "usage": usage(answer.tokens)}))).into_response()
}

async fn streamed(answer: Answer) -> Response {
    tokio::time::sleep(answer.first_chunk).await;
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        // A client that left is no failure of the script.
        let _ = write(answer, sender).await;
    });
    let body = Body::from_stream(ReceiverStream::new(receiver).map(|piece: Result<String, std::io::Error>| piece));
    ([(http::header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

type Sender = mpsc::Sender<Result<String, std::io::Error>>;

async fn write(answer: Answer, sender: Sender) -> Result<(), mpsc::error::SendError<Result<String, std::io::Error>>> {
    sender.send(Ok(chunk(json!([delta(json!({"role": "assistant", "content": ""}), Value::Null)]), None))).await?;
    for number in 0..answer.tokens {
        tokio::time::sleep(if number == 0 { answer.first_token } else { answer.gap }).await;
        sender.send(Ok(chunk(json!([delta(json!({"content": "word "}), Value::Null)]), None))).await?;
    }
    let finish = chunk(json!([delta(json!({}), json!("stop"))]), None);
    let count = chunk(json!([]), Some(usage(answer.tokens)));
    let pieces = match answer.ending {
        Ending::Whole => vec![Ok(finish), Ok(count), Ok("data: [DONE]\n\n".into())],
        Ending::NoDone => vec![Ok(finish), Ok(count)],
        Ending::Broken => vec![Err(std::io::Error::other("as scripted"))],
        Ending::Short => vec![],
        Ending::Garbage => vec![Ok("data: {not json\n\n".into())],
        Ending::Error => {
            vec![Ok("data: {\"error\":{\"message\":\"as scripted\",\"type\":\"server_error\"}}\n\n".into())]
        }
    };
    for piece in pieces {
        sender.send(piece).await?;
    }
    Ok(())
}

fn chunk(choices: Value, usage: Option<Value>) -> String {
    let head = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL});
    format!("data: {}\n\n", merge(head, json!({"choices": choices, "usage": usage})))
}

fn delta(delta: Value, finish_reason: Value) -> Value {
    json!({"index": 0, "delta": delta, "finish_reason": finish_reason})
}

fn usage(tokens: u32) -> Value {
    json!({"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens})
}

fn merge(mut head: Value, tail: Value) -> Value {
    if let (Some(head), Value::Object(tail)) = (head.as_object_mut(), tail) {
        head.extend(tail);
    }
    head
}
