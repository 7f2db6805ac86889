//! Where cloud machines get their credentials, as far as clients ask: AWS instance and container
//! metadata and STS, Azure's instance metadata and token endpoint, Google's metadata server. What is
//! handed out is accepted here until it expires (`access`); it is worth nothing elsewhere.

use super::reply::Reply;
use super::request::{Request, civil};
use super::state::State;
use serde_json::json;
use std::time::SystemTime;

/// The name of the one role an AWS machine here has.
const ROLE: &str = "forebay-role";

/// The answer, if the request is for one of these endpoints.
pub(super) fn answer(state: &State, request: &Request) -> Option<Reply> {
    let path = request.path.trim_end_matches('/');
    let action = || request.parameter("Action").unwrap_or_default();
    let (kind, reply) = if path == "latest/api/token" {
        ("imds_token", session_token(request))
    } else if let Some(role) = path.strip_prefix("latest/meta-data/iam/security-credentials") {
        let kind = if role.is_empty() { "imds_role" } else { "imds_credentials" };
        (kind, role_credentials(state, request, role))
    } else if path.starts_with("v2/credentials") {
        ("container_credentials", aws(state))
    } else if path.is_empty() && action() == "AssumeRoleWithWebIdentity" {
        ("sts_web_identity", web_identity(state, request))
    } else if path == "metadata/identity/oauth2/token" {
        ("azure_imds", azure(state, request, request.header("metadata") == Some("true")))
    } else if path.ends_with("/oauth2/v2.0/token") {
        ("azure_token", azure(state, request, request.parameter("client_assertion").is_some()))
    } else if path == "computeMetadata/v1/instance/service-accounts/default/token" {
        ("google_token", google(state, request))
    } else {
        return None;
    };
    state.books.metadata(kind);
    Some(reply)
}

/// IMDSv2: a session token for a time to live, by PUT.
fn session_token(request: &Request) -> Reply {
    let lives = request.header("x-aws-ec2-metadata-token-ttl-seconds").map(str::to_owned);
    match lives {
        Some(lives) if request.method == "PUT" => Reply::text(200, "text/plain", "forebay-imds-session".to_owned())
            .with("x-aws-ec2-metadata-token-ttl-seconds", lives),
        _ => Reply::text(400, "text/plain", "PUT with x-aws-ec2-metadata-token-ttl-seconds\n".to_owned()),
    }
}

fn role_credentials(state: &State, request: &Request, role: &str) -> Reply {
    if request.header("x-aws-ec2-metadata-token") != Some("forebay-imds-session") {
        return Reply::text(401, "text/plain", "IMDSv2 requires a session token\n".to_owned());
    }
    match role.trim_start_matches('/') {
        "" => Reply::text(200, "text/plain", ROLE.to_owned()),
        ROLE => aws(state),
        _ => Reply::text(404, "text/plain", "no such role\n".to_owned()),
    }
}

fn aws(state: &State) -> Reply {
    let (word, lives) = state.access.issue();
    let now = SystemTime::now();
    Reply::json(
        200,
        &json!({
            "Code": "Success",
            "LastUpdated": timestamp(now),
            "Type": "AWS-HMAC",
            "AccessKeyId": format!("ASIA{word}"),
            "SecretAccessKey": format!("secret-of-{word}"),
            "Token": format!("session-of-{word}"),
            "Expiration": timestamp(now + lives),
        }),
    )
}

fn web_identity(state: &State, request: &Request) -> Reply {
    if request.parameter("WebIdentityToken").is_none_or(|token| token.is_empty()) {
        let text = "<ErrorResponse><Error><Code>InvalidIdentityToken</Code>\
                    <Message>WebIdentityToken is missing</Message></Error></ErrorResponse>";
        return Reply::text(400, "text/xml", text.to_owned());
    }
    let (word, lives) = state.access.issue();
    let expires = timestamp(SystemTime::now() + lives);
    let text = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA{word}</AccessKeyId>\
         <SecretAccessKey>secret-of-{word}</SecretAccessKey><SessionToken>session-of-{word}</SessionToken>\
         <Expiration>{expires}</Expiration></Credentials><SubjectFromWebIdentityToken>forebay\
         </SubjectFromWebIdentityToken></AssumeRoleWithWebIdentityResult><ResponseMetadata>\
         <RequestId>{word}</RequestId></ResponseMetadata></AssumeRoleWithWebIdentityResponse>"
    );
    Reply::text(200, "text/xml", text)
}

fn azure(state: &State, request: &Request, asked_well: bool) -> Reply {
    if !asked_well {
        let error =
            json!({"error": "invalid_request", "error_description": "Metadata: true, or client_assertion, is missing"});
        return Reply::json(400, &error);
    }
    let (word, lives) = state.access.issue();
    let expires = SystemTime::now() + lives;
    let on = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let resource = request.parameter("resource").unwrap_or_else(|| "https://storage.azure.com/".to_owned());
    // The machine's endpoint writes numbers as text, the token endpoint as numbers.
    let (lives, on) = if request.path.starts_with("metadata/") {
        (json!(lives.as_secs().to_string()), json!(on.to_string()))
    } else {
        (json!(lives.as_secs()), json!(on))
    };
    Reply::json(
        200,
        &json!({"access_token": format!("token-of-{word}"), "expires_in": lives, "expires_on": on,
                "not_before": "0", "resource": resource, "token_type": "Bearer"}),
    )
}

fn google(state: &State, request: &Request) -> Reply {
    if request.header("metadata-flavor") != Some("Google") {
        return Reply::text(403, "text/plain", "Metadata-Flavor: Google is missing\n".to_owned());
    }
    let (word, lives) = state.access.issue();
    let token =
        json!({"access_token": format!("token-of-{word}"), "expires_in": lives.as_secs(), "token_type": "Bearer"});
    Reply::json(200, &token).with("Metadata-Flavor", "Google")
}

/// A time as ISO 8601 has it, in UTC.
fn timestamp(time: SystemTime) -> String {
    let (year, month, day, of_day) = civil(time);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}
