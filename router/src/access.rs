//! The caller of a request: a tenant by its key, an operator by where it is or by its own key. Wrong keys count against the client's
//! address; the rules are `policy`'s and `listen`'s.

use crate::core::{Core, Settings};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap};
use listen::{Peer, operator, refuse_pages};
use policy::{Client, Identified, Presented, Rejection};
use std::sync::Arc;
use wire::openai::{ApiError, ErrorKind};

/// The header in which proxies name the clients that they speak for.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The tenant that asks, by the headers that carry keys.
pub(crate) fn identify(
    core: &Core,
    settings: &Settings,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Identified, ApiError> {
    let presented = Presented::read(listen::key_headers(headers));
    let client = client(settings, headers, extensions);
    settings.policy.identify(presented, client, core.now()).map_err(|rejection| reject(core, rejection))
}

/// Counts a rejection, and says it in an error's words.
pub(crate) fn reject(core: &Core, rejection: Rejection) -> ApiError {
    core.metrics.rejection(rejection.reason());
    if rejection == Rejection::WrongKey {
        count_addresses(core);
    }
    rejection.to_api_error()
}

/// For what changes the process or tells its insides.
pub(crate) async fn require_operator(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    match as_operator(&core, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => {
            note_wrong_key(&core, &request);
            listen::error_response(&error)
        }
    }
}

/// For what members of the fleet may know: operators, and who brings the key that routers and workers share.
pub(crate) async fn require_member(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    match as_member(&core, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => listen::error_response(&error),
    }
}

/// Says whether a member of the fleet asks; a wrong key counts as a guess.
fn as_member(core: &Core, request: &Request) -> Result<(), ApiError> {
    let settings = core.settings();
    let client = client(&settings, request.headers(), request.extensions());
    settings.policy.check_guesses(client, core.now()).map_err(|rejection| reject(core, rejection))?;
    let keys = [settings.admin_api_key(), settings.config.worker_api_key.as_ref().map(policy::Secret::reveal)];
    if keys.into_iter().any(|key| operator(request, key).is_ok()) {
        return Ok(());
    }
    if let Some(value) = request.headers().get(AUTHORIZATION) {
        let presented = Presented::read([("authorization", value.as_bytes())]);
        settings.policy.note_wrong_key(presented, client, core.now());
        count_addresses(core);
    }
    Err(ApiError::new(
        ErrorKind::PermissionDenied,
        "the fleet is for its members: bring the key that routers and workers share",
    ))
}

/// For what tells of the process: operators, those who may ask for models, and no web page that brings no key.
pub(crate) async fn require_key_or_no_page(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    if as_operator(&core, &request).is_ok() {
        return next.run(request).await;
    }
    let who = identify(&core, &core.settings(), request.headers(), request.extensions());
    if who.as_ref().is_ok_and(|who| !who.is_anonymous()) {
        return next.run(request).await;
    }
    // A key that is no tenant's may be a guess at the operators'.
    note_wrong_key(&core, &request);
    match who {
        Ok(_) => refuse_pages(request, next).await,
        Err(error) => listen::error_response(&error),
    }
}

/// Says whether an operator asks; not to clients that guessed too often at its key.
fn as_operator(core: &Core, request: &Request) -> Result<(), ApiError> {
    let settings = core.settings();
    if operator_key(&settings, request).is_some() {
        let client = client(&settings, request.headers(), request.extensions());
        settings.policy.check_guesses(client, core.now()).map_err(|rejection| reject(core, rejection))?;
    }
    operator(request, settings.admin_api_key()).map(|_| ())
}

fn note_wrong_key(core: &Core, request: &Request) {
    let settings = core.settings();
    if let Some(presented) = operator_key(&settings, request) {
        let client = client(&settings, request.headers(), request.extensions());
        settings.policy.note_wrong_key(presented, client, core.now());
        count_addresses(core);
    }
}

/// The key that may be meant for the operators'; `None` where they have none. It stands in the first `authorization`,
/// where `operator` looks.
fn operator_key<'a>(settings: &Settings, request: &'a Request) -> Option<Presented<'a>> {
    settings.admin_api_key()?;
    let value = request.headers().get(AUTHORIZATION)?;
    Some(Presented::read([("authorization", value.as_bytes())]))
}

fn client(settings: &Settings, headers: &HeaderMap, extensions: &Extensions) -> Option<Client> {
    let peer = extensions.get::<Peer>()?;
    settings.policy.client(peer.0.ip(), headers.get_all(FORWARDED_FOR).iter().map(http::HeaderValue::as_bytes))
}

fn count_addresses(core: &Core) {
    #[expect(clippy::cast_precision_loss, reason = "at most 65,536")]
    core.metrics.wrong_key_addresses.set(core.settings().policy.guessing_addresses() as f64);
}
