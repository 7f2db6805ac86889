//! `az://ACCOUNT/CONTAINER/PREFIX`: Azure Blob Storage and the Azurite emulator.
//!
//! Credentials are looked for where Azure's tools do: a connection string, an account's key, a
//! SAS, a workload identity, a client secret, a managed identity. Those of one account are not
//! used for another.

mod connection;

use std::sync::Arc;

use http::HeaderMap;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use wire::evidence::StoreChecksum;

use self::connection::Connection;
use super::Env;
use super::http::Client;
use super::signed::{Dialect, Folder, SignedSource, credentials_retry, redacted};
use crate::source::SourceError;

const DIALECT: Dialect = Dialect {
    fix: "set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING, or give the pod or \
          machine an identity with the role `Storage Blob Data Reader` (a workload identity sets \
          AZURE_FEDERATED_TOKEN_FILE, AZURE_CLIENT_ID and AZURE_TENANT_ID); AZURE_SKIP_SIGNATURE=true for a public container",
    version_field: "x-ms-version-id",
    region_field: None,
    checksum,
};
/// The emulator's account and key, the same everywhere and published by Microsoft.
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const EMULATOR_ENDPOINT: &str = "http://127.0.0.1:10000";

/// Opens a container's folder.
///
/// # Errors
/// [`SourceError::Config`]: the environment is contradictory.
pub(super) fn open(
    [account, container, prefix]: [&str; 3],
    url: String,
    env: &Env,
    client: &Client,
) -> Result<SignedSource, SourceError> {
    let folder = Folder { url, account: account.to_owned(), region: None, prefix: prefix.to_owned() };
    let (account, container, env) = (account.to_owned(), container.to_owned(), env.clone());
    let open = move |wire| {
        let builder = builder(&account, &env)?.with_account(&account).with_container_name(&container);
        let store = builder.with_http_connector(wire).build();
        store.map(|store| Arc::new(store) as _).map_err(|error| redacted(&error.to_string()))
    };
    SignedSource::new(folder, DIALECT, client, Box::new(open))
}

fn builder(account: &str, env: &Env) -> Result<MicrosoftAzureBuilder, String> {
    let mut builder = MicrosoftAzureBuilder::new().with_retry(credentials_retry());
    let is_ours = is_account(account, env);
    for (name, value) in env.iter().filter(|(name, value)| name.starts_with("AZURE_") && !value.is_empty()) {
        match name.to_ascii_lowercase().parse() {
            Ok(AzureConfigKey::Client(_) | AzureConfigKey::UseEmulator) | Err(_) => {}
            Ok(AzureConfigKey::AccessKey | AzureConfigKey::SasKey | AzureConfigKey::Endpoint) if !is_ours => {}
            Ok(key) => builder = builder.with_config(key, value),
        }
    }
    if let (Some(key), true) = (env.get("AZURE_STORAGE_KEY"), is_ours) {
        builder = builder.with_access_key(key);
    }
    if let Some(endpoint) = env.get("IDENTITY_ENDPOINT").or_else(|| env.get("MSI_ENDPOINT")) {
        builder = builder.with_msi_endpoint(endpoint);
    }
    let connection = match env.get("AZURE_STORAGE_CONNECTION_STRING") {
        Some(text) => Some(Connection::read(text)?),
        None if env.is_true("AZURE_STORAGE_USE_EMULATOR") => Some(Connection::emulator()),
        None => None,
    };
    Ok(match connection {
        Some(connection) => connected(builder, connection, account, env),
        None => builder,
    })
}

/// Adds what a connection string says of `account`.
fn connected(
    mut builder: MicrosoftAzureBuilder,
    connection: Connection,
    account: &str,
    env: &Env,
) -> MicrosoftAzureBuilder {
    if connection.development && account == EMULATOR_ACCOUNT {
        let base = env.get("AZURITE_BLOB_STORAGE_URL").unwrap_or(EMULATOR_ENDPOINT).trim_end_matches('/');
        return builder.with_endpoint(format!("{base}/{EMULATOR_ACCOUNT}")).with_access_key(EMULATOR_KEY);
    }
    // A connection string with a SAS may leave the account out; its endpoint names it.
    if connection.account.as_deref().is_some_and(|named| named != account) {
        return builder;
    }
    if let Some(endpoint) = connection.blob_endpoint(account) {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(key) = connection.key {
        builder = builder.with_access_key(key);
    }
    if let Some(sas) = connection.sas {
        builder = builder.with_config(AzureConfigKey::SasKey, sas);
    }
    builder
}

/// Returns true if the environment's key and SAS are `account`'s: they are unless it names another.
fn is_account(account: &str, env: &Env) -> bool {
    let named = env.get("AZURE_STORAGE_ACCOUNT").or_else(|| env.get("AZURE_STORAGE_ACCOUNT_NAME"));
    named.is_none_or(|named| named == account)
}

/// None: `Content-MD5` proves nothing, and Azure stores no other digest.
fn checksum(_: &HeaderMap) -> Option<StoreChecksum> {
    None
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    fn value(account: &str, pairs: &[(&str, &str)], key: AzureConfigKey) -> Option<String> {
        builder(account, &Env::from_pairs(pairs.iter().copied())).unwrap().get_config_value(&key)
    }

    #[test]
    fn a_key_is_used_for_its_account_only() {
        let pairs = [("AZURE_STORAGE_ACCOUNT", "one"), ("AZURE_STORAGE_KEY", "a2V5")];
        assert_eq!(value("one", &pairs, AzureConfigKey::AccessKey).as_deref(), Some("a2V5"));
        assert_eq!(value("two", &pairs, AzureConfigKey::AccessKey), None);
        assert_eq!(value("two", &pairs[1..], AzureConfigKey::AccessKey).as_deref(), Some("a2V5"));
    }

    #[test]
    fn a_connection_string_names_endpoint_and_key_of_its_account() {
        let text = "DefaultEndpointsProtocol=https;AccountName=one;AccountKey=a2V5PQ==;EndpointSuffix=core.example";
        let pairs = [("AZURE_STORAGE_CONNECTION_STRING", text)];
        assert_eq!(value("one", &pairs, AzureConfigKey::Endpoint).as_deref(), Some("https://one.blob.core.example"));
        assert_eq!(value("one", &pairs, AzureConfigKey::AccessKey).as_deref(), Some("a2V5PQ=="));
        assert_eq!(value("two", &pairs, AzureConfigKey::AccessKey), None);
    }

    #[test]
    fn the_emulator_is_found_wherever_it_listens() {
        let development = ("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true");
        let endpoint = |pairs: &[_]| value(EMULATOR_ACCOUNT, pairs, AzureConfigKey::Endpoint).unwrap();
        assert_eq!(endpoint(&[development]), "http://127.0.0.1:10000/devstoreaccount1");
        let elsewhere = ("AZURITE_BLOB_STORAGE_URL", "http://127.0.0.1:4711/");
        assert_eq!(
            endpoint(&[("AZURE_STORAGE_USE_EMULATOR", "true"), elsewhere]),
            "http://127.0.0.1:4711/devstoreaccount1"
        );
    }
}
