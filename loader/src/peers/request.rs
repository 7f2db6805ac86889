//! Requests of the protocol between peers, to one member.

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Request, Response};
use wire::digest::Digest;
use wire::peers::{CAPABILITY_HEADER, MEMBER_HEADER, Path, Resource, VERSION, VERSION_HEADER};

use super::member::Member;
use super::{NeighboursConfig, Peers};
use crate::remote::http::{Client, HttpConfig, HttpError};

/// The longest capability that is read from a file.
const CAPABILITY_BYTES_MAX: usize = 4 << 10;

/// The shape of this process's requests about one model.
#[derive(Clone)]
pub(super) struct Asking {
    root: Digest,
    own_id: Option<HeaderValue>,
    capability: Option<HeaderValue>,
}

impl Asking {
    /// Reads the capability, if one is configured. Without a readable one the requests go without.
    pub(super) async fn new(root: Digest, peers: &Peers, config: &NeighboursConfig) -> Self {
        let own_id = (peers.own_id)().and_then(|id| HeaderValue::from_str(&id).ok());
        let capability = match config.capability_file.clone() {
            Some(path) => {
                let shown = path.display().to_string();
                let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
                let text = read.ok().and_then(Result::ok).filter(|text| text.len() <= CAPABILITY_BYTES_MAX);
                let value = text.and_then(|text| HeaderValue::from_str(text.trim()).ok());
                if value.is_none() {
                    tracing::warn!(
                        path = shown,
                        "`loader.peers.capability_file` holds no capability that can be shown"
                    );
                }
                value.map(|mut value| {
                    value.set_sensitive(true);
                    value
                })
            }
            None => None,
        };
        Self { root, own_id, capability }
    }
}

/// One member that can be asked.
#[derive(Clone)]
pub(super) struct Asked {
    /// `peer://ID`.
    pub(super) url: String,
    client: Client,
    authority: String,
    asking: Asking,
}

impl Asked {
    /// None if the member's address is none.
    pub(super) fn new(
        member: &Member,
        asking: &Asking,
        peers: &Peers,
        client: &Client,
        http: &HttpConfig,
    ) -> Option<Self> {
        let (host, port) = member.host_and_port()?;
        let name = if member.name.contains(':') { format!("[{}]", member.name) } else { member.name.clone() };
        Some(Self {
            url: format!("peer://{}", member.id),
            client: client.dialling(http, host, port, peers.tls.clone()),
            authority: format!("{name}:{port}"),
            asking: asking.clone(),
        })
    }

    /// The member's id.
    pub(super) fn member(&self) -> &str {
        self.url.strip_prefix("peer://").unwrap_or(&self.url)
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// A request for something of the model.
    pub(super) fn get(&self, resource: Resource) -> Result<Request<()>, HttpError> {
        let Asking { root, own_id, capability } = &self.asking;
        let path = Path { root: *root, resource };
        let mut request = Request::get(format!("https://{}{path}", self.authority)).header(VERSION_HEADER, VERSION);
        for (name, value) in [(MEMBER_HEADER, own_id), (CAPABILITY_HEADER, capability)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request.body(()).map_err(|error| HttpError::Config { problem: error.to_string() })
    }

    /// A small answer.
    pub(super) async fn ask(&self, resource: Resource, body_max: usize) -> Result<Response<Bytes>, HttpError> {
        self.client.send(self.get(resource)?.map(|()| Bytes::new()), body_max).await
    }
}
