//! The caller of a request, as far as the hub is concerned: nobody, or a token.

use std::fmt;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use loader::remote::Env;

use super::refusal::Refusal;

/// The longest token; the hub's have some 40 bytes.
const TOKEN_BYTES_MAX: usize = 4096;
/// The variables by which the hub's tools find a token of their own.
const TOKEN_VARIABLES: [&str; 5] =
    ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "HF_HUB_DISABLE_IMPLICIT_TOKEN"];

/// A caller. Its token is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Caller {
    token: Option<String>,
}

impl Caller {
    /// A caller without a token.
    pub(super) fn anonymous() -> Self {
        Self { token: None }
    }

    /// Reads the caller of a request.
    ///
    /// # Errors
    /// 401 for an `Authorization` that is no bearer token: taken for none, a typing error would make a request somebody
    /// else's.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(Self::anonymous()) };
        let text = value.to_str().ok().and_then(|text| text.trim().split_once(' '));
        let token = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        let is_token = |token: &&str| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX && !token.contains(' ');
        match token.filter(is_token) {
            Some(token) if values.next().is_none() => Ok(Self { token: Some(token.to_owned()) }),
            _ => {
                let message = "`Authorization` is no bearer token; send `Authorization: Bearer TOKEN` once, or nothing";
                Err(Refusal::new(StatusCode::UNAUTHORIZED, message))
            }
        }
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.token.is_none()
    }

    /// The bytes that tell callers apart, for hashing.
    pub(super) fn secret(&self) -> &[u8] {
        self.token.as_deref().unwrap_or_default().as_bytes()
    }

    /// The value of `Authorization` for the hub.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.token.as_deref()?)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The environment by which the loader asks `endpoint` as this caller, and never as this process.
    pub(super) fn environment(&self, base: &Env, endpoint: &str) -> Env {
        let own = base.iter().filter(|(name, _)| !TOKEN_VARIABLES.contains(name) && *name != "HF_ENDPOINT");
        let token = match &self.token {
            Some(token) => ("HF_TOKEN", token.as_str()),
            None => ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
        };
        Env::from_pairs(own.chain([("HF_ENDPOINT", endpoint), token]))
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.is_anonymous() { "a caller without a token" } else { "a caller with a token" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(values: &[&'static str]) -> Result<Option<String>, StatusCode> {
        let headers = values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value)));
        Caller::of(&headers.collect()).map(|caller| caller.token).map_err(|refusal| refusal.status)
    }

    #[test]
    fn a_malformed_authorization_is_never_nobodys() {
        assert_eq!(caller(&[]), Ok(None));
        assert_eq!(caller(&["Bearer hf_x"]), Ok(Some("hf_x".into())));
        assert_eq!(caller(&["bearer  hf_x "]), Ok(Some("hf_x".into())));
        for wrong in ["", "Bearer", "Bearer ", "Basic aGk6aGk=", "hf_x", "Bearer a b"] {
            assert_eq!(caller(&[wrong]), Err(StatusCode::UNAUTHORIZED), "{wrong:?}");
        }
        assert_eq!(caller(&["Bearer a", "Bearer b"]), Err(StatusCode::UNAUTHORIZED));
    }

    #[test]
    fn a_caller_never_borrows_the_nodes_own_token() {
        let base = Env::from_pairs([("HF_TOKEN", "hf_own"), ("HF_HOME", "/home"), ("HTTPS_PROXY", "http://proxy")]);
        let anonymous = Caller::anonymous().environment(&base, "https://hub");
        assert_eq!((anonymous.get("HF_TOKEN"), anonymous.get("HF_HOME")), (None, None));
        assert!(anonymous.is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN"));
        let named = Caller { token: Some("hf_theirs".into()) };
        let environment = named.environment(&base, "https://hub");
        assert_eq!(environment.get("HF_TOKEN"), Some("hf_theirs"));
        assert_eq!(
            (environment.get("HF_ENDPOINT"), environment.get("HTTPS_PROXY")),
            (Some("https://hub"), Some("http://proxy"))
        );
        assert!(!format!("{named:?} {:?}", named.authorization()).contains("theirs"));
    }
}
