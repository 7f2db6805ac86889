//! Writing to the test servers, as another tool would.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use loader::remote::http::{Client, HttpConfig};
use object_store::aws::AmazonS3Builder;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpService,
};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt};

/// The bucket or container of every test server.
pub(crate) const BUCKET: &str = "forebay-test";
/// The credentials that `evals/storage/run` gives the S3 server.
pub(crate) const KEY_ID: &str = "forebay-test-key";
/// See [`KEY_ID`].
pub(crate) const SECRET: &str = "forebay-test-secret";
/// Azurite's account, published by Microsoft like its key.
pub(crate) const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
/// See [`EMULATOR_ACCOUNT`].
pub(crate) const EMULATOR_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A writable store.
pub(crate) enum Store {
    S3(Arc<dyn ObjectStore>, String),
    Azure(Box<MicrosoftAzure>, String),
    /// A folder, and how often it was written to.
    Folder(PathBuf, AtomicU64),
}

impl Store {
    pub(crate) fn s3(endpoint: &str, prefix: &str) -> Self {
        let builder = AmazonS3Builder::new().with_bucket_name(BUCKET).with_endpoint(endpoint).with_allow_http(true);
        let builder = builder.with_access_key_id(KEY_ID).with_secret_access_key(SECRET);
        let store = builder.with_http_connector(Plain::new()).build().unwrap();
        Self::S3(Arc::new(store), prefix.to_owned())
    }

    /// Makes the container, too.
    pub(crate) async fn azure(endpoint: &str, prefix: &str) -> Self {
        let endpoint = format!("{endpoint}/{EMULATOR_ACCOUNT}");
        make_container(&endpoint).await;
        let builder = MicrosoftAzureBuilder::new().with_account(EMULATOR_ACCOUNT).with_access_key(EMULATOR_KEY);
        let builder = builder.with_container_name(BUCKET).with_endpoint(endpoint).with_allow_http(true);
        let store = builder.with_http_connector(Plain::new()).build().unwrap();
        Self::Azure(Box::new(store), prefix.to_owned())
    }

    pub(crate) fn folder(root: &str, prefix: &str) -> Self {
        Self::Folder(PathBuf::from(root).join(prefix), AtomicU64::new(0))
    }

    pub(crate) async fn put(&self, name: &str, bytes: &[u8]) {
        let payload = Bytes::copy_from_slice(bytes).into();
        match self {
            Self::S3(store, prefix) => drop(store.put(&path(prefix, name), payload).await.unwrap()),
            Self::Azure(store, prefix) => drop(store.put(&path(prefix, name), payload).await.unwrap()),
            Self::Folder(folder, writes) => {
                let path = folder.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                // As a publisher does: never a file that is half of each. Its date is another each
                // time, as nginx makes tags of whole seconds.
                let fresh = folder.join("fresh");
                std::fs::write(&fresh, bytes).unwrap();
                let age = Duration::from_secs(100_000 - writes.fetch_add(1, Ordering::Relaxed));
                std::fs::File::options()
                    .append(true)
                    .open(&fresh)
                    .unwrap()
                    .set_modified(SystemTime::now() - age)
                    .unwrap();
                std::fs::rename(fresh, path).unwrap();
            }
        }
    }

    /// A signature that allows reading one blob for a minute.
    pub(crate) async fn azure_sas(&self, name: &str) -> String {
        let Self::Azure(store, prefix) = self else { panic!("only Azure has them") };
        let url = store.signed_url(Method::GET, &path(prefix, name), Duration::from_secs(60)).await.unwrap();
        url.query().unwrap().to_owned()
    }
}

fn path(prefix: &str, name: &str) -> Path {
    Path::parse(format!("{prefix}/{name}")).unwrap()
}

/// `PUT CONTAINER?restype=container`; that it is there already is well.
async fn make_container(endpoint: &str) {
    let uri = format!("{endpoint}/{BUCKET}?restype=container");
    let mut request = Request::builder().method(Method::PUT).uri(uri).body(HttpRequestBody::empty()).unwrap();
    let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(EMULATOR_KEY).unwrap());
    AzureAuthorizer::new(&credential, EMULATOR_ACCOUNT).try_authorize(&mut request).unwrap();
    let client = Client::new(&HttpConfig::default()).unwrap();
    let answer = client.send(request.map(|_| Bytes::new()), 1 << 20).await.unwrap();
    assert!(matches!(answer.status().as_u16(), 201 | 409), "{answer:?}");
}

/// Sends what the library asks for, as it is.
#[derive(Debug, Clone)]
struct Plain {
    client: Client,
}

impl Plain {
    fn new() -> Self {
        Self { client: Client::new(&HttpConfig::default()).unwrap() }
    }
}

impl HttpConnector for Plain {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Plain {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let answer = self.client.send(Request::from_parts(parts, body), 1 << 20).await;
        answer.map(|answer| answer.map(Into::into)).map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))
    }
}
