//! Access to objects: whether a request must be signed, which credentials the origin has handed out, and
//! when it stops accepting them. It checks presence and age; signatures it does not recompute.

use super::request::{Request, decoded};
use super::shapes::{Problem, Shape};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Every credential we hand out holds this word and its generation in six digits.
const MARK: &str = "FOREBAY";
/// Generations remembered; an older one has expired.
const GENERATIONS_MAX: usize = 1024;

/// Demands on requests for objects. The default asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Requests must be signed in the shape's manner: AWS Signature 4 in header or query; for Azure
    /// SharedKey, SAS or bearer; else a bearer token.
    pub required: bool,
    /// Where a bearer token is what is asked: this very one (an `HF_TOKEN`).
    pub token: Option<String>,
    /// Credentials that the metadata endpoints handed out, and no others, are accepted.
    pub only_issued: bool,
    /// A handed out credential expires after this many requests, though it says it lives an hour.
    pub expires_after_requests: Option<u64>,
    /// A handed out credential expires after this time, and says so; an hour if none.
    pub expires_after: Option<Duration>,
    /// Repositories of a hub that are there for one token alone: name, then token. To others they do not exist.
    pub private: Vec<(String, String)>,
    /// Repositories of a hub whose conditions one token's owner has accepted: name, then token.
    pub gated: Vec<(String, String)>,
    /// The status of an expired credential; by default 400 `ExpiredToken` for S3, as AWS answers,
    /// and 401 elsewhere.
    pub expired_status: Option<u16>,
}

/// The guard at the door: the rules, and what has become of the credentials.
#[derive(Debug, Default)]
pub(super) struct Guard {
    rules: Access,
    issued: Mutex<Issued>,
}

#[derive(Debug, Default)]
struct Issued {
    latest: u64,
    /// When each was handed out, and how often it was used.
    alive: BTreeMap<u64, (Instant, u64)>,
}

impl Guard {
    /// A guard with these rules.
    pub(super) fn new(rules: Access) -> Self {
        Self { rules, issued: Mutex::default() }
    }

    /// Hands out a credential: its word, and how long it says it lives.
    pub(super) fn issue(&self) -> (String, Duration) {
        let mut issued = self.issued.lock();
        issued.latest += 1;
        let generation = issued.latest;
        issued.alive.insert(generation, (Instant::now(), 0));
        if issued.alive.len() > GENERATIONS_MAX {
            issued.alive.pop_first();
        }
        (format!("{MARK}{generation:06}"), self.rules.expires_after.unwrap_or(Duration::from_secs(3600)))
    }

    /// Lets a request for an object in.
    ///
    /// # Errors
    /// Checks the credentials of a request; a problem is told as this shape tells it.
    pub(super) fn check(&self, shape: Shape, request: &Request) -> Result<(), Problem> {
        let shown = shown(shape, request);
        if let Some(generation) = shown.as_deref().and_then(generation) {
            return self.use_up(shape, generation);
        }
        let accepted = match (&shown, &self.rules.token) {
            _ if self.rules.only_issued => false,
            (None, token) => !self.rules.required && token.is_none(),
            (Some(shown), Some(token)) => shown.trim().strip_prefix("Bearer ") == Some(token),
            (Some(_), None) => true,
        };
        if accepted {
            return Ok(());
        }
        let status = if matches!(shape, Shape::S3 | Shape::Azure) { 403 } else { 401 };
        Err(Problem::new(status, "this origin requires credentials: sign the request, or send the bearer token"))
    }

    /// Lets a request into a repository of a hub.
    ///
    /// # Errors
    /// The hub's words for a repository that is private or gated.
    pub(super) fn check_repository(&self, repository: &str, request: &Request) -> Result<(), Problem> {
        let shown = request.header("authorization").and_then(|text| text.trim().strip_prefix("Bearer "));
        let closed = |list: &[(String, String)]| {
            list.iter().any(|(name, token)| name == repository && shown != Some(token.as_str()))
        };
        let status = |known: u16| if shown.is_none() { 401 } else { known };
        let refuse =
            |status, code, message: &str| Err(Problem { status, code: Some(code), message: message.to_owned() });
        if closed(&self.rules.private) {
            return refuse(status(404), "RepoNotFound", "Repository not found");
        }
        if closed(&self.rules.gated) {
            return refuse(status(403), "GatedRepo", "Access to this model is restricted");
        }
        Ok(())
    }

    fn use_up(&self, shape: Shape, generation: u64) -> Result<(), Problem> {
        let mut issued = self.issued.lock();
        let alive = issued.alive.get_mut(&generation).is_some_and(|(since, requests)| {
            *requests += 1;
            let in_time = self.rules.expires_after.is_none_or(|time| since.elapsed() < time);
            in_time && self.rules.expires_after_requests.is_none_or(|most| *requests <= most)
        });
        if alive {
            return Ok(());
        }
        let (status, code) = match shape {
            Shape::S3 => (400, Some("ExpiredToken")),
            Shape::Azure => (401, Some("InvalidAuthenticationInfo")),
            Shape::Http | Shape::Hub => (401, None),
        };
        let status = self.rules.expired_status.unwrap_or(status);
        Err(Problem { status, code, message: "The provided token has expired.".to_owned() })
    }
}

/// The credentials a request shows, whatever their form; none if it is anonymous.
fn shown(shape: Shape, request: &Request) -> Option<String> {
    let header = request.header("authorization");
    let query = decoded(&request.query);
    let holds = |word: &str| query.split('&').any(|pair| pair.starts_with(word));
    match shape {
        Shape::S3 => {
            let signed = header.is_some_and(|text| text.starts_with("AWS4-HMAC-SHA256"));
            let token = request.header("x-amz-security-token").unwrap_or_default();
            (signed || holds("X-Amz-Signature=")).then(|| format!("{} {token} {query}", header.unwrap_or_default()))
        }
        Shape::Azure => {
            let known = ["SharedKey ", "SharedKeyLite ", "Bearer "];
            let signed = header.is_some_and(|text| known.iter().any(|known| text.starts_with(known)));
            (signed || holds("sig=")).then(|| header.map_or(query.clone(), str::to_owned))
        }
        Shape::Http | Shape::Hub => header.map(str::to_owned),
    }
}

/// The generation of a credential that we handed out.
fn generation(shown: &str) -> Option<u64> {
    let at = shown.find(MARK)? + MARK.len();
    shown.get(at..at + 6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_found_in_every_form() {
        for text in ["AWS4-HMAC-SHA256 Credential=ASIAFOREBAY000042/2026", "Bearer FOREBAY000042.x"] {
            assert_eq!(generation(text), Some(42));
        }
        assert_eq!(generation("Bearer hf_x"), None);
        assert_eq!(generation("FOREBAY00"), None);
    }
}
