//! How each kind of store dresses its answers: names of errors, their bodies, and the headers of an
//! object. It follows the public REST references of S3 and Azure Blob; it decides no status.

use super::content::Object;
use super::draw::mix;
use super::reply::Reply;
use super::request::{Request, date};
use serde::{Deserialize, Serialize};

/// Whose manners the origin has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A plain web server: `/{path}`.
    #[default]
    Http,
    /// S3, path style: `/{bucket}/{key}`.
    S3,
    /// Azure Blob as its emulators serve it: `/{account}/{container}/{blob}`.
    Azure,
    /// The Hugging Face hub: `/{org}/{name}/resolve/{revision}/{file}`.
    Hub,
}

/// A problem, for the error body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: u16,
    /// The store's own word for it; by status if none.
    pub(super) code: Option<&'static str>,
    pub(super) message: String,
}

impl Problem {
    /// A problem named by its status.
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, code: None, message: message.into() }
    }
}

impl Shape {
    /// The answer that tells a problem in this store's manner.
    pub(super) fn problem(self, problem: &Problem, request: &Request, id: u64) -> Reply {
        let code = problem.code.unwrap_or_else(|| self.code(problem.status));
        let (status, message) = (problem.status, xml(&problem.message));
        let reply = match self {
            Self::S3 => {
                let resource = xml(&request.path);
                let body = format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
                     <Resource>/{resource}</Resource><RequestId>{}</RequestId></Error>",
                    request_id(id)
                );
                Reply::text(status, "application/xml", body)
            }
            Self::Azure => {
                let body = format!(
                    "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code>\
                     <Message>{message}\nRequestId:{}</Message></Error>",
                    uuid(id)
                );
                Reply::text(status, "application/xml", body).with("x-ms-error-code", code)
            }
            Self::Hub => {
                let reply = Reply::json(status, &serde_json::json!({ "error": problem.message }));
                let reply = reply.with("X-Error-Message", problem.message.clone());
                if code.is_empty() { reply } else { reply.with("X-Error-Code", code) }
            }
            Self::Http => Reply::text(status, "text/plain", format!("{}\n", problem.message)),
        };
        self.dressed(reply, request, id)
    }

    /// Adds what this store says in every answer.
    pub(super) fn dressed(self, reply: Reply, request: &Request, id: u64) -> Reply {
        match self {
            Self::S3 => reply.with("x-amz-request-id", request_id(id)).with("x-amz-id-2", format!("{:032x}", mix(id))),
            Self::Azure => {
                let version = request.header("x-ms-version").unwrap_or("2021-12-02").to_owned();
                reply.with("x-ms-request-id", uuid(id)).with("x-ms-version", version)
            }
            Self::Hub => reply.with("X-Request-Id", uuid(id)),
            Self::Http => reply,
        }
    }

    /// The headers of an object in this store.
    pub(super) fn object(self, reply: Reply, object: &Object) -> Reply {
        let reply = reply
            .with("ETag", object.etag.clone())
            .with("Last-Modified", date(object.modified))
            .with("Accept-Ranges", "bytes")
            .with("Content-Type", "application/octet-stream");
        match self {
            Self::Azure => reply
                .with("x-ms-blob-type", "BlockBlob")
                .with("x-ms-creation-time", date(object.modified))
                .with("x-ms-lease-status", "unlocked")
                .with("x-ms-lease-state", "available")
                .with("x-ms-server-encrypted", "true"),
            Self::S3 | Self::Http | Self::Hub => reply,
        }
    }

    /// The account a name belongs to: caps on an account's requests count by it.
    pub(super) fn account(self, name: &str) -> &str {
        match self {
            Self::S3 | Self::Azure => name.split('/').next().unwrap_or_default(),
            Self::Http | Self::Hub => "",
        }
    }

    fn code(self, status: u16) -> &'static str {
        match (self, status) {
            (Self::S3, 400) => "InvalidRequest",
            (Self::S3, 401 | 403) => "AccessDenied",
            (Self::S3, 404) => "NoSuchKey",
            (Self::S3, 405) => "MethodNotAllowed",
            (Self::S3, 412) => "PreconditionFailed",
            (Self::S3 | Self::Azure, 416) => "InvalidRange",
            (Self::S3, 429 | 503) => "SlowDown",
            (Self::Azure, 401) => "InvalidAuthenticationInfo",
            (Self::Azure, 403) => "AuthenticationFailed",
            (Self::Azure, 404) => "BlobNotFound",
            (Self::Azure, 405) => "UnsupportedHttpVerb",
            (Self::Azure, 412) => "ConditionNotMet",
            (Self::Azure, 429 | 503) => "ServerBusy",
            (Self::S3 | Self::Azure, _) => "InternalError",
            (Self::Hub, 401) => "GatedRepo",
            (Self::Hub, 404) => "EntryNotFound",
            (Self::Http | Self::Hub, _) => "",
        }
    }
}

/// The number of an answer as S3 writes it.
fn request_id(id: u64) -> String {
    format!("{:016X}", mix(id))
}

/// The number of an answer as Azure writes it.
fn uuid(id: u64) -> String {
    let (high, low) = (mix(id), mix(id ^ 0x5555));
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    )
}

/// Text as XML holds it.
fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
