//! A router on a free port, and a client that shows everything it gets.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use listen::{Drain, ListenError, Listener};
use router::{PickBy, Router, RouterConfig};
use serde_json::{Value, json};
use std::time::Duration;
use telemetry::metrics::Registry;
use testkit::faulty_worker::FaultyWorker;
use tokio::task::JoinHandle;

pub(crate) struct Front {
    pub(crate) base: String,
    pub(crate) drain: Drain,
    pub(crate) registry: Registry,
    pub(crate) router: Router,
    client: Client<HttpConnector, Full<Bytes>>,
    pub(crate) served: JoinHandle<Result<(), ListenError>>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|cause| panic!("{cause}: {}", self.body))
    }

    pub(crate) fn error(&self, member: &str) -> String {
        self.json()["error"][member].as_str().unwrap_or_default().to_owned()
    }

    /// The data of its events.
    pub(crate) fn events(&self) -> Vec<String> {
        let mut decoder = wire::sse::Decoder::new(1 << 20);
        let mut events = Vec::new();
        decoder.push(self.body.as_bytes(), |event| events.push(event.data)).expect("an event stream");
        assert!(!decoder.is_mid_event(), "{:?} ends inside an event", self.body);
        events
    }

    /// Asserts that the stream ended with an error event of this code and no `[DONE]`.
    pub(crate) fn assert_broken(&self, code: &str) {
        let events = self.events();
        let last: Value = serde_json::from_str(events.last().expect("an event")).expect("json");
        assert_eq!(last["error"]["code"], code, "{events:?}");
        assert!(!events.contains(&"[DONE]".to_owned()), "{events:?}");
    }
}

pub(crate) fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
}

/// A chat whose body is like no other's: a router remembers bodies that broke workers.
pub(crate) fn chat_about(what: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": what}]})
}

pub(crate) fn streamed() -> Value {
    json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]})
}

impl Front {
    pub(crate) async fn start(workers: &[&FaultyWorker], adjust: impl FnOnce(&mut RouterConfig)) -> Self {
        let mut config =
            RouterConfig { workers: workers.iter().map(|worker| worker.url()).collect(), ..RouterConfig::default() };
        config.listen.address = ([127, 0, 0, 1], 0).into();
        config.health.interval_ms = 20;
        // Most tests send one prompt all the time, and want it spread.
        config.pick.by = PickBy::LeastLoad;
        adjust(&mut config);
        let listener = Listener::bind(&config.listen).await.expect("a free port");
        let base = format!("http://{}", listener.local_addr());
        let (drain, registry) = (Drain::new(), Registry::new());
        let router = Router::new(config, &registry, drain.clone()).expect("a valid configuration");
        let served = {
            let (router, registry, drain) = (router.clone(), registry.clone(), drain.clone());
            tokio::spawn(async move {
                router.look_around().await;
                let _watches = router.watch();
                let listener = listener.with_metrics(&registry, "router").with_descriptors_per_connection(2);
                listener.serve(router.app(), drain).await
            })
        };
        let client = Client::builder(TokioExecutor::new()).build_http();
        let front = Self { base, drain, registry, router, client, served };
        // The socket is bound before anything is served; the first answer says that it is.
        assert_eq!(front.get("/livez").await.status, 200);
        front
    }

    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        self.client.request(request).await.expect("the router answers")
    }

    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
        let (parts, body) = self.open(method, path, headers, body).await.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        let body = String::from_utf8(bytes.to_vec()).expect("text");
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], Vec::new()).await
    }

    pub(crate) async fn chat(&self, body: &Value) -> Reply {
        self.send(Method::POST, "/v1/chat/completions", &[], body.to_string().into_bytes()).await
    }

    pub(crate) async fn chat_as(&self, key: &str, body: &Value) -> Reply {
        let bearer = format!("Bearer {key}");
        self.send(Method::POST, "/v1/chat/completions", &[("authorization", &bearer)], body.to_string().into_bytes())
            .await
    }

    pub(crate) async fn complete(&self, body: &Value) -> Reply {
        self.send(Method::POST, "/v1/completions", &[], body.to_string().into_bytes()).await
    }

    pub(crate) async fn open_chat(&self, body: &Value) -> Response<Incoming> {
        self.open(Method::POST, "/v1/chat/completions", &[], body.to_string().into_bytes()).await
    }

    /// The router's `HOST:PORT`, for clients that speak to the socket itself.
    pub(crate) fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// A metric's value, over all labels; 0 where it was never touched.
    pub(crate) fn total(&self, name: &str) -> f64 {
        let text = self.registry.render();
        let values =
            text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with(['{', ' ']));
        values.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// A metric's value; 0 where it was never touched.
    pub(crate) fn metric(&self, name_and_labels: &str) -> f64 {
        let text = self.registry.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Waits until nothing is in flight, by both gauges.
    pub(crate) async fn assert_idle(&self, workers: &[&FaultyWorker]) {
        wait_for("nothing in flight", || {
            let at = |worker: &&FaultyWorker| {
                self.metric(&format!("forebay_router_worker_in_flight_requests{{worker=\"{}\"}}", worker.name()))
            };
            self.metric("forebay_router_in_flight_requests") == 0.0 && workers.iter().map(at).sum::<f64>() == 0.0
        })
        .await;
    }
}

pub(crate) async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited 10 s for {what}");
}
