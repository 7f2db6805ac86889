//! One model's way from its place to its requests.
//!
//! First look → whom to believe → weights begin to arrive, in execution order, while the tokenizer
//! is read → the engine takes requests → every weight is there. Requests are answered from the
//! fourth step on: a prompt waits for the layers it needs and for no others.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use loader::{Load, LoadError, OpenOptions, Probe, Weights};
use telemetry::names;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{Instrument, info_span};
use wire::Chain;
use wire::digest::Digest;
use wire::evidence::Verdict;
use wire::status::{ModelDigests, ModelPhase};

use super::computed::{Computed, Share, compute, demand};
use super::context::Context;
use super::error::ModelError;
use super::files::Files;
use super::hashing;
use super::identity::{self, Stamp};
use super::instead::Instead;
use super::quantize::Quantizing;
use super::resident::{Arrived, Opened, Resident};
use super::room::Room;
use super::sharing;
use super::source::ModelSource;
use crate::config::SchedulingPolicy;
use crate::engine::{BesideDecodes, EngineHandle, EngineOptions, FaultOptions, Identity, Meters};
use crate::server::{RequestMeters, ServerModel};
use crate::structure::Structures;
use compute::Model;
use compute::backend::Generation;
use compute::memory::Demand;
use models::demo;
use models::embedding::Embedder;
use models::gguf;
use models::template::ChatTemplate;
use models::tokenizer::Tokenizer;
use models::{Config, order};

/// A model's small files and place, before its weights are opened.
pub(super) struct Found {
    pub(super) files: Arc<Files>,
    pub(super) config: Config,
    place: Place,
}

enum Place {
    Demo,
    Elsewhere(Box<Probe>, Verdict),
}

/// Looks at a model and decides whom to believe.
pub(super) async fn find(context: &Context, source: &ModelSource) -> Result<Found, ModelError> {
    let config = context.config.clone();
    let instead = spawn_blocking(move || Instead::read(&config)).await.map_err(|_| ModelError::Lost)??;
    let (files, place) = match source {
        ModelSource::Demo => (Files::demo(&instead)?, Place::Demo),
        ModelSource::At { url, .. } => {
            let mut probe = context.loader.probe(url).await.map_err(ModelError::Probe)?;
            gguf::rename(&mut probe);
            let verdict = context.trust.decide(probe.evidence()).map_err(ModelError::Untrusted)?;
            for reason in &verdict.reasons {
                tracing::info!(model = source.name(), %reason, "whom this model's bytes are believed by");
            }
            (Files::of(&probe, &instead)?, Place::Elsewhere(Box::new(probe), verdict))
        }
    };
    let config = Config::parse(&files.config).map_err(ModelError::Config)?;
    Ok(Found { files: Arc::new(files), config, place })
}

impl Found {
    /// The headers of its weights: name, type and shape of every tensor; none of the bundled model.
    pub(super) fn headers(&self) -> impl Iterator<Item = &loader::Header> {
        let probe = match &self.place {
            Place::Demo => None,
            Place::Elsewhere(probe, _) => Some(probe),
        };
        probe.into_iter().flat_map(|probe| probe.shards()).map(|shard| &shard.header)
    }

    /// Begins to bring the weights, beside those of `base` and sharing what is the same.
    pub(super) async fn open(self, context: &Context, base: Option<Weights>) -> Result<Opened, ModelError> {
        match self.place {
            Place::Demo => {
                let weights = demo::weights().map_err(ModelError::Weights)?;
                Ok(Opened { weights, load: None, stamps: None, shared: None })
            }
            Place::Elsewhere(probe, verdict) => {
                let stamps = stamps(&probe);
                let options = OpenOptions { order: order(&self.config), base, ..OpenOptions::default() };
                let load = context.loader.open(*probe, &verdict, options).await.map_err(ModelError::Weights)?;
                let shared = sharing::begin(context.seeder.as_ref(), &load);
                Ok(Opened { weights: load.weights.clone(), load: Some(load), stamps, shared })
            }
        }
    }
}

/// Stamps of a local model's weight files, taken before they are opened.
fn stamps(probe: &Probe) -> Option<Vec<Stamp>> {
    let folder = probe.url().directory()?;
    probe.shards().iter().map(|shard| Stamp::of(folder, &shard.object.name)).collect()
}

/// A model whose weights have begun to arrive, and whose memory is to be planned.
pub(super) struct Looked {
    name: String,
    files: Arc<Files>,
    config: Config,
    model: Model,
    opened: Option<Opened>,
    text: JoinHandle<Result<Text, ModelError>>,
    begun: Instant,
    weights_open: Duration,
}

/// Probes a model and starts loading its weights and tokenizer.
pub(super) async fn look(context: &Context, source: &ModelSource) -> Result<Looked, ModelError> {
    let begun = Instant::now();
    let name = source.name();
    let found = find(context, source).instrument(info_span!("look", model = name)).await?;
    let (files, config) = (Arc::clone(&found.files), found.config.clone());
    let text = spawn_blocking({
        let files = Arc::clone(&files);
        let is_encoder = config.encoder.is_some();
        move || read_text(&files, is_encoder)
    });
    // Side by side with the tokenizer, which on a near disk takes longer than everything else.
    let opened = if context.kind.reads_weights() {
        Some(found.open(context, None).instrument(info_span!("open", model = name)).await?)
    } else {
        None
    };
    let decoder = match &opened {
        Some(opened) => Some(Arc::new(models::bind(&config, &opened.weights).map_err(ModelError::Bind)?)),
        None => None,
    };
    let model = Model { vocab_size: config.vocab_size, decoder };
    let total = opened.as_ref().map_or(0, |opened| opened.weights.total_bytes());
    context.board.update(name, |model| (model.phase, model.bytes_total) = (ModelPhase::Loading, total));
    let weights_open = begun.elapsed();
    Ok(Looked { name: name.to_owned(), files, config, model, opened, text, begun, weights_open })
}

impl Looked {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn weights_bytes(&self) -> u64 {
        self.opened.as_ref().map_or(0, |opened| opened.weights.total_bytes())
    }

    /// Its demand on the worker's memory; none without weights.
    pub(super) fn demand(&self, context: &Context) -> Option<Demand> {
        let opened = self.opened.as_ref()?;
        Some(demand(&*context.kind, &context.config, &self.model, opened.weights.total_bytes()))
    }

    /// Brings it, in its share of the memory, as far as taking requests, and gives what waits for the rest of its
    /// weights.
    pub(super) async fn begin(self, context: &Context, share: Share) -> Result<Begun, ModelError> {
        let total = self.weights_bytes();
        let Self { name, files, config, model, opened, text, begun, weights_open } = self;
        let decoder = model.decoder.clone();
        let kv_layout = Digest(blake3::hash(context.kind.kv_layout(&model).as_bytes()).into()).to_string();
        let computed = spawn_blocking({
            let (kind, config) = (Arc::clone(&context.kind), context.config.clone());
            move || compute(&*kind, &config, &model, total, share)
        });
        let mut computed = computed.await.map_err(|_| ModelError::Lost)??;
        // Beside the weights, which need the disk or the link, and the tokenizer.
        let room = computed.kv_pages.take().map(|pages| Room::take(&name, pages)).transpose()?;
        let text = text.await.map_err(|_| ModelError::Lost)??;
        let weights_open = if total == 0 { Duration::ZERO } else { weights_open + computed.took };
        let prepared = Arc::clone(&computed.prepared);
        let quantizing = prepared.has_work().then(|| Quantizing::begin(&prepared, None));
        let positions_a_row = decoder.as_ref().map_or(0, |_| config.positions_a_row());
        let proof = opened.as_ref().map_or_else(|| "none".to_owned(), |opened| opened.weights.proof().to_string());
        let facts = Facts { proof, weights_bytes: total, weights_open, positions_a_row };
        let served = serve(context, &name, computed, text, &facts)?;
        let engine = served.engine.clone();
        context.server.add(served);
        let arrived = |(opened, decoder): (Opened, _)| Arc::new(opened.arrived(decoder, prepared));
        let weights = opened.zip(decoder).map(arrived);
        let known = match &weights {
            Some(weights) => weights.known_identity(&config, &*context.kind),
            None => Some(identity::of_nothing(&config, &*context.kind)),
        };
        if let Some(identity) = known {
            engine.identify(Generation::default(), identity);
        }
        let digests = ModelDigests { weights: None, text: files.text_digest().to_string(), kv_layout };
        context.board.update(&name, |progress| progress.digests = Some(digests));
        note_digest(context, &name, weights.as_deref());
        Ok(Begun { name, files, config, weights, engine, identity: known, quantizing, room, begun })
    }
}

/// Notes the digest of a model's weights, once it is known.
pub(super) fn note_digest(context: &Context, name: &str, weights: Option<&Arrived>) {
    let weights = weights.and_then(|arrived| arrived.weights.identity()).map(|digest| digest.to_string());
    context.board.update(name, |progress| {
        progress.digests.iter_mut().for_each(|digests| digests.weights.clone_from(&weights));
    });
}

/// A tokenizer and its template, and how long they took to read.
pub(super) struct Text {
    pub(super) tokenizer: Tokenizer,
    pub(super) template: Option<ChatTemplate>,
    /// The making of its embeddings, or why it has none.
    pub(super) embedder: Result<Embedder, String>,
    took: Duration,
}

/// Reads tokenizer and template. Blocks.
pub(super) fn read_text(files: &Files, is_encoder: bool) -> Result<Text, ModelError> {
    let begun = Instant::now();
    let embedder = Embedder::parse(&files.embedding(), is_encoder).map_err(|error| Chain(&error).to_string());
    if let Err(fault) = &embedder {
        tracing::warn!(%fault, "embeddings of this model will be refused");
    }
    let files = files.text();
    let tokenizer = Tokenizer::parse(&files).map_err(ModelError::Text)?;
    let template = ChatTemplate::parse(&files, &tokenizer);
    if let Some(fault) = template.as_ref().and_then(ChatTemplate::fault) {
        tracing::warn!(%fault, "chat completions of this model will be refused");
    }
    Ok(Text { tokenizer, template, embedder, took: begun.elapsed() })
}

struct Facts {
    proof: String,
    weights_bytes: u64,
    weights_open: Duration,
    /// See [`BesideDecodes::positions_a_row`].
    positions_a_row: usize,
}

/// Starts the engine.
fn serve(
    context: &Context,
    name: &str,
    computed: Computed,
    text: Text,
    facts: &Facts,
) -> Result<ServerModel, ModelError> {
    let (config, registry) = (&context.config, &context.registry);
    let limits = computed.backend.limits().clone();
    let options = EngineOptions {
        max_num_seqs: config.max_num_seqs,
        max_model_len: computed.max_model_len,
        queue_max: config.queue_max,
        beside_decodes: BesideDecodes {
            rows: config.max_prefill_tokens_beside_decodes,
            long_rows: config.max_long_prefill_tokens_beside_decodes,
            long_tokens: config.long_prefill_token_threshold,
            positions_a_row: facts.positions_a_row,
        },
        reader_stall: Duration::from_millis(config.reader_stall_ms),
        enable_prefix_caching: config.enable_prefix_caching,
        priority_level: (config.scheduling_policy == SchedulingPolicy::Priority)
            .then(|| Duration::from_millis(config.priority_level_ms)),
        faults: FaultOptions {
            step_retries_max: config.step_retries_max,
            recorder_bytes: config.flight_recorder_bytes,
            recorder_dir: config.flight_recorder_dir.clone(),
        },
    };
    registry.begin(&names::WORKER_SWAPS, &[name]);
    let meters = Meters::new(registry, name);
    let engine = EngineHandle::start(computed.backend, options, meters, name).map_err(ModelError::Thread)?;
    let info = registry.gauge(&names::VLLM_CACHE_CONFIG);
    info.with_label_values(&[name, &limits.kv_block_tokens.to_string(), &limits.kv_blocks.to_string()]).set(1.0);
    #[expect(clippy::cast_precision_loss, reason = "a gauge of bytes")]
    registry.gauge(&names::WORKER_WEIGHTS_BYTES).with_label_values(&[name]).set(facts.weights_bytes as f64);
    for (phase, took) in [("weights", facts.weights_open), ("tokenizer", text.took)] {
        registry.gauge(&names::WORKER_LOAD_SECONDS).with_label_values(&[name, phase]).set(took.as_secs_f64());
    }
    let tokenizer = Arc::new(text.tokenizer);
    let structures = structures(context, name, &tokenizer, &engine)?;
    Ok(ServerModel {
        id: name.into(),
        engine,
        meters: RequestMeters::new(registry, name),
        tokenizer,
        calls: config.calls_of(text.template.as_ref()),
        thoughts: config.thoughts_of(text.template.as_ref()),
        template: text.template,
        embedder: text.embedder,
        structures,
        created_unix_s: now_unix_s(),
        proof: facts.proof.clone(),
        weights_bytes: facts.weights_bytes,
        weights_open: facts.weights_open,
    })
}

/// The forms of a model's answers. What they share is built in the background, while the weights are on their way.
pub(super) fn structures(
    context: &Context,
    name: &str,
    tokenizer: &Arc<Tokenizer>,
    engine: &EngineHandle,
) -> Result<Arc<Structures>, ModelError> {
    let (size, kept_max) = (engine.limits().vocab_size, context.config.grammars_kept_max);
    let structures = Structures::new(name, Arc::clone(tokenizer), size, kept_max, &context.registry);
    structures.inspect(Structures::prepare).map_err(ModelError::Thread)
}

pub(super) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A model that takes requests while its weights arrive.
pub(super) struct Begun {
    pub(super) name: String,
    files: Arc<Files>,
    config: Config,
    weights: Option<Arc<Arrived>>,
    engine: EngineHandle,
    /// Root of its KV block names; none before it is known.
    identity: Option<Identity>,
    quantizing: Option<Quantizing>,
    /// Memory for its KV cache, on its way.
    room: Option<Room>,
    begun: Instant,
}

impl Begun {
    /// Waits for the rest of its weights, for those that are being quantized, and for memory.
    pub(super) async fn finish(self, context: &Arc<Context>) -> Result<(), ModelError> {
        let Self { name, files, config, weights, engine, identity, quantizing, room, begun } = self;
        let arrival = async {
            let load = weights.as_ref().and_then(|weights| weights.load.as_ref());
            let Some(load) = load else { return Ok(()) };
            let arrival = arrive(context, &name, load).instrument(info_span!("arrive", model = name));
            arrival.await.map_err(ModelError::Arrival)
        };
        // Too little memory is known long before the last weights.
        tokio::try_join!(arrival, finish_room(context, &name, room))?;
        if let Some(quantizing) = quantizing {
            quantizing.finish(context, &name).await?;
        }
        let took = begun.elapsed();
        let identity = match (identity, &weights) {
            (Some(identity), _) => identity,
            (None, Some(weights)) => weights.identity(&context.private, &config, &*context.kind),
            (None, None) => identity::of_nothing(&config, &*context.kind),
        };
        // Where it was known at once, this changes nothing.
        engine.identify(Generation::default(), identity);
        note_digest(context, &name, weights.as_deref());
        context.settle(&name, Resident { files, config, weights, generation: Generation::default(), identity });
        context.board.ready(&name, took);
        hashing::begin(context, &name, &engine);
        let seconds = context.registry.gauge(&names::WORKER_LOAD_SECONDS);
        seconds.with_label_values(&[&name, "total"]).set(took.as_secs_f64());
        tracing::info!(model = name, ready_after_ms = took.as_secs_f64() * 1e3, "a model is ready");
        Ok(())
    }
}

/// Waits until a KV cache has its memory, where it takes that at the start.
async fn finish_room(context: &Context, name: &str, room: Option<Room>) -> Result<(), ModelError> {
    let Some(room) = room else { return Ok(()) };
    let took = room.taken().await?;
    let seconds = context.registry.gauge(&names::WORKER_LOAD_SECONDS);
    seconds.with_label_values(&[name, "kv_cache"]).set(took.as_secs_f64());
    Ok(())
}

/// Waits until all weights of a load are there, and says how far they are.
pub(super) async fn arrive(context: &Context, name: &str, load: &Load) -> Result<(), Arc<LoadError>> {
    let total = load.weights.total_bytes();
    let mut snapshots = load.progress().watch();
    let arrived = load.arrived();
    tokio::pin!(arrived);
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        context.board.update(name, |model| {
            // What is not to be fetched is there already: from the cache, or shared with an older revision.
            let missing = snapshot.bytes_total.saturating_sub(snapshot.bytes_done);
            model.bytes_total = total;
            model.bytes_loaded = if snapshot.bytes_total == 0 { 0 } else { total.saturating_sub(missing) };
            model.eta = snapshot.eta_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        });
        tokio::select! {
            result = &mut arrived => return result.map(drop),
            changed = snapshots.changed() => if changed.is_err() {
                return arrived.await.map(drop);
            },
        }
    }
}
