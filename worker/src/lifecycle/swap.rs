//! One revision of a model takes the place of another while both compute.
//!
//! The new weights arrive beside the old, sharing the tensors that are the same; then they are
//! installed between two steps; sequences under way end with the weights they began with, and the
//! old ones go with the last of them. What differs in more than the weights' values is refused
//! before any weight is fetched, and whatever fails leaves the old revision serving.

use std::sync::Arc;
use std::time::Instant;

use telemetry::names;
use tokio::task::spawn_blocking;
use tracing::{Instrument, info_span};
use wire::status::ModelPhase;

use super::context::Context;
use super::error::{ModelError, StartError, describe};
use super::hashing;
use super::load::{Found, arrive, find, note_digest, now_unix_s, read_text, structures};
use super::quantize::Quantizing;
use super::resident::{Arrived, Resident};
use super::source::ModelSource;
use crate::engine::Identity;
use crate::server::{ServerModel, SwapRefusal, SwapRequest};
use compute::Model;
use compute::backend::{Generation, Prepared};

/// Answers a request as soon as it is known whether the revision fits, and carries it out.
pub(super) async fn handle(context: Arc<Context>, request: SwapRequest) {
    let SwapRequest { model, source, reply } = request;
    let span = info_span!("swap", model);
    let (answer, fitting) = match fit(&context, &model, &source).instrument(span.clone()).await {
        Ok(fitting) => (Ok(()), Some(fitting)),
        Err(refusal) => (Err(refusal), None),
    };
    // The caller may be gone.
    let _ = reply.send(answer);
    let Some((found, old)) = fitting else { return count(&context, &model, "refused") };
    match carry_out(&context, &model, found, old).instrument(span).await {
        Ok(()) => count(&context, &model, "done"),
        Err(error) => {
            give_up(&context, &model, &error);
            count(&context, &model, "failed");
        }
    }
}

fn count(context: &Context, model: &str, outcome: &str) {
    context.registry.counter(&names::WORKER_SWAPS).with_label_values(&[model, outcome]).inc();
}

/// Finds the revision and what it is to replace, if it can.
async fn fit(context: &Context, model: &str, source: &str) -> Result<(Found, Arc<Resident>), SwapRefusal> {
    let source: ModelSource = source.parse().map_err(|error: StartError| SwapRefusal::Source(error.to_string()))?;
    let old =
        context.resident(model).ok_or_else(|| SwapRefusal::Busy(format!("the model `{model}` is still loading")))?;
    if !context.board.begin_swap(model) {
        return Err(SwapRefusal::Busy(format!("a swap of `{model}` is under way")));
    }
    match look(context, &source, &old).await {
        Ok(found) => Ok((found, old)),
        Err(error) => {
            give_up(context, model, &error);
            Err(SwapRefusal::Refused(describe(&error)))
        }
    }
}

fn give_up(context: &Context, model: &str, error: &ModelError) {
    let why = describe(error);
    tracing::error!(model, %why, "a swap failed; the old revision goes on serving");
    context.board.update(model, |model| {
        (model.phase, model.eta, model.error) = (ModelPhase::Ready, None, Some(why));
        model.bytes_loaded = model.bytes_total;
    });
}

/// Looks at the revision and compares it with what is served.
async fn look(context: &Context, source: &ModelSource, old: &Resident) -> Result<Found, ModelError> {
    let found = find(context, source).await?;
    let differs = |field: &str| Err(ModelError::Differs { field: field.to_owned() });
    if let Some(field) = old.config.difference(&found.config) {
        return differs(field);
    }
    if let Some(file) = old.files.difference(&found.files) {
        return differs(file);
    }
    let infos = || found.headers().flat_map(|header| &header.tensors);
    for weight in old.weights.iter().flat_map(|served| served.decoder.tensors()) {
        let Some(info) = infos().find(|info| info.name == weight.name()) else { continue };
        if info.shape[..] != *weight.view().shape() {
            return differs(&format!("the shape of `{}`", weight.name()));
        }
        if info.format != weight.format() {
            return differs(&format!("the format of `{}`", weight.name()));
        }
    }
    Ok(found)
}

/// Brings the weights, installs them and lets go of the old ones.
async fn carry_out(context: &Arc<Context>, name: &str, found: Found, old: Arc<Resident>) -> Result<(), ModelError> {
    let begun = Instant::now();
    let (files, config) = (Arc::clone(&found.files), found.config.clone());
    let text = spawn_blocking({
        let files = Arc::clone(&files);
        let is_encoder = config.encoder.is_some();
        move || read_text(&files, is_encoder)
    });
    let weights = match &old.weights {
        None => None,
        Some(old) => Some(bring(context, name, found, old).await?),
    };
    let text = text.await.map_err(|_| ModelError::Lost)??;
    let Ok(served) = context.server.model(Some(name)) else { return Err(ModelError::Lost) };
    // Their name may have become a public one meanwhile.
    let served_identity = context.resident(name).map_or(old.identity, |resident| resident.identity);
    let (generation, weights, identity) = match weights {
        Some(arrived) => {
            let identity = arrived.identity(&context.private, &config, &*context.kind);
            if identity == served_identity {
                // Nothing is installed: keys and values of the old weights are those of the new.
                (None, old.weights.clone(), identity)
            } else {
                let generation = install(&served, Arc::clone(&arrived.prepared), identity).await?;
                (Some(generation), Some(Arc::new(arrived)), identity)
            }
        }
        None => {
            let prepared = prepare(context, &Model { vocab_size: config.vocab_size, decoder: None })?;
            let identity = context.private.identity(None, &config, &*context.kind);
            (Some(install(&served, prepared, identity).await?), None, identity)
        }
    };
    let proof = weights.as_ref().map_or_else(|| served.proof.clone(), |arrived| arrived.weights.proof().to_string());
    let tokenizer = Arc::new(text.tokenizer);
    let structures = structures(context, name, &tokenizer, &served.engine)?;
    context.server.add(ServerModel {
        id: name.to_owned(),
        engine: served.engine.clone(),
        meters: served.meters.clone(),
        tokenizer,
        calls: context.config.calls_of(text.template.as_ref()),
        thoughts: context.config.thoughts_of(text.template.as_ref()),
        template: text.template,
        embedder: text.embedder,
        structures,
        created_unix_s: now_unix_s(),
        proof,
        weights_bytes: weights.as_ref().map_or(0, |arrived| arrived.weights.total_bytes()),
        weights_open: served.weights_open,
    });
    let text = files.text_digest().to_string();
    context
        .board
        .update(name, |progress| progress.digests.iter_mut().for_each(|digests| digests.text.clone_from(&text)));
    if generation.is_some() {
        note_digest(context, name, weights.as_deref());
    }
    let now = generation.unwrap_or(old.generation);
    context.settle(name, Resident { files, config, weights, generation: now, identity });
    hashing::begin(context, name, &served.engine);
    // The last sequence of the old weights ends, the engine lets go of them, and then so do we.
    if let Some(generation) = generation {
        served.engine.drained(generation).await;
    }
    drop(old);
    context.board.ready(name, begun.elapsed());
    let took_ms = begun.elapsed().as_secs_f64() * 1e3;
    tracing::info!(model = name, took_ms, weights_changed = generation.is_some(), "a model was swapped");
    Ok(())
}

/// Installs other weights, and says what their keys and values are known by.
async fn install(
    served: &ServerModel,
    prepared: Arc<dyn Prepared>,
    identity: Identity,
) -> Result<Generation, ModelError> {
    let generation = served.engine.install(prepared).await.map_err(ModelError::Swap)?;
    served.engine.identify(generation, identity);
    Ok(generation)
}

/// Brings all weights of a revision, sharing those that are the same, and quantizes them where it is so configured.
async fn bring(context: &Context, name: &str, found: Found, old: &Arrived) -> Result<Arrived, ModelError> {
    let config = found.config.clone();
    let opened = found.open(context, Some(old.weights.clone())).await?;
    if let Some(load) = &opened.load {
        arrive(context, name, load).await.map_err(ModelError::Arrival)?;
    }
    let decoder = Arc::new(models::bind(&config, &opened.weights).map_err(ModelError::Bind)?);
    let model = Model { vocab_size: config.vocab_size, decoder: Some(Arc::clone(&decoder)) };
    let prepared = prepare(context, &model)?;
    if prepared.has_work() {
        Quantizing::begin(&prepared, Some(Arc::clone(&old.prepared))).finish(context, name).await?;
    }
    Ok(opened.arrived(decoder, prepared))
}

fn prepare(context: &Context, model: &Model) -> Result<Arc<dyn Prepared>, ModelError> {
    context.kind.prepare(model).map_err(ModelError::Backend)
}
