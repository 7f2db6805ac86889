//! `s3://BUCKET/PREFIX`: Amazon S3 and what speaks its protocol.
//!
//! Credentials are looked for where the AWS tools do: the variables, a web identity (IRSA), the
//! shared files' profile, the container's endpoint (ECS, EKS pod identity), the instance's metadata.

mod profile;

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use object_store::ClientOptions;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use wire::digest::Sha256;
use wire::evidence::StoreChecksum;

use self::profile::Profile;
use super::Env;
use super::http::Client;
use super::signed::{Dialect, Folder, SignedSource, credentials_retry, redacted};
use crate::source::SourceError;

const DIALECT: Dialect = Dialect {
    fix: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN if they are temporary), \
          or AWS_PROFILE, or give the machine a role that allows s3:GetObject; \
          AWS_SKIP_SIGNATURE=true for a public bucket",
    version_field: "x-amz-version-id",
    region_field: Some("x-amz-bucket-region"),
    checksum,
};

/// Opens a bucket's folder.
///
/// # Errors
/// [`SourceError::Config`]: the environment is contradictory or a profile cannot be read.
pub(super) fn open(
    bucket: &str,
    prefix: &str,
    url: String,
    env: &Env,
    client: &Client,
) -> Result<SignedSource, SourceError> {
    let endpoint = env.get("AWS_ENDPOINT_URL_S3").or_else(|| env.get("AWS_ENDPOINT_URL"));
    let account = match endpoint.map(host_of) {
        Some(host) => format!("{host}/{bucket}"),
        None => format!("s3/{bucket}"),
    };
    // The AWS tools' own bundle is for AWS: other stores go by the system's authorities.
    let client = &env.path("AWS_CA_BUNDLE").map_or_else(|| Ok(client.clone()), |path| client.trusting(&path))?;
    // Of another store that speaks the protocol, a region is a word to sign with.
    let region = match endpoint {
        Some(_) => None,
        None => builder(env).ok().and_then(|builder| builder.get_config_value(&AmazonS3ConfigKey::Region)),
    };
    let folder = Folder { url, account, region, prefix: prefix.to_owned() };
    let (bucket, env) = (bucket.to_owned(), env.clone());
    let open = move |wire| {
        let store = builder(&env)?.with_bucket_name(&bucket).with_http_connector(wire).build();
        store.map(|store| Arc::new(store) as _).map_err(|error| redacted(&error.to_string()))
    };
    SignedSource::new(folder, DIALECT, client, Box::new(open))
}

fn builder(env: &Env) -> Result<AmazonS3Builder, String> {
    // Asks for the checksum that was stored with the object; it has to be signed like all of S3's own fields.
    let checksum_mode = (HeaderName::from_static("x-amz-checksum-mode"), HeaderValue::from_static("ENABLED"));
    let options = ClientOptions::new().with_default_headers(HeaderMap::from_iter([checksum_mode]));
    let mut builder = AmazonS3Builder::new().with_client_options(options).with_retry(credentials_retry());
    for (name, value) in env.iter().filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty()) {
        match name.to_ascii_lowercase().parse() {
            // The client's own options are ours to choose.
            Ok(AmazonS3ConfigKey::Client(_)) | Err(_) => {}
            Ok(key) => builder = builder.with_config(key, value),
        }
    }
    if let Some(endpoint) = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
        builder = builder.with_metadata_endpoint(endpoint.trim_end_matches('/'));
    }
    if env.is_true("AWS_NO_SIGN_REQUEST") {
        builder = builder.with_skip_signature(true);
    }
    with_profile(builder, env)
}

/// Adds what the environment leaves open and the shared files say.
fn with_profile(mut builder: AmazonS3Builder, env: &Env) -> Result<AmazonS3Builder, String> {
    let Some(profile) = Profile::read(env)? else { return unprofiled(builder, env) };
    if let (Some(region), None) = (&profile.region, builder.get_config_value(&AmazonS3ConfigKey::Region)) {
        builder = builder.with_region(region);
    }
    let has_endpoint = env.get("AWS_ENDPOINT_URL_S3").or_else(|| env.get("AWS_ENDPOINT_URL")).is_some();
    if let (Some(endpoint), false) = (&profile.endpoint_url, has_endpoint) {
        builder = builder.with_endpoint(endpoint);
    }
    let has_web_identity = env.get("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() && env.get("AWS_ROLE_ARN").is_some();
    if env.get("AWS_ACCESS_KEY_ID").is_some() || has_web_identity || skips_signature(env) {
        return Ok(builder);
    }
    match profile.credentials()? {
        Some(profile::Credentials::Keys { key_id, secret, token }) => {
            builder = builder.with_access_key_id(key_id).with_secret_access_key(secret);
            Ok(token.into_iter().fold(builder, |builder, token| builder.with_token(token)))
        }
        Some(profile::Credentials::WebIdentity { token_file, role_arn }) => Ok(builder
            .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token_file)
            .with_config(AmazonS3ConfigKey::RoleArn, role_arn)),
        None => unprofiled(builder, env),
    }
}

/// Refuses to ask the instance's metadata when the user has forbidden it and nothing else is left.
fn unprofiled(builder: AmazonS3Builder, env: &Env) -> Result<AmazonS3Builder, String> {
    let sources = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    let is_elsewhere = sources.iter().any(|name| env.get(name).is_some()) || skips_signature(env);
    if env.is_true("AWS_EC2_METADATA_DISABLED") && !is_elsewhere {
        return Err(format!("no credentials, and AWS_EC2_METADATA_DISABLED is set: {}", DIALECT.fix));
    }
    Ok(builder)
}

fn skips_signature(env: &Env) -> bool {
    env.is_true("AWS_SKIP_SIGNATURE") || env.is_true("AWS_NO_SIGN_REQUEST")
}

fn host_of(endpoint: &str) -> String {
    url::Url::parse(endpoint)
        .ok()
        .and_then(|url| {
            Some(format!("{}{}", url.host_str()?, url.port().map(|port| format!(":{port}")).unwrap_or_default()))
        })
        .unwrap_or_else(|| "s3".to_owned())
}

/// SHA-256 of the whole object. One of parts is none: S3 says `COMPOSITE`, or appends `-COUNT`.
fn checksum(headers: &HeaderMap) -> Option<StoreChecksum> {
    let of = |name: &str| headers.get(name)?.to_str().ok();
    if of("x-amz-checksum-type").is_some_and(|kind| !kind.eq_ignore_ascii_case("FULL_OBJECT")) {
        return None;
    }
    let digest = BASE64_STANDARD.decode(of("x-amz-checksum-sha256")?).ok()?;
    Some(StoreChecksum::Sha256(Sha256(digest.try_into().ok()?)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(field).collect()
    }

    #[test]
    fn only_a_checksum_of_the_whole_object_counts() {
        let digest = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let whole = fields(&[("x-amz-checksum-sha256", digest), ("x-amz-checksum-type", "FULL_OBJECT")]);
        assert!(checksum(&whole).is_some());
        assert!(checksum(&fields(&[("x-amz-checksum-sha256", digest)])).is_some());
        let parts = fields(&[("x-amz-checksum-sha256", digest), ("x-amz-checksum-type", "COMPOSITE")]);
        assert!(checksum(&parts).is_none());
        assert!(
            checksum(&fields(&[("x-amz-checksum-sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=-3")])).is_none()
        );
    }

    #[test]
    fn variables_win_over_a_profile() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".aws")).unwrap();
        let keys = "[default]\naws_access_key_id = FILE\naws_secret_access_key = S\n";
        std::fs::write(folder.path().join(".aws/credentials"), keys).unwrap();
        std::fs::write(folder.path().join(".aws/config"), "[default]\nregion = eu-west-3\n").unwrap();
        let home = folder.path().to_str().unwrap();
        let value = |env: &Env, key| builder(env).unwrap().get_config_value(&key);
        let env = Env::from_pairs([("HOME", home)]);
        assert_eq!(value(&env, AmazonS3ConfigKey::AccessKeyId).as_deref(), Some("FILE"));
        assert_eq!(value(&env, AmazonS3ConfigKey::Region).as_deref(), Some("eu-west-3"));
        let keys =
            [("HOME", home), ("AWS_ACCESS_KEY_ID", "ENV"), ("AWS_SECRET_ACCESS_KEY", "S"), ("AWS_REGION", "us-west-1")];
        let env = Env::from_pairs(keys);
        assert_eq!(value(&env, AmazonS3ConfigKey::AccessKeyId).as_deref(), Some("ENV"));
        assert_eq!(value(&env, AmazonS3ConfigKey::Region).as_deref(), Some("us-west-1"));
    }

    #[test]
    fn without_credentials_and_metadata_the_error_names_the_variables() {
        let problem = builder(&Env::from_pairs([("AWS_EC2_METADATA_DISABLED", "true")])).unwrap_err();
        assert!(problem.contains("AWS_ACCESS_KEY_ID") && problem.contains("AWS_SKIP_SIGNATURE"), "{problem}");
    }
}
