//! From a model's URL to the source that reads it. Knows no network: nothing is asked yet.

use std::sync::Arc;

use super::http::Client;
use super::{Env, HttpsSource, HubSource, LocalSource, azure, gcs, s3};
use crate::model_url::ModelUrl;
use crate::source::{Source, SourceError};

/// The source that reads `url`, with credentials as `env` names them.
///
/// # Errors
/// [`SourceError::Config`]: the environment is contradictory, names a file that cannot be read, or
/// a source does not accept the URL.
pub fn open(url: &ModelUrl, env: &Env, client: &Client) -> Result<Arc<dyn Source>, SourceError> {
    let shown = url.to_string();
    Ok(match url {
        ModelUrl::Azure { account, container, prefix } => {
            Arc::new(azure::open([account, container, prefix], shown, env, client)?)
        }
        ModelUrl::S3 { bucket, prefix } => Arc::new(s3::open(bucket, prefix, shown, env, client)?),
        ModelUrl::Gcs { bucket, prefix } => Arc::new(gcs::open(bucket, prefix, shown, env, client)?),
        ModelUrl::Local(directory) => Arc::new(LocalSource::new(directory.clone())),
        ModelUrl::Http(base) => Arc::new(HttpsSource::new(base.clone(), client.clone())?),
        ModelUrl::File { folder, .. } => open(folder, env, client)?,
        ModelUrl::Hub { repository, revision } => Arc::new(HubSource::new(repository, revision, env, client.clone())?),
    })
}
