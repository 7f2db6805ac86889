//! The hub's address and token, from where its own tools read them.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use http::HeaderValue;
use url::Url;

use super::super::env::Env;
use super::super::https::is_loopback;

/// The public hub.
const ENDPOINT: &str = "https://huggingface.co";
/// The largest token file that is read; tokens have some 40 bytes.
const TOKEN_BYTES_MAX: u64 = 4096;

/// The hub's address and the caller's credentials.
pub(super) struct Account {
    /// Its address, without a slash at the end.
    pub endpoint: Url,
    /// The value of `Authorization`, if any.
    pub authorization: Option<HeaderValue>,
}

impl Account {
    /// As `huggingface_hub` reads them: `HF_ENDPOINT`; `HF_TOKEN` or the file at `HF_TOKEN_PATH`,
    /// `$HF_HOME/token` or `~/.cache/huggingface/token`, unless `HF_HUB_DISABLE_IMPLICIT_TOKEN`
    /// is set. A token is not sent in the clear beyond this machine.
    pub(super) fn from_env(env: &Env) -> Result<Self, String> {
        let text = env.get("HF_ENDPOINT").unwrap_or(ENDPOINT).trim_end_matches('/');
        let endpoint = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let endpoint = endpoint.ok_or("HF_ENDPOINT is not an http:// or https:// URL")?;
        let safe = endpoint.scheme() == "https" || is_loopback(&endpoint);
        let authorization = token(env).map(|token| header(&token)).transpose()?;
        if authorization.is_some() && !safe {
            tracing::warn!("HF_ENDPOINT is plain HTTP beyond this machine: the token is not sent; use https://");
        }
        Ok(Self { endpoint, authorization: authorization.filter(|_| safe) })
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = if self.authorization.is_some() { "with a token" } else { "without a token" };
        write!(formatter, "{} {token}", self.endpoint)
    }
}

fn header(token: &str) -> Result<HeaderValue, String> {
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_| "the token in HF_TOKEN or its file has characters that no token has")?;
    value.set_sensitive(true);
    Ok(value)
}

fn token(env: &Env) -> Option<String> {
    if env.is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return None;
    }
    let named = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].iter().find_map(|name| env.get(name)).map(str::to_owned);
    let token = named.or_else(|| {
        let mut text = String::new();
        std::fs::File::open(token_file(env)?).ok()?.take(TOKEN_BYTES_MAX).read_to_string(&mut text).ok()?;
        Some(text)
    })?;
    let token = token.trim();
    (!token.is_empty()).then(|| token.to_owned())
}

fn token_file(env: &Env) -> Option<PathBuf> {
    let cache = || env.path("XDG_CACHE_HOME").or_else(|| Some(env.path("HOME")?.join(".cache")));
    let home = || env.path("HF_HOME").or_else(|| Some(cache()?.join("huggingface")));
    env.path("HF_TOKEN_PATH").or_else(|| Some(home()?.join("token")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorization(pairs: &[(&str, &str)]) -> Option<String> {
        let account = Account::from_env(&Env::from_pairs(pairs.iter().copied())).expect("an account");
        account.authorization.map(|value| value.to_str().expect("text").to_owned())
    }

    #[test]
    fn a_token_is_read_where_the_hubs_tools_read_it() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().to_str().expect("text");
        std::fs::write(home.path().join("token"), "hf_file\n").expect("can be written");
        assert_eq!(
            authorization(&[("HF_TOKEN", " hf_named\n"), ("HF_HOME", path)]).as_deref(),
            Some("Bearer hf_named")
        );
        assert_eq!(authorization(&[("HF_HOME", path)]).as_deref(), Some("Bearer hf_file"));
        let file = format!("{path}/token");
        assert_eq!(authorization(&[("HF_TOKEN_PATH", &file)]).as_deref(), Some("Bearer hf_file"));
        assert_eq!(authorization(&[("HF_HOME", path), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(authorization(&[("HF_HOME", "/nowhere")]), None);
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear_and_never_shown() {
        let token = ("HF_TOKEN", "hf_secret");
        assert_eq!(authorization(&[token, ("HF_ENDPOINT", "http://hub.example")]), None);
        assert!(authorization(&[token, ("HF_ENDPOINT", "http://127.0.0.1:8000/")]).is_some());
        let account = Account::from_env(&Env::from_pairs([token])).expect("an account");
        assert!(!format!("{account:?} {:?}", account.authorization).contains("secret"));
    }

    #[test]
    fn a_wrong_endpoint_is_named() {
        let error = Account::from_env(&Env::from_pairs([("HF_ENDPOINT", "hub.example")])).expect_err("refused");
        assert!(error.contains("HF_ENDPOINT"), "{error}");
    }
}
