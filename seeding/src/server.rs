//! The requests of peers, one after the other: first the right, then the version, then the thing.
//!
//! Whatever is asked for, the same work precedes the answer that it is not to be had.

use crate::body::Sending;
use crate::have::Have;
use crate::meters::{Counted, Meters};
use crate::offer::{By, Entry, Offer, Right, numbers};
use crate::queue::Queue;
use crate::refuse::refusal;
use crate::served::Served;
use crate::upload::{FREE, Upload};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use listen::{Drain, Identity};
use loader::Content;
use policy::Peers;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::digest::Digest;
use wire::extent::{self, EXTENT_BYTES};
use wire::peers::{
    CAPABILITY_HEADER, EXTENTS_TYPE, HAVE_TYPE, MEMBER_HEADER, Others, Path, REQUEST_EXTENTS_MAX, Refusal, Resource,
    VERSION_HEADER, agree, content_range, is_name, parse_range,
};

/// The longest capability that is looked at.
const CAPABILITY_BYTES_MAX: usize = 1_024;
/// The times after which a peer may ask again.
const RETRY: Range<Duration> = Duration::from_millis(10)..Duration::from_secs(5);
/// The time after which to ask again where nothing may be sent.
const RETRY_STOPPED: Duration = Duration::from_millis(500);

/// State that all requests share.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) offer: Offer,
    pub(crate) peers: Arc<Peers>,
    pub(crate) zone: Option<String>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) upload: Arc<Upload>,
    pub(crate) served: Arc<Served>,
    pub(crate) meters: Meters,
    pub(crate) drain: Drain,
    /// The life of a `have` body: half of a connection's.
    pub(crate) have_life: Duration,
}

/// The application: one handler, since even a path that is none is answered like a thing that is not here.
pub(crate) fn app(server: Arc<Server>) -> axum::Router {
    axum::Router::new().fallback(handle).with_state(server)
}

async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let answer = server.answer(&parts).await;
    let response = answer.unwrap_or_else(|why| refusal(&why));
    server.meters.answered(response.status().as_u16());
    response
}

impl Server {
    async fn answer(&self, request: &Parts) -> Result<Response, Refusal> {
        let path = Path::parse(request.uri.path());
        let right = self.right(request, path);
        let entry = right.entry();
        let (Some(path), Some(entry), &Method::GET) = (path, entry, &request.method) else {
            return Err(Refusal::Unknown);
        };
        let headers = &request.headers;
        let version = agree(text(headers, VERSION_HEADER)).ok_or(Refusal::Version)?;
        let mut response = match path.resource {
            Resource::Have => self.have(entry, right),
            Resource::Manifest | Resource::Attested => manifest(&*open(&entry).await?),
            Resource::File(file) => self.extents(&entry, &right, file, headers).await?,
        };
        response.headers_mut().insert(VERSION_HEADER, HeaderValue::from(version));
        Ok(response)
    }

    fn right(&self, request: &Parts, path: Option<Path>) -> Right {
        let is_attested = path.is_some_and(|path| path.resource == Resource::Attested);
        let capability = text(&request.headers, CAPABILITY_HEADER);
        Right {
            offer: self.offer.clone(),
            peers: Arc::clone(&self.peers),
            identity: request.extensions.get::<Arc<Identity>>().cloned(),
            capability: capability.filter(|text| text.len() <= CAPABILITY_BYTES_MAX).map(str::to_owned),
            root: path.map_or(Digest([0; 32]), |path| path.root),
            by: if is_attested { By::Key } else { By::Root },
        }
    }

    fn have(&self, entry: Arc<Entry>, right: Right) -> Response {
        let have = Have {
            entry,
            right,
            upload: Arc::clone(&self.upload),
            queue: Arc::clone(&self.queue),
            zone: self.zone.clone(),
            drain: self.drain.clone(),
            until: Instant::now() + self.have_life,
            _counted: Counted::new(&self.meters.streams),
        };
        answer(StatusCode::OK, HAVE_TYPE, have.into_body())
    }

    async fn extents(
        &self,
        entry: &Arc<Entry>,
        right: &Right,
        file: u32,
        headers: &HeaderMap,
    ) -> Result<Response, Refusal> {
        let content = open(entry).await?;
        let file = usize::try_from(file).map_err(|_| Refusal::Unknown)?;
        let file_bytes = content.manifest().files().get(file).ok_or(Refusal::Unknown)?.bytes;
        let extents = parse_range(text(headers, RANGE.as_str()).unwrap_or_default(), file_bytes);
        let extents = extents.map_err(|_| Refusal::Range)?;
        let bytes = bytes_of(&extents, file_bytes);
        // Neither copies nor reads: it is a question about what arrived.
        content.bytes(file, bytes.clone()).ok_or(Refusal::Absent)?;
        let numbers = numbers(&content, file, extents.clone());
        let member = text(headers, MEMBER_HEADER).filter(|member| is_name(member));
        let enter = || self.queue.enter(right.key(), numbers.len(), entry.is_first(&numbers), Instant::now());
        let may_send = self.upload.steady() > 0 && !self.drain.is_draining();
        let Some(place) = may_send.then(enter).flatten() else {
            return Err(self.busy(entry, &numbers, member));
        };
        entry.give(&numbers);
        let sending = Sending {
            entry: Arc::clone(entry),
            content,
            file,
            bytes: bytes.clone(),
            place,
            peer: right.name().to_owned(),
            member: member.map(str::to_owned),
            upload: Arc::clone(&self.upload),
            served: Arc::clone(&self.served),
            meters: self.meters.clone(),
        };
        let mut response = answer(StatusCode::PARTIAL_CONTENT, EXTENTS_TYPE, sending.into_body());
        let range = content_range(extents, file_bytes).and_then(|range| HeaderValue::from_str(&range).ok());
        response.headers_mut().extend(range.map(|range| (CONTENT_RANGE, range)));
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes.end - bytes.start));
        Ok(response)
    }

    /// The way on for a peer that there is no room for.
    fn busy(&self, entry: &Entry, numbers: &[u32], asker: Option<&str>) -> Refusal {
        let mut members = entry.others(numbers);
        members.retain(|member| Some(member.as_str()) != asker);
        let retry_after = match self.upload.steady() {
            0 => RETRY_STOPPED,
            FREE => RETRY.start,
            rate => {
                let queued = self.queue.extents(Instant::now()) as u64 * EXTENT_BYTES;
                Duration::from_millis(queued.saturating_mul(1_000) / rate).clamp(RETRY.start, RETRY.end)
            }
        };
        Refusal::Busy(Others { retry_after, members })
    }
}

async fn open(entry: &Entry) -> Result<Arc<Content>, Refusal> {
    entry.content().await.ok_or(Refusal::Unknown)
}

fn manifest(content: &Content) -> Response {
    answer(StatusCode::OK, "application/json", Body::from(content.text()))
}

fn answer(status: StatusCode, media_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The bytes of extents that are known to be the file's.
fn bytes_of(extents: &Range<u64>, file_bytes: u64) -> Range<u64> {
    debug_assert!(extents.end - extents.start <= REQUEST_EXTENTS_MAX && extents.end <= extent::count(file_bytes));
    extents.start * EXTENT_BYTES..(extents.end * EXTENT_BYTES).min(file_bytes)
}
