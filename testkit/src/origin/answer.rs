//! From a request to an answer: who is asked for, whether they may be, what goes wrong, and which
//! bytes they get. It opens no socket; `server` sends what it decides.

use super::account::Logged;
use super::content::Object;
use super::faults::{Asked, Fault, Faults};
use super::reply::{Break, Payload, Reply, Transfer};
use super::request::{Condition, Request, Wanted, condition, wanted};
use super::shapes::{Problem, Shape};
use super::state::State;
use super::{control, hub, metadata};
use std::ops::Range;
use std::time::Duration;

/// The decision about a request.
#[derive(Debug)]
pub(super) struct Answer {
    /// The reply; none closes the connection without a word.
    pub(super) reply: Option<Reply>,
    /// How long to wait before the head.
    pub(super) wait: Duration,
    /// True if the books must be told when it is over.
    pub(super) in_flight: bool,
}

impl Answer {
    /// An answer outside the books.
    fn aside(reply: Reply) -> Self {
        Self { reply: Some(reply), wait: Duration::ZERO, in_flight: false }
    }
}

/// Answers a request.
pub(super) fn answer(state: &State, request: &Request) -> Answer {
    if let Some(reply) = control::answer(state, request).or_else(|| metadata::answer(state, request)) {
        return Answer::aside(reply);
    }
    if state.shape == Shape::Hub {
        return match hub::route(state, request) {
            hub::Route::Reply(reply) => Answer::aside(dress(state, request, reply, Vec::new())),
            hub::Route::Object(name, headers) => object(state, request, &name, headers),
        };
    }
    object(state, request, &request.path, Vec::new())
}

/// Answers a request for an object; `headers` come on top of the shape's.
fn object(state: &State, request: &Request, name: &str, headers: Vec<(&'static str, String)>) -> Answer {
    let key = match wanted(request.range(), u64::MAX) {
        Wanted::Part(range) => (range.start, range.end),
        Wanted::Whole | Wanted::Nothing => (0, u64::MAX),
    };
    let numbers = state.books.begin(name, key);
    let active = state.active();
    let found = state.catalogue.find(name);
    let body_bytes = match &found {
        Ok(Some(object)) => match wanted(request.range(), object.len) {
            Wanted::Part(range) => range.end - range.start,
            Wanted::Whole | Wanted::Nothing => object.len,
        },
        _ => 0,
    };
    let asked = Asked { object: name, numbers, range: key, body_bytes };
    let mut wait = active.faults.first_byte(state.seed, &asked);
    let reply = refused(state, request, name, &active.faults).or_else(|| {
        let mut fault = active.faults.decide(state.seed, &asked);
        if let Some(Fault::Delay { milliseconds }) = fault {
            state.books.fault(name, "delay");
            wait += Duration::from_millis(milliseconds);
            fault = None;
        }
        if fault == Some(Fault::Close) {
            state.books.fault(name, "close");
            return None;
        }
        let outcome = found.map_err(|error| Problem::new(500, format!("cannot read the object: {error}")));
        let served = outcome.and_then(|found| serve(state, request, name, found, fault));
        Some(match served {
            Ok(reply) => dress(state, request, reply, headers),
            Err(problem) => {
                let mut reply = tell(state, request, &problem);
                // What is missing is missing from a commit.
                let is_missing = reply.status == 404;
                reply.headers.extend(headers.into_iter().filter(|_| is_missing));
                reply
            }
        })
    });
    let status = reply.as_ref().map_or(0, |reply| reply.status);
    state.books.answered(Logged {
        object: name.to_owned(),
        method: request.method.clone(),
        range: request.range().map(str::to_owned),
        if_match: request.header("if-match").map(str::to_owned),
        status,
    });
    Answer { reply, wait, in_flight: true }
}

/// Adds what the shape says in every answer; a problem says it already.
fn dress(state: &State, request: &Request, mut reply: Reply, headers: Vec<(&'static str, String)>) -> Reply {
    if reply.status >= 400 {
        return reply;
    }
    reply.headers.extend(headers);
    state.shape.dressed(reply, request, state.answer_id())
}

fn tell(state: &State, request: &Request, problem: &Problem) -> Reply {
    state.shape.problem(problem, request, state.answer_id())
}

/// The answer of the gates: credentials first, then the caps on requests.
fn refused(state: &State, request: &Request, name: &str, faults: &Faults) -> Option<Reply> {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Some(tell(state, request, &Problem::new(405, "this origin is read only")));
    }
    // The hub's own paths were checked on the way here, and its storage asks nothing.
    if state.shape != Shape::Hub
        && let Err(problem) = state.access.check(state.shape, request)
    {
        return Some(tell(state, request, &problem));
    }
    let account = format!("account {}", state.shape.account(name));
    let gates = [
        ("account_requests", state.admit(&account, faults.account_requests_per_second)),
        ("object_requests", state.admit(&format!("object {name}"), faults.object_requests_per_second)),
    ];
    let (kind, wait) = gates.into_iter().find_map(|(kind, gate)| gate.err().map(|wait| (kind, wait)))?;
    state.books.fault(name, kind);
    let seconds = faults.retry_after_seconds.unwrap_or(wait.as_secs() + 1);
    let status = faults.refusal_status.unwrap_or(503);
    let reply = tell(state, request, &Problem::new(status, "too many requests: slow down"));
    Some(reply.with("Retry-After", seconds.to_string()))
}

/// The answer to a request that passed the gates, with its fault.
fn serve(
    state: &State,
    request: &Request,
    name: &str,
    found: Option<Object>,
    fault: Option<Fault>,
) -> Result<Reply, Problem> {
    let missing = || Problem::new(404, format!("no object is called {name}"));
    if let Some(Fault::Status { status, retry_after_seconds }) = fault {
        state.books.fault(name, "status");
        let reply = tell(state, request, &Problem::new(status, "the origin was told to refuse this request"));
        return Ok(match retry_after_seconds {
            Some(seconds) => reply.with("Retry-After", seconds.to_string()),
            None => reply,
        });
    }
    let mut object = found.ok_or_else(missing)?;
    match fault {
        Some(Fault::Missing) => {
            state.books.fault(name, "missing");
            return Err(missing());
        }
        Some(Fault::Replace { seed }) => {
            state.books.fault(name, "replace");
            let replaced = state.regenerate(name, &object, seed);
            object = replaced.ok().flatten().ok_or_else(missing)?;
        }
        _ => {}
    }
    let wanted = match condition(request, &object.etag, object.modified) {
        Condition::Failed => return Err(Problem::new(412, "the object is not the one the condition names")),
        Condition::NotModified => return Ok(Reply::empty(304).with("ETag", object.etag)),
        Condition::IgnoreRange => Wanted::Whole,
        Condition::Holds => wanted(request.range(), object.len),
    };
    ranged(state, request, name, object, wanted, fault.as_ref())
}

/// 200, 206 or 416, each with what the fault makes of it.
fn ranged(
    state: &State,
    request: &Request,
    name: &str,
    object: Object,
    mut wanted: Wanted,
    fault: Option<&Fault>,
) -> Result<Reply, Problem> {
    let len = object.len;
    if fault == Some(&Fault::WholeBody) && matches!(wanted, Wanted::Part(_)) {
        state.books.fault(name, "whole_body");
        wanted = Wanted::Whole;
    }
    let (status, range) = match wanted {
        Wanted::Whole => (200, 0..len),
        Wanted::Part(range) => (206, range),
        Wanted::Nothing => {
            let reply = tell(state, request, &Problem::new(416, "the range lies beyond the object's end"));
            return Ok(reply.with("Content-Range", format!("bytes */{len}")));
        }
    };
    let mut reply = state.shape.object(Reply::empty(status), &object);
    if status == 206 {
        let mut said = range.clone();
        if fault == Some(&Fault::WrongContentRange) {
            state.books.fault(name, "wrong_content_range");
            said = said.start + 1..said.end + 1;
        }
        reply = reply.with("Content-Range", format!("bytes {}-{}/{len}", said.start, said.end - 1));
    }
    reply.payload = if request.is_head() {
        Payload::Nothing(Some(range.end - range.start))
    } else {
        Payload::Object(transfer(state, name, object, range, fault))
    };
    Ok(reply)
}

/// The bytes to send, and how they go wrong.
fn transfer(state: &State, name: &str, object: Object, range: Range<u64>, fault: Option<&Fault>) -> Transfer {
    let mut range = range;
    if let Some(Fault::Shifted { by }) = fault {
        // Within the object, for there is nothing beyond it to send.
        let by = (*by).min(object.len - range.end);
        let by_back = if by == 0 { range.start.min(1) } else { 0 };
        if by + by_back > 0 {
            state.books.fault(name, "shifted");
        }
        range = range.start + by - by_back..range.end + by - by_back;
    }
    let mut flips = state.active().flips(name, &range);
    if let Some(Fault::Flip { at, bit }) = fault
        && range.start + at < range.end
    {
        flips.push((range.start + at, bit % 8));
        flips.sort_unstable();
        flips.dedup_by_key(|flip| flip.0);
    }
    let place = |after: u64| range.start.saturating_add(after).min(range.end);
    let breaks = match fault {
        Some(Fault::Stall { after, milliseconds }) => {
            Some((place(*after), Break::Stall(milliseconds.map(Duration::from_millis))))
        }
        Some(Fault::Reset { after }) => Some((place(*after), Break::Reset)),
        Some(Fault::Short { after }) => Some((place(*after), Break::Short)),
        _ => None,
    };
    Transfer { name: name.to_owned(), object, range, flips, breaks }
}
