//! From a model's URL to the source that reads it. Knows no network: nothing is asked yet.

use std::sync::Arc;

use super::http::Client;
use super::{Env, HttpsSource, LocalSource};
use crate::model_url::ModelUrl;
use crate::source::{Source, SourceError};

/// The source that reads `url`, with credentials as `env` names them.
///
/// # Errors
/// [`SourceError::Config`]: the environment is contradictory, names a file that cannot be read, or
/// a source does not accept the URL.
pub fn open(url: &ModelUrl, _env: &Env, client: &Client) -> Result<Arc<dyn Source>, SourceError> {
    let shown = url.to_string();
    Ok(match url {
        ModelUrl::Local(path) => Arc::new(LocalSource::new(path.clone())),
        ModelUrl::Http(base) => Arc::new(HttpsSource::new(base.clone(), client.clone())?),
        _ => return Err(SourceError::Config { url: shown, problem: "is not read yet".to_owned() }),
    })
}
