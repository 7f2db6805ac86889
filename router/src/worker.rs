//! One worker as the router sees it: how to reach it, what it said of itself, what it holds of ours.

use crate::connections::{Connections, Limits};
use crate::pair::{Pair, rest, until};
use crate::pick::Look;
use crate::ring::hash_name;
use arc_swap::ArcSwap;
use discovery::Member;
use http::Uri;
use http::uri::{Authority, Scheme};
use parking_lot::Mutex;
use policy::Moment;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use wire::openai::models::Model;
use wire::peers::is_name;
use wire::status::SeedingStatus;

/// The form of a worker's URL, for messages.
const FORM: &str = "workers are reached by http://HOST:PORT or https://HOST:PORT";

/// The address of a worker: `http://HOST:PORT` or `https://HOST:PORT`, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    authority: Authority,
    is_tls: bool,
    /// The name that its certificate must hold, where that is not the authority's host.
    tls_name: Option<String>,
}

impl Address {
    /// Reads a base URL.
    ///
    /// # Errors
    /// The problem with the URL.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        // A parser of HTTP's targets drops what follows the sign, and with it what somebody meant.
        if url.contains('#') {
            return Err(format!("holds a `#`; {FORM}"));
        }
        let uri: Uri = url.parse().map_err(|cause| format!("is {url:?}, not a URL: {cause}"))?;
        let parts = uri.into_parts();
        let authority = parts.authority.ok_or_else(|| format!("is {url:?}; {FORM}"))?;
        // Before anything else, so that no message repeats a password.
        if authority.as_str().contains('@') {
            return Err("holds a user name; use `worker_api_key`".into());
        }
        let is_tls = parts.scheme == Some(Scheme::HTTPS);
        if !is_tls && parts.scheme != Some(Scheme::HTTP) {
            return Err(format!("is {url:?}; {FORM}"));
        }
        if parts.path_and_query.is_some_and(|path| !matches!(path.as_str(), "/" | "")) {
            return Err(format!("is {url:?}; leave out the path, the router adds /v1/…"));
        }
        Ok(Self { authority, is_tls, tls_name: None })
    }

    /// The address of a worker that was found; none if nothing can be asked there.
    pub(crate) fn of_member(member: &Member, is_tls: bool) -> Option<Self> {
        let authority = member.address.parse().ok()?;
        Some(Self { authority, is_tls, tls_name: is_tls.then(|| member.name.clone()) })
    }

    /// `HOST:PORT`.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Returns true if it is reached over TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }
}

/// The state of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Not heard yet.
    Unknown,
    /// It answers.
    Healthy,
    /// It does not.
    Unhealthy,
    /// It finishes its streams and takes no more.
    Draining,
}

/// A worker's last report of itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    pub(crate) state: State,
    pub(crate) was_heard: bool,
    /// Its release, where it says.
    pub(crate) version: Option<String>,
    pub(crate) models: Vec<ServedModel>,
    /// Where it serves weights to peers, if it does.
    pub(crate) peers: Option<Seeds>,
}

/// Where a worker serves weights to peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seeds {
    pub(crate) port: u16,
    pub(crate) zone: Option<String>,
}

impl Seeds {
    /// Reads what a worker says of it; the host that it names is its own view of itself.
    pub(crate) fn read(status: SeedingStatus) -> Option<Self> {
        let port = Address::parse(&status.address).ok()?.authority.port_u16()?;
        Some(Self { port, zone: status.zone.filter(|zone| is_name(zone)) })
    }
}

/// One model of a worker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServedModel {
    pub(crate) model: Model,
    pub(crate) is_ready: bool,
}

/// The result of a health check that was answered.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) is_draining: bool,
    pub(crate) version: Option<String>,
    pub(crate) peers: Option<Seeds>,
    /// Each model, and the sequences that wait for it; 0 where the worker does not say.
    pub(crate) models: Vec<(ServedModel, u32)>,
}

/// A worker.
#[derive(Debug)]
pub(crate) struct Worker {
    /// `HOST:PORT`, as `x-forebay-worker` shows it.
    pub(crate) name: String,
    /// Its place on rings.
    pub(crate) name_hash: u64,
    pub(crate) connections: Arc<Connections>,
    view: ArcSwap<View>,
    /// `view.state == Healthy`, where a pick looks.
    is_up: AtomicBool,
    /// True if the last health checks got no answer at all, as from a stopped process. A refused
    /// connection is an answer: a worker that drains refuses and finishes its streams.
    is_silent: AtomicBool,
    /// True if it left the fleet.
    is_leaving: AtomicBool,
    in_flight: AtomicU32,
    /// The load of these requests.
    load: AtomicU32,
    rests_until_ms: AtomicU64,
    pairs: Mutex<HashMap<String, Arc<Pair>>>,
}

impl Worker {
    /// A worker not heard yet.
    pub(crate) fn new(address: &Address, limits: Limits) -> Self {
        let view = View { state: State::Unknown, was_heard: false, version: None, models: Vec::new(), peers: None };
        Self {
            name: address.authority.to_string(),
            name_hash: hash_name(address.authority.as_str()),
            connections: Arc::new(Connections::new(
                address.authority.clone(),
                address.is_tls,
                address.tls_name.clone(),
                limits,
            )),
            view: ArcSwap::from_pointee(view),
            is_up: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            load: AtomicU32::new(0),
            rests_until_ms: AtomicU64::new(0),
            pairs: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request of this load that is at this worker from now on.
    pub(crate) fn hold(&self, load: u32) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.load.fetch_add(load, Ordering::Relaxed);
    }

    /// Undoes [`hold`](Self::hold).
    pub(crate) fn let_go(&self, load: u32) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.load.fetch_sub(load, Ordering::Relaxed);
    }

    /// True if it answers and takes requests.
    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// True if health checks get no answer at all.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// True if it left the fleet.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    pub(crate) fn set_leaving(&self, is_leaving: bool) {
        self.is_leaving.store(is_leaving, Ordering::Relaxed);
    }

    /// Records a health check; returns true if the fleet looks different now.
    pub(crate) fn heard(&self, report: Report) -> bool {
        let state = if report.is_draining { State::Draining } else { State::Healthy };
        for (served, waiting) in &report.models {
            self.pair(&served.model.id).set_waiting(*waiting);
        }
        let models = report.models.into_iter().map(|(served, _)| served).collect();
        let view = View { state, was_heard: true, version: report.version, models, peers: report.peers };
        self.is_up.store(state == State::Healthy, Ordering::Relaxed);
        self.is_silent.store(false, Ordering::Relaxed);
        let is_news = **self.view.load() != view;
        if is_news {
            self.forget_pairs(&view);
            self.view.store(Arc::new(view));
        }
        is_news
    }

    /// Marks it as down; returns true if it was not. Its models stay known, or they would turn from
    /// unavailable into unknown.
    pub(crate) fn mark_down(&self) -> bool {
        self.is_up.store(false, Ordering::Relaxed);
        let before = self.view.rcu(|view| View { state: State::Unhealthy, ..View::clone(view) });
        before.state != State::Unhealthy
    }

    /// Rests all of its models until then.
    pub(crate) fn rest(&self, until: Moment) {
        rest(&self.rests_until_ms, until);
    }

    /// The state of one of its models.
    pub(crate) fn pair(&self, model: &str) -> Arc<Pair> {
        let mut pairs = self.pairs.lock();
        if let Some(pair) = pairs.get(model) {
            return Arc::clone(pair);
        }
        let pair = Arc::new(Pair::new());
        pairs.insert(model.to_owned(), Arc::clone(&pair));
        pair
    }

    /// Forgets models it no longer has, unless a request still uses them.
    fn forget_pairs(&self, view: &View) {
        let has = |id: &String| view.models.iter().any(|served| served.model.id == *id);
        self.pairs.lock().retain(|id, pair| has(id) || Arc::strong_count(pair) > 1);
    }

    /// How one of its models looks to a request.
    pub(crate) fn look(&self, pair: &Pair, endpoint_bit: u8, now: Moment) -> Look {
        if !self.is_up() {
            return Look::Out;
        }
        let wait = until(&self.rests_until_ms, now);
        if !wait.is_zero() {
            return Look::Resting { wait };
        }
        pair.look(endpoint_bit, self.load.load(Ordering::Relaxed), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_says_what_is_wrong() {
        for url in [
            "",
            "localhost:8081",
            "ftp://h:1",
            "http://h:1/v1",
            "https://h:1/v1",
            "http://h:1#f",
            "http://h:1/#",
            "http://h:1/?",
            "http://h:1?q",
        ] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
        for url in ["http://u:secret@h:1", "http://u:secret@h:1#f", "http://h:1#secret"] {
            assert!(!Address::parse(url).expect_err("a user").contains("secret"), "{url}");
        }
        assert!(Address::parse("http://127.0.0.1:8081/").is_ok());
        assert!(Address::parse("http://[::1]:8081").is_ok_and(|address| !address.is_tls()));
        assert!(Address::parse("https://h:1").is_ok_and(|address| address.is_tls()));
    }
}
