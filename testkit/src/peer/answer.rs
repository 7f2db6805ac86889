//! One request to a fake peer and its answer.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use wire::extent::EXTENT_BYTES;
use wire::peers::{
    CAPABILITY_HEADER, EXTENTS_TYPE, Frame, HAVE_TYPE, HEARTBEAT, MEMBER_HEADER, OTHERS_HEADER, Others, Path,
    RETRY_AFTER_MS_HEADER, Resource, State, VERSION, VERSION_HEADER, content_range, parse_range,
};

use super::{Books, Conduct, PeerWeights};

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Bytes written at a time.
const PIECE: usize = 64 << 10;

/// The state that the answers of one peer share.
pub(super) struct Serving {
    pub(super) conduct: Conduct,
    pub(super) weights: Arc<PeerWeights>,
    pub(super) books: Arc<Books>,
    /// When a slow peer's link is free again.
    pub(super) paced: tokio::sync::Mutex<Instant>,
}

impl Serving {
    /// Returns true once it has sent so much that it is dead.
    pub(super) fn is_dead(&self) -> bool {
        let sent = self.books.bytes_sent.load(Ordering::Relaxed);
        matches!(self.conduct, Conduct::DiesAfter(bytes) if sent >= bytes)
    }
}

struct Asked {
    path: String,
    range: Option<String>,
}

/// Answers one request. False at the connection's end.
pub(super) async fn one<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, serving: &Serving) -> io::Result<bool> {
    let Some(asked) = read(stream, serving).await? else { return Ok(false) };
    let is_ours = |path: &Path| match path.resource {
        Resource::Attested => serving.weights.attests,
        _ => path.root == serving.weights.manifest.root(),
    };
    let path = Path::parse(&asked.path);
    if path.is_some_and(|path| path.resource == Resource::Attested) {
        serving.books.attested.fetch_add(1, Ordering::Relaxed);
    }
    let path = path.filter(is_ours);
    let Some(path) = path.filter(|_| serving.conduct != Conduct::Unknown) else {
        return plain(stream, "404 Not Found", "", b"").await;
    };
    match (path.resource, &serving.conduct) {
        (_, Conduct::Mute) => {
            sleep(Duration::from_secs(3_600)).await;
            Ok(false)
        }
        (Resource::Manifest | Resource::Attested, _) => {
            plain(stream, "200 OK", "", &serving.weights.manifest.to_json()).await
        }
        (Resource::Have, _) => have(stream, serving).await,
        (Resource::File(file), _) => extents(stream, serving, file as usize, asked.range.as_deref()).await,
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S, serving: &Serving) -> io::Result<Option<Asked>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if head.len() > HEAD_BYTES_MAX || stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut fields);
    request.parse(&head).map_err(io::Error::other)?;
    let path = request.path.unwrap_or_default().to_owned();
    let field = |name: &str| {
        let found = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.map(|field| String::from_utf8_lossy(field.value).into_owned())
    };
    *serving.books.latest.lock() = (field(MEMBER_HEADER), field(CAPABILITY_HEADER));
    Ok(Some(Asked { path, range: field("range") }))
}

async fn plain<S: AsyncWrite + Unpin>(stream: &mut S, status: &str, fields: &str, body: &[u8]) -> io::Result<bool> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{VERSION_HEADER}: {VERSION}\r\ncontent-length: {length}\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await?;
    Ok(true)
}

async fn have<S: AsyncWrite + Unpin>(stream: &mut S, serving: &Serving) -> io::Result<bool> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {HAVE_TYPE}\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    if let Conduct::BadFrames(bytes) = &serving.conduct {
        chunk(stream, bytes).await?;
        sleep(Duration::from_secs(3_600)).await;
    }
    serving.books.streams.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted(&serving.books.streams);
    let mut changes = serving.weights.changes();
    let state = State { role: serving.weights.role, queue: 0, bytes_per_second: 0, zone: None };
    let mut told = None;
    loop {
        let mut bytes = Vec::new();
        Frame::State(state.clone()).encode(&mut bytes);
        let has = serving.weights.has();
        if told.as_ref() != Some(&has) {
            Frame::Full(has.clone()).encode(&mut bytes);
            told = Some(has);
        }
        chunk(stream, &bytes).await?;
        let _ = timeout(HEARTBEAT, changes.changed()).await;
    }
}

/// A stream of news under way.
struct Counted<'a>(&'a AtomicU64);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn chunk<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
    stream.write_all(bytes).await?;
    stream.write_all(b"\r\n").await?;
    stream.flush().await
}

async fn extents<S: AsyncWrite + Unpin>(
    stream: &mut S,
    serving: &Serving,
    place: usize,
    range: Option<&str>,
) -> io::Result<bool> {
    serving.books.requests.fetch_add(1, Ordering::Relaxed);
    let Some(file) = serving.weights.file(place) else { return plain(stream, "404 Not Found", "", b"").await };
    let length = file.len() as u64;
    let Some(extents) = range.and_then(|range| parse_range(range, length).ok()) else {
        return plain(stream, "416 Range Not Satisfiable", "", b"").await;
    };
    match &serving.conduct {
        Conduct::Busy(wait, members) => {
            let others = Others { retry_after: *wait, members: members.clone() };
            let fields = format!(
                "retry-after: {}\r\n{RETRY_AFTER_MS_HEADER}: {}\r\n{OTHERS_HEADER}: {}\r\n",
                others.retry_after_s(),
                wait.as_millis(),
                others.names()
            );
            return plain(stream, "503 Service Unavailable", &fields, b"").await;
        }
        Conduct::Redirects(url) => return plain(stream, "302 Found", &format!("location: {url}\r\n"), b"").await,
        Conduct::Boasts => return plain(stream, "409 Conflict", "", b"").await,
        _ if !serving.weights.has_all(place, &extents) => return plain(stream, "409 Conflict", "", b"").await,
        _ => {}
    }
    let bytes = extents.start * EXTENT_BYTES..(extents.end * EXTENT_BYTES).min(length);
    let body = body(&serving.conduct, file, &bytes);
    let told = match serving.conduct {
        Conduct::OtherRange => content_range(extents.start.saturating_sub(1)..extents.start.max(1), length),
        _ => content_range(extents, length),
    };
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\n{VERSION_HEADER}: {VERSION}\r\ncontent-type: {EXTENTS_TYPE}\r\ncontent-range: \
         {}\r\ncontent-length: {}\r\n\r\n",
        told.unwrap_or_default(),
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    send(stream, serving, &body).await?;
    Ok(true)
}

/// The bytes that it sends for a range of a file.
fn body(conduct: &Conduct, file: &[u8], range: &Range<u64>) -> Vec<u8> {
    let (start, end) = (range.start as usize, range.end as usize);
    let mut body = file[start..end].to_vec();
    match conduct {
        Conduct::Lies => {
            for extent in body.chunks_mut(EXTENT_BYTES as usize) {
                let middle = extent.len() / 2;
                extent[middle] ^= 0x10;
            }
        }
        Conduct::TooMuch => body.extend_from_slice(b"and more"),
        _ => {}
    }
    body
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, serving: &Serving, body: &[u8]) -> io::Result<()> {
    for piece in body.chunks(PIECE) {
        if let Conduct::Slow(per_second) = serving.conduct {
            let mut free_at = serving.paced.lock().await;
            *free_at = (*free_at).max(Instant::now()) + Duration::from_secs_f64(piece.len() as f64 / per_second as f64);
            let at = *free_at;
            drop(free_at);
            sleep_until(at).await;
        }
        if serving.is_dead() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        stream.write_all(piece).await?;
        serving.books.bytes_sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    stream.flush().await
}
