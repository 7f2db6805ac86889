//! The loader's sources against the fault origin: the conformance suite, and what they make of a
//! server that misbehaves.

use std::sync::Arc;

use loader::conformance;
use loader::remote::http::{Client, HttpConfig};
use loader::remote::{Env, HttpsSource, HubSource};
use loader::{Landing, Object, ReadOptions, Source, SourceError};
use testkit::origin::{Access, Fault, Faults, Origin, Script, Shape};

/// The repository whose files the hub has.
const REPOSITORY: &str = "org/tiny";

fn client(config: HttpConfig) -> Client {
    Client::new(&config).expect("a client")
}

fn https(origin: &Origin, config: HttpConfig) -> HttpsSource {
    HttpsSource::new(origin.url().parse().expect("a URL"), client(config)).expect("a source")
}

fn hub(origin: &Origin, token: Option<&str>) -> HubSource {
    let url = origin.url();
    let token = token.map(|token| ("HF_TOKEN", token));
    let env = Env::from_pairs([("HF_ENDPOINT", url.as_str())].into_iter().chain(token));
    HubSource::new(REPOSITORY, "main", &env, client(HttpConfig::default())).expect("a source")
}

/// The suite's objects, under `prefix`.
fn stocked(shape: Shape, prefix: &str) -> testkit::origin::Builder {
    let builder = Origin::builder().shape(shape);
    let objects = conformance::fixture().into_iter();
    objects.fold(builder, |builder, (name, bytes)| builder.object(&format!("{prefix}{name}"), bytes))
}

async fn read(source: &dyn Source, object: &Object, landing: &mut Landing) -> Result<(), SourceError> {
    source.read(object, landing, ReadOptions::default()).await
}

#[tokio::test]
async fn a_web_server_is_a_source() {
    let origin = stocked(Shape::Http, "").start().expect("an origin");
    let source = Arc::new(https(&origin, HttpConfig::default()));
    let replace = async |name: &str, bytes: &[u8]| origin.replace(name, bytes.to_vec());
    conformance::check(source, &conformance::fixture(), replace).await.expect("conforms");
}

#[tokio::test]
async fn a_web_server_behind_tls_is_a_source_once_its_authority_is_trusted() {
    let origin = stocked(Shape::Http, "").tls().start().expect("an origin");
    let stranger = https(&origin, HttpConfig::default()).stat("config.json").await.expect_err("is not trusted");
    assert!(matches!(stranger, SourceError::Config { .. }) && stranger.to_string().contains("ca_file"), "{stranger}");
    let authority = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(authority.path(), origin.certificate_pem().expect("speaks TLS")).expect("can be written");
    let config = HttpConfig { ca_file: Some(authority.path().to_owned()), ..HttpConfig::default() };
    let source = Arc::new(https(&origin, config));
    let replace = async |name: &str, bytes: &[u8]| origin.replace(name, bytes.to_vec());
    conformance::check(source, &conformance::fixture(), replace).await.expect("conforms");
}

#[tokio::test]
async fn a_hub_is_a_source() {
    let origin = stocked(Shape::Hub, "org/tiny/").start().expect("an origin");
    // A commit never changes, so there is nothing to replace.
    conformance::check(Arc::new(hub(&origin, None)), &conformance::fixture(), async |_: &str, _: &[u8]| {})
        .await
        .expect("conforms");
}

#[tokio::test]
async fn a_server_that_misbehaves_is_found_out() {
    let origin = Origin::builder().object("a", conformance::noise(1, 1 << 20)).start().expect("an origin");
    let source = https(&origin, HttpConfig { idle_timeout_ms: 200, ..HttpConfig::default() });
    let object = source.stat("a").await.expect("is there");
    let faults = [
        (Fault::Status { status: 503, retry_after_seconds: Some(3) }, "Throttled"),
        (Fault::Status { status: 500, retry_after_seconds: None }, "Transient"),
        (Fault::Status { status: 403, retry_after_seconds: None }, "Denied"),
        (Fault::Close, "Transient"),
        (Fault::Stall { after: 1000, milliseconds: None }, "Transient"),
        (Fault::Reset { after: 1000 }, "Transient"),
        (Fault::Short { after: 1000 }, "Transient"),
        (Fault::WrongContentRange, "Protocol"),
        (Fault::WholeBody, "Protocol"),
        (Fault::Missing, "NotFound"),
        (Fault::Replace { seed: 5 }, "Changed"),
    ];
    for (fault, wanted) in faults {
        origin.set_faults(Faults { scripts: vec![Script::always("a", fault.clone())], ..Faults::default() });
        let error = read(&source, &object, &mut Landing::small(1..900_000)).await.expect_err(fault.kind());
        let kind = format!("{error:?}");
        assert!(kind.starts_with(wanted), "{fault:?} is told as {kind}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_taken_up_in_the_middle() {
    let bytes = conformance::noise(1, 6 << 20);
    let origin = Origin::builder().object("a", bytes.clone()).start().expect("an origin");
    let source = https(&origin, HttpConfig::default());
    let object = source.stat("a").await.expect("is there");
    let short = Script::always("a", Fault::Short { after: 1_000_003 });
    origin.set_faults(Faults { scripts: vec![short], ..Faults::default() });
    let mut landing = Landing::small(0..object.bytes);
    let mut reads = 1;
    while read(&source, &object, &mut landing).await.is_err() {
        reads += 1;
    }
    assert_eq!(reads, 7);
    assert!(landing.into_bytes().expect("its own buffer") == bytes);
}

#[tokio::test]
async fn a_large_files_place_is_asked_once_and_again_when_it_is_refused() {
    let origin = stocked(Shape::Hub, "org/tiny/").start().expect("an origin");
    let name = "model-00001-of-00001.safetensors";
    let object = hub(&origin, None).stat(name).await.expect("is there");
    assert!(object.checksum.is_some(), "a large file's SHA-256 is known");
    let redirections = || origin.account().metadata.get("hub_redirect").copied().unwrap_or(0);
    origin.reset_account();
    let source = hub(&origin, None);
    let reads = (0..8).map(|_| async { read(&source, &object, &mut Landing::small(5..9)).await });
    futures_util::future::try_join_all(reads).await.expect("all land");
    assert_eq!(redirections(), 1);
    origin.reset_account();
    let expired = Fault::Status { status: 403, retry_after_seconds: None };
    let script = Script::nth(&format!("{REPOSITORY}/{name}"), 1, expired.clone());
    origin.set_faults(Faults { scripts: vec![script], ..Faults::default() });
    read(&source, &object, &mut Landing::small(5..9)).await.expect("lands from a new place");
    assert_eq!(redirections(), 1);
    let script = Script::always(&format!("{REPOSITORY}/{name}"), expired);
    origin.set_faults(Faults { scripts: vec![script], ..Faults::default() });
    let error = read(&source, &object, &mut Landing::small(5..9)).await.expect_err("refused for good");
    assert!(matches!(error, SourceError::Denied { .. }), "{error}");
}

#[tokio::test]
async fn a_repository_that_moved_on_is_told_as_changed() {
    let origin = stocked(Shape::Hub, "org/tiny/").start().expect("an origin");
    let source = hub(&origin, None);
    let object = source.stat("config.json").await.expect("is there");
    read(&source, &object, &mut Landing::small(0..4)).await.expect("lands");
    origin.replace("org/tiny/config.json", conformance::noise(9, 700));
    let error = read(&source, &object, &mut Landing::small(0..4)).await.expect_err("other bytes");
    assert!(matches!(error, SourceError::Changed { .. }), "{error}");
    assert!(matches!(source.stat("config.json").await, Err(SourceError::Changed { .. })));
    let anew = hub(&origin, None);
    let error = read(&anew, &object, &mut Landing::small(0..4)).await.expect_err("another commit");
    assert!(matches!(error, SourceError::Changed { .. }), "{error}");
}

#[tokio::test]
async fn a_gated_repository_wants_its_token_and_says_so() {
    let access = Access { token: Some("hf_right".to_owned()), ..Access::default() };
    let origin = stocked(Shape::Hub, "org/tiny/").access(access).start().expect("an origin");
    for token in [None, Some("hf_wrong")] {
        let error = hub(&origin, token).stat("config.json").await.expect_err("refused");
        assert!(matches!(error, SourceError::Denied { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("HF_TOKEN") && text.contains("gated") && !text.contains("hf_wrong"), "{text}");
    }
    let source = hub(&origin, Some("hf_right"));
    let object = source.stat("config.json").await.expect("allowed");
    read(&source, &object, &mut Landing::small(0..700)).await.expect("lands");
}

#[tokio::test]
async fn a_repository_that_is_not_there_is_named_with_what_to_do() {
    let origin = Origin::builder().shape(Shape::Hub).start().expect("an origin");
    let error = hub(&origin, None).stat("config.json").await.expect_err("is not there").to_string();
    assert!(error.contains("hf://org/tiny@main") && error.contains("no such repository"), "{error}");
}
