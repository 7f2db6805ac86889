//! Each shape has its store's manners, and credentials are handed out, asked for and outlived.

use super::super::{Access, Fault, Faults, Origin, Script, Shape};
use super::client::{Client, get};
use serde_json::Value;
use std::time::Duration;

fn shaped(shape: Shape, access: Access) -> Origin {
    let scripts = vec![Script::nth("a/b/x", 2, Fault::Status { status: 503, retry_after_seconds: None })];
    let faults = Faults { scripts, ..Faults::default() };
    let builder = Origin::builder().seed(1).shape(shape).access(access).faults(faults);
    builder.object("a/b/x", vec![5; 50]).start().expect("an origin")
}

#[test]
fn s3_tells_its_errors_in_xml() {
    let origin = shaped(Shape::S3, Access::default());
    let whole = get(&origin, "/a/b/x", &[]);
    assert_eq!(whole.status, 200);
    assert_eq!(whole.headers.iter().filter(|(name, _)| name == "x-amz-request-id").count(), 1);
    for (path, headers, status, code) in [
        ("/a/b/x", &[][..], 503, "SlowDown"),
        ("/a/b/none", &[], 404, "NoSuchKey"),
        ("/a/b/x", &["If-Match: \"o\""], 412, "PreconditionFailed"),
        ("/a/b/x", &["Range: bytes=50-"], 416, "InvalidRange"),
    ] {
        let answer = get(&origin, path, headers);
        assert_eq!(answer.status, status, "{code}");
        assert!(answer.text().contains(&format!("<Error><Code>{code}</Code>")), "{}", answer.text());
        let id = answer.header("x-amz-request-id").expect("an id");
        assert!(answer.text().contains(id), "body and head name the same request");
        assert_eq!(answer.headers.iter().filter(|(name, _)| name == "x-amz-request-id").count(), 1);
    }
}

#[test]
fn azure_tells_its_errors_in_a_header_and_reads_its_own_range() {
    let origin = shaped(Shape::Azure, Access::default());
    let part = get(&origin, "/a/b/x", &["x-ms-range: bytes=0-9", "Range: bytes=0-0", "x-ms-version: 2025-01-05"]);
    assert_eq!((part.status, part.body.len()), (206, 10));
    assert_eq!(part.header("x-ms-version"), Some("2025-01-05"));
    assert_eq!(part.header("x-ms-blob-type"), Some("BlockBlob"));
    assert_eq!(part.header("x-ms-request-id").map(str::len), Some(36));
    for (path, headers, status, code) in [
        ("/a/b/x", &[][..], 503, "ServerBusy"),
        ("/a/b/none", &[], 404, "BlobNotFound"),
        ("/a/b/x", &["If-Match: \"o\""], 412, "ConditionNotMet"),
        ("/a/b/x", &["Range: bytes=50-"], 416, "InvalidRange"),
    ] {
        let answer = get(&origin, path, headers);
        assert_eq!((answer.status, answer.header("x-ms-error-code")), (status, Some(code)));
        assert!(answer.text().contains(code));
    }
    let head = Client::new(&origin).ask("HEAD", "/a/b/none", &[], b"");
    assert_eq!((head.header("x-ms-error-code"), head.body.len()), (Some("BlobNotFound"), 0));
}

#[test]
fn signatures_are_asked_for_where_told() {
    let access = || Access { required: true, ..Access::default() };
    let s3 = shaped(Shape::S3, access());
    assert_eq!(get(&s3, "/a/b/x", &[]).status, 403);
    assert!(get(&s3, "/a/b/none", &[]).text().contains("AccessDenied"));
    let signed = "Authorization: AWS4-HMAC-SHA256 Credential=AKIA/20261121/r/s3/aws4_request, Signature=0";
    assert_eq!(get(&s3, "/a/b/none", &[signed]).status, 404);
    assert_eq!(get(&s3, "/a/b/none?X-Amz-Credential=a&X-Amz-Signature=0", &[]).status, 404);
    let azure = shaped(Shape::Azure, access());
    assert_eq!(get(&azure, "/a/b/x", &[]).header("x-ms-error-code"), Some("AuthenticationFailed"));
    for signed in ["Authorization: SharedKey a:b", "Authorization: Bearer x"] {
        assert_eq!(get(&azure, "/a/b/none", &[signed]).status, 404);
    }
    assert_eq!(get(&azure, "/a/b/none?sv=1&sig=x", &[]).status, 404);
}

/// A hub with one repository of two files.
fn hub(access: Access) -> Origin {
    let builder = Origin::builder().seed(1).shape(Shape::Hub).access(access);
    let builder = builder.generated("org/name/model.safetensors", 1000, 4);
    builder.object("org/name/config.json", &b"{}"[..]).start().expect("an origin")
}

#[test]
fn a_hub_lists_a_repository_and_redirects_its_weights() {
    let origin = hub(Access::default());
    let model = get(&origin, "/api/models/org/name/revision/main", &[]);
    let model: Value = serde_json::from_slice(&model.body).expect("JSON");
    assert_eq!(model["siblings"][1]["rfilename"], "model.safetensors");
    let sha = model["sha"].as_str().expect("a commit");
    assert_eq!(sha.len(), 40);
    let small = get(&origin, "/org/name/resolve/main/config.json", &[]);
    assert_eq!((small.status, small.body.as_slice(), small.header("x-repo-commit")), (200, &b"{}"[..], Some(sha)));
    let large = get(&origin, "/org/name/resolve/main/model.safetensors", &["Range: bytes=0-9"]);
    assert_eq!((large.status, large.header("x-linked-size")), (302, Some("1000")));
    assert_eq!(large.header("x-linked-etag").map(str::len), Some(66));
    let target = large.header("location").expect("a place").to_owned();
    let part = get(&origin, &target, &["Range: bytes=0-9"]);
    assert_eq!((part.status, part.body.len()), (206, 10));
    let missing = get(&origin, "/org/name/resolve/main/none.json", &[]);
    assert_eq!((missing.status, missing.header("x-error-code")), (404, Some("EntryNotFound")));
    assert_eq!(get(&origin, "/api/models/org/other", &[]).header("x-error-code"), Some("RepoNotFound"));
}

#[test]
fn a_gated_repository_wants_its_token_but_its_storage_does_not() {
    let origin = hub(Access { token: Some("hf_secret".into()), ..Access::default() });
    let path = "/org/name/resolve/main/model.safetensors";
    let gated = get(&origin, path, &[]);
    assert_eq!((gated.status, gated.header("x-error-code")), (401, Some("GatedRepo")));
    assert_eq!(get(&origin, path, &["Authorization: Bearer hf_other"]).status, 401);
    let found = get(&origin, path, &["Authorization: Bearer hf_secret"]);
    assert_eq!(found.status, 302);
    assert_eq!(get(&origin, found.header("location").expect("a place"), &[]).status, 200);
}

/// The credentials of an AWS machine, as its metadata service gives them.
fn machine_credentials(origin: &Origin) -> Value {
    let mut client = Client::new(origin);
    assert_eq!(client.get("/latest/meta-data/iam/security-credentials/", &[]).status, 401);
    let lives = "X-aws-ec2-metadata-token-ttl-seconds: 600";
    let token = client.ask("PUT", "/latest/api/token", &[lives], b"").text();
    let header = format!("X-aws-ec2-metadata-token: {token}");
    let role = client.get("/latest/meta-data/iam/security-credentials/", &[&header]).text();
    let path = format!("/latest/meta-data/iam/security-credentials/{role}");
    serde_json::from_slice(&client.get(&path, &[&header]).body).expect("JSON")
}

fn signed_by(credentials: &Value) -> String {
    let key = credentials["AccessKeyId"].as_str().expect("a key");
    format!("Authorization: AWS4-HMAC-SHA256 Credential={key}/20261121/r/s3/aws4_request, Signature=0")
}

#[test]
fn handed_out_credentials_expire_in_the_middle_and_new_ones_go_on() {
    let access = Access { required: true, only_issued: true, expires_after_requests: Some(2), ..Access::default() };
    let origin = shaped(Shape::S3, access);
    let first = signed_by(&machine_credentials(&origin));
    let path = "/a/b/none";
    let statuses = [0; 3].map(|_| get(&origin, path, &[&first]).status);
    assert_eq!(statuses, [404, 404, 400]);
    assert!(get(&origin, path, &[&first]).text().contains("<Code>ExpiredToken</Code>"));
    assert_eq!(get(&origin, path, &[&signed_by(&machine_credentials(&origin))]).status, 404);
    let foreign = "Authorization: AWS4-HMAC-SHA256 Credential=AKIA/20261121/r/s3/aws4_request, Signature=0";
    assert_eq!(get(&origin, path, &[foreign]).status, 403, "only what was handed out is accepted");
    assert_eq!(origin.account().metadata["imds_credentials"], 2);
}

#[test]
fn azure_tokens_expire_by_time_too() {
    let access = Access { required: true, expires_after: Some(Duration::ZERO), ..Access::default() };
    let origin = shaped(Shape::Azure, access);
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F";
    assert_eq!(get(&origin, path, &[]).status, 400, "the Metadata header is missing");
    let token: Value = serde_json::from_slice(&get(&origin, path, &["Metadata: true"]).body).expect("JSON");
    assert_eq!(token["resource"], "https://storage.azure.com/");
    let bearer = format!("Authorization: Bearer {}", token["access_token"].as_str().expect("a token"));
    let expired = get(&origin, "/a/b/x", &[&bearer]);
    assert_eq!((expired.status, expired.header("x-ms-error-code")), (401, Some("InvalidAuthenticationInfo")));
    let body = b"client_id=c&client_assertion=j&grant_type=client_credentials";
    let token = Client::new(&origin).ask("POST", "/tenant/oauth2/v2.0/token", &[], body);
    assert!(token.text().contains("\"expires_in\":0"), "{}", token.text());
}

#[test]
fn sts_trades_a_web_identity_for_credentials() {
    let origin = shaped(Shape::S3, Access::default());
    let asked = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=r&RoleSessionName=s&WebIdentityToken=j";
    let by_form = Client::new(&origin).ask("POST", "/", &[], asked.as_bytes());
    assert!(by_form.text().contains("<AccessKeyId>ASIAFOREBAY000001</AccessKeyId>"), "{}", by_form.text());
    let by_query = get(&origin, &format!("/?{asked}"), &[]);
    assert!(by_query.text().contains("<SessionToken>session-of-FOREBAY000002</SessionToken>"));
    assert_eq!(get(&origin, "/?Action=AssumeRoleWithWebIdentity", &[]).status, 400);
}

#[test]
fn google_tokens_need_googles_flavour() {
    let origin = shaped(Shape::Http, Access::default());
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    assert_eq!(get(&origin, path, &[]).status, 403);
    assert!(get(&origin, path, &["Metadata-Flavor: Google"]).text().contains("token-of-FOREBAY000001"));
}
