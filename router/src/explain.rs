//! `POST /admin/explain/v1/…`: the worker that a request would go to now, and how the others look. Nothing is sent, and
//! nothing of it counts.

use crate::core::Core;
use crate::cost::{choices, max_tokens};
use crate::fleet::{Candidate, Refusal, Why};
use crate::load::load_of;
use crate::prefix;
use crate::upstream::endpoint_bit;
use axum::Json;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;
use wire::openai::scan::{Limits, scan};
use wire::openai::{ApiError, ENDPOINTS, ErrorKind};

/// The query of a request to explain.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// Whose request it is: tenants share no prefixes.
    #[serde(default = "anonymous")]
    tenant: String,
}

fn anonymous() -> String {
    "anonymous".into()
}

/// The explanation.
#[derive(Debug, Serialize)]
struct Explained {
    model: String,
    tenant: String,
    /// The hash of what its prompt begins with, where that matters.
    prefix: Option<String>,
    /// The load that it is taken for.
    load: u32,
    worker: Option<String>,
    why: Option<Why>,
    /// Why nobody would get it.
    refused: Option<&'static str>,
    /// Workers that have the model, those nearest to the prefix's home first.
    candidates: Vec<Candidate>,
}

/// `POST /admin/explain/{path}`.
pub(crate) async fn explain(
    State(core): State<Arc<Core>>,
    Path(path): Path<String>,
    Query(asked): Query<Asked>,
    request: Request,
) -> Response {
    match explained(&core, &path, asked, request).await {
        Ok(explained) => Json(explained).into_response(),
        Err(error) => listen::error_response(&error),
    }
}

async fn explained(core: &Arc<Core>, path: &str, asked: Asked, request: Request) -> Result<Explained, ApiError> {
    let endpoint = ENDPOINTS.iter().copied().find(|endpoint| endpoint.path().trim_start_matches('/') == path);
    let endpoint = endpoint.ok_or_else(|| {
        ApiError::new(ErrorKind::UnknownPath, format!("there is no /{path} to explain; try /v1/chat/completions"))
    })?;
    let (parts, body) = request.into_parts();
    let body = core.bodies.read(&parts.headers, body).await?;
    let scan = scan(&body, endpoint, &Limits::default())?;
    let snapshot = core.fleet.snapshot();
    let model = scan.model(&body).map(Cow::into_owned).or_else(|| snapshot.only_model().map(str::to_owned));
    let model = model.ok_or_else(|| ApiError::invalid("model", "`model` is required"))?;
    let settings = core.settings();
    let prefix = prefix::of(&settings.config.pick, &scan, &body, endpoint, &model, &asked.tenant);
    let load = load_of(body.len(), max_tokens(&scan, endpoint), choices(&scan));
    let ask = crate::fleet::Ask {
        model: &model,
        endpoint_bit: endpoint_bit(endpoint.path()),
        prefix,
        load,
        load_max_over_mean: settings.config.pick.load_max_over_mean,
    };
    let candidates = snapshot.candidates(&ask, core.now());
    let (worker, why, refused) = match core.fleet.pick(&ask, &[], core.now(), rand::rng().random()) {
        Ok(picked) => (Some(picked.member.worker.name.clone()), Some(picked.why), None),
        Err(Refusal::UnknownModel) => (None, None, Some("unknown_model")),
        Err(Refusal::Unavailable { .. }) => (None, None, Some("unavailable")),
    };
    let prefix = prefix.map(|prefix| format!("{prefix:016x}"));
    Ok(Explained { model, tenant: asked.tenant, prefix, load, worker, why, refused, candidates })
}
