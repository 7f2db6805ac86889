//! `gs://BUCKET/PREFIX`: Google Cloud Storage, by its XML interface.
//!
//! Credentials are looked for where Google's tools do: the file of `GOOGLE_APPLICATION_CREDENTIALS`,
//! the application default credentials of `gcloud`, the machine's metadata.

use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderMap;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use wire::evidence::StoreChecksum;

use super::Env;
use super::http::Client;
use super::signed::{Dialect, Folder, SignedSource, credentials_retry, redacted};
use crate::source::SourceError;

const DIALECT: Dialect = Dialect {
    fix: "set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file, or run \
          `gcloud auth application-default login`, or give the machine a service account with \
          `Storage Object Viewer`; GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    version_field: "x-goog-generation",
    region_field: None,
    checksum,
};

/// Opens a bucket's folder.
///
/// # Errors
/// [`SourceError::Config`]: a credentials file cannot be read.
pub(super) fn open(
    bucket: &str,
    prefix: &str,
    url: String,
    env: &Env,
    client: &Client,
) -> Result<SignedSource, SourceError> {
    let folder = Folder { url, account: format!("gs/{bucket}"), region: None, prefix: prefix.to_owned() };
    let (bucket, env) = (bucket.to_owned(), env.clone());
    let open = move |wire| {
        let store = builder(&env).with_bucket_name(&bucket).with_http_connector(wire).build();
        store.map(|store| Arc::new(store) as _).map_err(|error| redacted(&error.to_string()))
    };
    SignedSource::new(folder, DIALECT, client, Box::new(open))
}

fn builder(env: &Env) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::new().with_retry(credentials_retry());
    for (name, value) in env.iter().filter(|(name, value)| name.starts_with("GOOGLE_") && !value.is_empty()) {
        match name.to_ascii_lowercase().parse() {
            Ok(GoogleConfigKey::Client(_)) | Err(_) => {}
            Ok(key) => builder = builder.with_config(key, value),
        }
    }
    let is_named = NAMED.iter().any(|name| env.get(name).is_some());
    if let Some(host) = env.get("STORAGE_EMULATOR_HOST") {
        let host = host.trim_end_matches('/');
        let base = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
        builder = builder.with_base_url(&base);
        if !is_named {
            return builder.with_skip_signature(true);
        }
    }
    match default_credentials(env) {
        Some(path) if !is_named && path.is_file() => builder.with_application_credentials(path.to_string_lossy()),
        _ => builder,
    }
}

/// Variables that name credentials.
const NAMED: [&str; 7] = [
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_BEARER_TOKEN",
    "GOOGLE_SKIP_SIGNATURE",
    "SERVICE_ACCOUNT",
];

/// The file that `gcloud auth application-default login` leaves.
fn default_credentials(env: &Env) -> Option<PathBuf> {
    let folder =
        env.path("CLOUDSDK_CONFIG").or_else(|| Some(PathBuf::from(env.get("HOME")?).join(".config/gcloud")))?;
    Some(folder.join("application_default_credentials.json"))
}

/// None: Google stores CRC32C and MD5, which prove nothing.
fn checksum(_: &HeaderMap) -> Option<StoreChecksum> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulator_is_read_unsigned_unless_credentials_are_named() {
        let value = |pairs: &[(&'static str, &'static str)], key| {
            builder(&Env::from_pairs(pairs.iter().copied())).get_config_value(&key)
        };
        let emulator = ("STORAGE_EMULATOR_HOST", "localhost:4443");
        assert_eq!(value(&[emulator], GoogleConfigKey::BaseUrl).as_deref(), Some("http://localhost:4443"));
        assert_eq!(value(&[emulator], GoogleConfigKey::SkipSignature).as_deref(), Some("true"));
        let bearer = ("GOOGLE_BEARER_TOKEN", "t");
        assert_eq!(value(&[emulator, bearer], GoogleConfigKey::SkipSignature).as_deref(), Some("false"));
    }
}
