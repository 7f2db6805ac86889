//! Credentials of clouds' sources: how they are found, that they are renewed while a model is read,
//! and what is said when there are none. The clouds' services are those of the fault origin.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use loader::conformance::{self, noise};
use loader::remote::http::{Client, HttpConfig};
use loader::remote::{Env, open};
use loader::{Landing, ReadOptions, Source, SourceError};
use testkit::origin::{Access, Origin, Shape};

const BYTES: usize = 2_000_000;

/// An origin that serves `path/weights` to whoever has credentials that it handed out.
fn origin(shape: Shape, path: &str, access: Access) -> Origin {
    let access = Access { required: true, only_issued: true, ..access };
    let name = format!("{path}/weights");
    Origin::builder().shape(shape).access(access).object(&name, noise(1, BYTES)).start().unwrap()
}

fn source(url: &str, env: &[(&str, &str)]) -> Arc<dyn Source> {
    let client = Client::new(&HttpConfig::default()).unwrap();
    open(&url.parse().unwrap(), &Env::from_pairs(env.iter().copied()), &client).unwrap()
}

/// Reads the object in `pieces` reads, one after the other.
async fn read_in(source: &dyn Source, pieces: usize) {
    let object = source.stat("weights").await.unwrap();
    let expected = noise(1, BYTES);
    for piece in 0..pieces {
        let range = (piece * BYTES / pieces)..((piece + 1) * BYTES / pieces);
        let mut landing = Landing::small(range.start as u64..range.end as u64);
        source.read(&object, &mut landing, ReadOptions::default()).await.unwrap();
        assert!(landing.into_bytes().unwrap() == expected[range]);
    }
}

fn asked(origin: &Origin, kind: &str) -> u64 {
    origin.account().metadata.get(kind).copied().unwrap_or(0)
}

/// Ends credentials after this many requests, though they say they live an hour.
fn ending_after(requests: u64) -> Access {
    Access { expires_after_requests: Some(requests), ..Access::default() }
}

#[tokio::test]
async fn a_machines_role_is_renewed_when_it_ends_during_a_load() {
    let origin = origin(Shape::S3, "bucket/model", ending_after(4));
    let endpoint = origin.url();
    let env = [("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)];
    read_in(&*source("s3://bucket/model", &env), 11).await;
    assert_eq!(asked(&origin, "imds_credentials"), 3, "12 requests, 4 for each");
}

#[tokio::test]
async fn credentials_that_say_when_they_end_are_renewed_before() {
    // Less than the five minutes before the end at which the library asks again.
    let access = Access { expires_after: Some(Duration::from_secs(60)), ..Access::default() };
    let origin = origin(Shape::S3, "bucket/model", access);
    let endpoint = origin.url();
    let env = [("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)];
    let source = source("s3://bucket/model", &env);
    let since = Instant::now();
    while asked(&origin, "imds_credentials") < 3 {
        assert!(since.elapsed() < Duration::from_secs(30), "credentials about to end are kept");
        read_in(&*source, 2).await;
    }
    assert!(origin.log().iter().all(|request| request.status < 400), "nothing was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_renew_ended_credentials_once() {
    let origin = origin(Shape::S3, "bucket/model", ending_after(20));
    let endpoint = origin.url();
    let env = [("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)];
    let source = source("s3://bucket/model", &env);
    let object = source.stat("weights").await.unwrap();
    read_in(&*source, 18).await;
    let reads = (0..16).map(|piece| {
        let (source, object) = (&source, &object);
        async move {
            let mut landing = Landing::small(piece * 1000..piece * 1000 + 1000);
            source.read(object, &mut landing, ReadOptions::default()).await
        }
    });
    try_join_all(reads).await.unwrap();
    assert_eq!(asked(&origin, "imds_credentials"), 2);
}

#[tokio::test]
async fn a_web_identity_is_exchanged_and_renewed() {
    let origin = origin(Shape::S3, "bucket/model", ending_after(3));
    let endpoint = origin.url();
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a.web.token").unwrap();
    let env = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ENDPOINT_URL_STS", &endpoint),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/reader"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.path().to_str().unwrap()),
    ];
    read_in(&*source("s3://bucket/model", &env), 5).await;
    assert_eq!(asked(&origin, "sts_web_identity"), 2);
}

#[tokio::test]
async fn a_pods_identity_is_got_from_its_endpoint() {
    let origin = origin(Shape::S3, "bucket/model", ending_after(3));
    let (endpoint, credentials) = (origin.url(), format!("{}/v2/credentials", origin.url()));
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a.pod.token").unwrap();
    let env = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &credentials),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.path().to_str().unwrap()),
    ];
    read_in(&*source("s3://bucket/model", &env), 5).await;
    assert_eq!(asked(&origin, "container_credentials"), 2);
}

#[tokio::test]
async fn azures_managed_identity_is_renewed() {
    let origin = origin(Shape::Azure, "acc/models/tiny", ending_after(3));
    let endpoint = format!("{}/acc", origin.url());
    let identity = format!("{}/metadata/identity/oauth2/token", origin.url());
    let env = [("AZURE_STORAGE_ENDPOINT", endpoint.as_str()), ("IDENTITY_ENDPOINT", &identity)];
    read_in(&*source("az://acc/models/tiny", &env), 5).await;
    assert_eq!(asked(&origin, "azure_imds"), 2);
}

#[tokio::test]
async fn azures_workload_identity_is_exchanged_and_renewed() {
    let origin = origin(Shape::Azure, "acc/models/tiny", ending_after(3));
    let (authority, endpoint) = (origin.url(), format!("{}/acc", origin.url()));
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a.pod.token").unwrap();
    let env = [
        ("AZURE_STORAGE_ENDPOINT", endpoint.as_str()),
        ("AZURE_AUTHORITY_HOST", &authority),
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_FEDERATED_TOKEN_FILE", token.path().to_str().unwrap()),
    ];
    read_in(&*source("az://acc/models/tiny", &env), 5).await;
    assert_eq!(asked(&origin, "azure_token"), 2);
}

#[tokio::test]
async fn a_refusal_names_the_variables_and_no_secret() {
    let s3 = origin(Shape::S3, "bucket/model", Access::default());
    let azure = origin(Shape::Azure, "acc/models/tiny", Access::default());
    let (s3_url, azure_url) = (s3.url(), format!("{}/acc", azure.url()));
    let keys = [
        ("AWS_ENDPOINT_URL", s3_url.as_str()),
        ("AWS_ACCESS_KEY_ID", "hush-key-id"),
        ("AWS_SECRET_ACCESS_KEY", "hush-key"),
        ("AWS_SESSION_TOKEN", "hush-token"),
    ];
    let sas = [("AZURE_STORAGE_ENDPOINT", azure_url.as_str()), ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=hush")];
    for (source, variable) in [
        (source("s3://bucket/model", &keys), "AWS_ACCESS_KEY_ID"),
        (source("az://acc/models/tiny", &sas), "AZURE_STORAGE_SAS_TOKEN"),
    ] {
        let error = source.stat("weights").await.unwrap_err();
        assert!(matches!(&error, SourceError::Denied { .. }), "{error:?}");
        let text = format!("{error} {error:?} {source:?}");
        assert!(text.contains(variable) && !text.contains("hush"), "{text}");
    }
}

#[tokio::test]
async fn where_there_are_no_credentials_the_error_says_which_to_set() {
    let nobody = "http://127.0.0.1:9";
    let metadata = format!("{nobody}/metadata/identity/oauth2/token");
    let s3 = source("s3://bucket/model", &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", nobody)]);
    let azure = source("az://acc/models/tiny", &[("IDENTITY_ENDPOINT", &metadata)]);
    for (source, variable) in [(s3, "AWS_ACCESS_KEY_ID"), (azure, "AZURE_STORAGE_KEY")] {
        let error = source.stat("weights").await.unwrap_err().to_string();
        assert!(error.contains(variable) && error.contains("127.0.0.1:9"), "{error}");
    }
}

#[tokio::test]
async fn credentials_are_not_asked_for_over_plain_http_beyond_this_machine() {
    let token = tempfile::NamedTempFile::new().unwrap();
    let env = [
        ("AWS_ENDPOINT_URL_STS", "http://sts.example"),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/reader"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.path().to_str().unwrap()),
    ];
    let error = source("s3://bucket/model", &env).stat("weights").await.unwrap_err().to_string();
    assert!(error.contains("sts.example") && error.contains("https"), "{error}");
}

/// There is no emulator of Google Cloud Storage to be had here: its XML interface is that of a web
/// server, and the origin is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_cloud_storage_conforms_against_the_origin() {
    let objects = conformance::fixture();
    let builder = Origin::builder().access(Access { token: Some("a-token".to_owned()), ..Access::default() });
    let put = |builder: testkit::origin::Builder, (name, bytes): &(String, Vec<u8>)| {
        builder.object(&format!("bucket/model/{name}"), bytes.clone())
    };
    let origin = objects.iter().fold(builder, put).start().unwrap();
    let host = origin.url();
    let env = [("STORAGE_EMULATOR_HOST", host.as_str()), ("GOOGLE_BEARER_TOKEN", "a-token")];
    let source = source("gs://bucket/model", &env);
    let replace = async |name: &str, bytes: &[u8]| origin.replace(&format!("bucket/model/{name}"), bytes.to_vec());
    conformance::check(source, &objects, replace).await.unwrap();
}
