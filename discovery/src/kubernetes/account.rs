//! Where the API server is, and who we are to it: the settings, or else what a pod finds in its environment and in its
//! service account's files.

use crate::config::{BaseUrl, DiscoveryConfig};
use http::HeaderValue;
use listen::{ClientTls, ClientTlsConfig, TlsError};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

/// The files of a pod's service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The longest token: projected ones have some 1,200 bytes.
const TOKEN_BYTES_MAX: usize = 64 << 10;

/// Errors of finding the API server.
#[derive(Debug, Error)]
pub(crate) enum AccountError {
    #[error("this is no pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; set `kubernetes_api`")]
    NoPod,
    #[error("reading {path}; mount the service account's token, or set `kubernetes_token_file`")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("reading {path}: it holds no token")]
    Token { path: PathBuf },
    #[error("reading the authorities of the API server; mount the service account's, or set `kubernetes_ca_file`")]
    Authorities(#[source] TlsError),
}

/// The API server, and the files that prove things to either side.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) url: BaseUrl,
    pub(crate) tls: Option<ClientTls>,
    token_file: Option<PathBuf>,
    /// Follows the authorities' file.
    _watch: JoinSet<()>,
}

impl Account {
    /// Reads where the server is, and its authorities.
    pub(crate) fn open(config: &DiscoveryConfig, url: Option<BaseUrl>) -> Result<Self, AccountError> {
        let url = url.or_else(of_the_environment).ok_or(AccountError::NoPod)?;
        let of_the_pod = |name| Path::new(ACCOUNT).join(name);
        let mut watch = JoinSet::new();
        let tls = url.is_tls.then(|| config.kubernetes_ca_file.clone().unwrap_or_else(|| of_the_pod("ca.crt")));
        let tls =
            tls.map(|file| ClientTls::new(&ClientTlsConfig { ca_file: Some(file), ..ClientTlsConfig::default() }));
        let tls = tls.transpose().map_err(AccountError::Authorities)?;
        if let Some(tls) = tls.clone() {
            watch.spawn(tls.watch(None));
        }
        // In the clear only a token that was meant for it is sent.
        let token_file = config.kubernetes_token_file.clone().or_else(|| url.is_tls.then(|| of_the_pod("token")));
        Ok(Self { url, tls, token_file, _watch: watch })
    }

    /// The header that proves who we are, as the token is now.
    pub(crate) async fn authorization(&self) -> Result<Option<HeaderValue>, AccountError> {
        let Some(path) = self.token_file.as_ref() else { return Ok(None) };
        let fail = |source| AccountError::Read { path: path.clone(), source };
        let file = tokio::fs::File::open(path).await.map_err(fail)?;
        let mut text = String::new();
        file.take(TOKEN_BYTES_MAX as u64 + 1).read_to_string(&mut text).await.map_err(fail)?;
        let token = Some(text.trim()).filter(|token| (1..=TOKEN_BYTES_MAX).contains(&token.len()));
        let header = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let mut header = header.ok_or_else(|| AccountError::Token { path: path.clone() })?;
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

/// The namespace of the pod, or `default`.
pub(crate) fn namespace() -> String {
    let read = std::fs::read_to_string(Path::new(ACCOUNT).join("namespace")).unwrap_or_default();
    let name = read.trim();
    if name.is_empty() { "default".into() } else { name.into() }
}

fn of_the_environment() -> Option<BaseUrl> {
    let host = std::env::var("KUBERNETES_SERVICE_HOST").ok()?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").ok()?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    BaseUrl::parse("kubernetes_api", &format!("https://{host}:{port}")).ok()
}
