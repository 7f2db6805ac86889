//! From model directories to a worker that serves, and to its end.
//!
//! Weights and tokenizer are opened side by side. `/livez` answers from the first moment,
//! `/readyz` when every model is ready; a model that cannot be served fails the start.

use crate::backend::candle::{CandleBackend, CandleOptions};
use crate::backend::cpu::{CpuBackend, CpuOptions, KvDtype};
use crate::backend::scripted::{ScriptedBackend, ScriptedOptions};
use crate::backend::{Backend, Limits};
use crate::config::{BackendKind, KvCacheDtype, WorkerConfig};
use crate::demo;
use crate::engine::{EngineHandle, EngineOptions, Meters};
use crate::memory::{KV_BLOCK_TOKENS, MemoryError, MemoryOptions, MemoryPlan, plan};
use crate::model::{BindError, Config, ConfigError, Decoder};
use crate::server::{self, Server, ServerModel};
use crate::template::ChatTemplate;
use crate::tokenizer::{TextError, TextFiles, Tokenizer};
use listen::{Drain, ListenError, Listener};
use loader::{LoadError, Weights};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::future::Future;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use telemetry::metrics::Registry;
use telemetry::names;
use thiserror::Error;
use tokio::sync::watch;

/// The most rows of logits a step returns beyond one per sequence: what log probabilities of
/// prompts are computed in.
const PROMPT_LOGITS_ROWS: usize = 64;
/// How many positions the scripted backend has.
const SCRIPTED_POSITIONS: usize = 32_768;

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// The bundled model.
    Demo,
    /// A directory as Hugging Face publishes it.
    Dir {
        /// The name it is served under.
        name: String,
        /// The directory.
        path: PathBuf,
    },
}

impl ModelSource {
    /// The name requests use.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Demo => demo::NAME,
            Self::Dir { name, .. } => name,
        }
    }
}

impl FromStr for ModelSource {
    type Err = StartError;

    /// `demo`, `DIR` or `NAME=DIR`.
    fn from_str(text: &str) -> Result<Self, StartError> {
        if text == demo::NAME {
            return Ok(Self::Demo);
        }
        let unsupported = ["az://", "s3://", "gs://", "hf://", "http://", "https://"];
        if unsupported.iter().any(|scheme| text.starts_with(scheme)) {
            let problem = "is not on this machine; reading from remote storage comes with the storage loader";
            return Err(StartError::Source { source_text: text.into(), problem: problem.into() });
        }
        let (name, path) = match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !name.contains('/') => (Some(name.to_owned()), path),
            _ => (None, text),
        };
        let path = PathBuf::from(path.strip_prefix("file://").unwrap_or(path));
        if !path.is_dir() {
            let problem = "is not a directory; give `demo` or a model directory as Hugging Face publishes it";
            return Err(StartError::Source { source_text: text.into(), problem: problem.into() });
        }
        // `.` and `dir/..` have names too.
        let resolved = path.canonicalize().unwrap_or_else(|_| path.clone());
        let name = name.or_else(|| resolved.file_name().map(|name| name.to_string_lossy().into_owned()));
        Ok(Self::Dir { name: name.unwrap_or_else(|| text.to_owned()), path })
    }
}

/// Why a worker could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// A configuration that cannot be honoured.
    #[error("checking the configuration: {0}")]
    Config(String),
    /// A MODEL argument that means nothing.
    #[error("the model `{source_text}` {problem}")]
    Source {
        /// What was given.
        source_text: String,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// Two models of one name.
    #[error("two models are named `{0}`; name one with NAME=DIR")]
    SameName(String),
    /// A file of the model directory cannot be read.
    #[error("reading {path}")]
    Read {
        /// Which.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// One model cannot be served.
    #[error("loading the model `{model}`")]
    Load {
        /// Which.
        model: String,
        /// Why.
        #[source]
        source: Box<ModelError>,
    },
    /// The load ended without a word: a panic in it.
    #[error("loading the models: the loading thread ended early")]
    Lost,
}

/// Why a model cannot be served.
#[derive(Debug, Error)]
pub enum ModelError {
    /// `config.json`.
    #[error("reading config.json")]
    Config(#[source] ConfigError),
    /// Weights.
    #[error("opening the weights")]
    Weights(#[source] LoadError),
    /// Weights that do not fit the config.
    #[error("matching the weights with config.json")]
    Bind(#[source] BindError),
    /// Tokenizer or template.
    #[error("reading the tokenizer")]
    Text(#[source] TextError),
    /// Too little memory for the wishes.
    #[error("planning its memory")]
    Memory(#[source] MemoryError),
    /// The backend.
    #[error("building its backend")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A thread.
    #[error("starting its engine thread")]
    Thread(#[source] std::io::Error),
    /// A file.
    #[error(transparent)]
    Read(#[from] Box<StartError>),
    /// Another thread panicked.
    #[error("a loading thread panicked")]
    Lost,
}

type Loaded = Option<Result<(), Arc<StartError>>>;

/// A worker: models loading or loaded, and the server before them.
#[derive(Debug)]
pub struct Worker {
    server: Arc<Server>,
    drain: Drain,
    loaded: watch::Receiver<Loaded>,
}

impl Worker {
    /// Begins to load `models` on threads of their own.
    ///
    /// # Errors
    /// A configuration that cannot be honoured, or two models of one name.
    pub fn start(
        config: WorkerConfig,
        models: Vec<ModelSource>,
        registry: Registry,
        drain: Drain,
    ) -> Result<Self, StartError> {
        if let Some(problem) = config.problem() {
            return Err(StartError::Config(problem));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = models.iter().find(|model| !names.insert(model.name().to_owned())) {
            return Err(StartError::SameName(twice.name().into()));
        }
        if config.api_key.is_none() {
            tracing::warn!("this worker has no tenants, limits or screening: put a router before it");
        }
        let server = Arc::new(Server::new(&config, registry.clone(), drain.clone(), names));
        let (sender, loaded) = watch::channel(None);
        let filled = Arc::clone(&server);
        std::thread::spawn(move || {
            let result = load_all(&config, &models, &registry, &filled);
            sender.send_replace(Some(result.map_err(Arc::new)));
        });
        Ok(Self { server, drain, loaded })
    }

    /// Waits until every model is ready.
    pub fn loaded(&self) -> impl Future<Output = Result<(), Arc<StartError>>> + use<> {
        let mut loaded = self.loaded.clone();
        async move {
            match loaded.wait_for(Option::is_some).await.map(|result| result.clone()) {
                Ok(Some(result)) => result,
                Ok(None) | Err(_) => Err(Arc::new(StartError::Lost)),
            }
        }
    }

    /// The HTTP application, for tests that bring their own listener.
    pub fn app(&self) -> axum::Router {
        server::app(Arc::clone(&self.server))
    }

    /// Serves until the drain is over.
    ///
    /// # Errors
    /// As the listener.
    pub async fn serve(self, listener: Listener) -> Result<(), ListenError> {
        let app = self.app();
        listener.serve(app, self.drain).await
    }
}

fn load_all(
    config: &WorkerConfig,
    models: &[ModelSource],
    registry: &Registry,
    server: &Server,
) -> Result<(), StartError> {
    for source in models {
        let model = load(config, source, registry)
            .map_err(|cause| StartError::Load { model: source.name().into(), source: Box::new(cause) })?;
        tracing::info!(
            model = source.name(),
            weights_open_ms = model.weights_open.as_secs_f64() * 1e3,
            ready_after_ms = model.ready_after.as_secs_f64() * 1e3,
            "a model is ready"
        );
        server.add(model);
    }
    Ok(())
}

/// The files of a model, read or embedded.
struct Files {
    config: Cow<'static, [u8]>,
    generation_config: Option<Cow<'static, [u8]>>,
    tokenizer: Cow<'static, [u8]>,
    tokenizer_config: Option<Cow<'static, [u8]>>,
    chat_template: Option<Cow<'static, str>>,
}

impl Files {
    fn of(source: &ModelSource) -> Result<Self, Box<StartError>> {
        match source {
            ModelSource::Demo => Ok(Self {
                config: demo::CONFIG.into(),
                generation_config: Some(demo::GENERATION_CONFIG.into()),
                tokenizer: demo::TOKENIZER.into(),
                tokenizer_config: Some(demo::TOKENIZER_CONFIG.into()),
                chat_template: Some(demo::CHAT_TEMPLATE.into()),
            }),
            ModelSource::Dir { path, .. } => Self::read(path),
        }
    }

    fn read(dir: &Path) -> Result<Self, Box<StartError>> {
        let need = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path)
                .map(Cow::Owned)
                .map_err(|source| Box::new(StartError::Read { path: path.display().to_string(), source }))
        };
        let may = |name: &str| match need(name) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => match *error {
                StartError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
                other => Err(Box::new(other)),
            },
        };
        let chat_template =
            may("chat_template.jinja")?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned().into());
        Ok(Self {
            config: need("config.json")?,
            generation_config: may("generation_config.json")?,
            tokenizer: need("tokenizer.json")?,
            tokenizer_config: may("tokenizer_config.json")?,
            chat_template,
        })
    }

    fn text(&self) -> TextFiles<'_> {
        TextFiles {
            tokenizer_json: &self.tokenizer,
            tokenizer_config_json: self.tokenizer_config.as_deref(),
            generation_config_json: self.generation_config.as_deref(),
            config_json: &self.config,
            chat_template_jinja: self.chat_template.as_deref(),
        }
    }
}

fn load(config: &WorkerConfig, source: &ModelSource, registry: &Registry) -> Result<ServerModel, ModelError> {
    let begun = Instant::now();
    let files = Files::of(source)?;
    // The tokenizer takes longer than everything else, so it has a thread of its own.
    let (text, computed) = std::thread::scope(|scope| {
        let text = scope.spawn(|| load_text(&files));
        let computed = load_backend(config, source, &files);
        (text.join().unwrap_or(Err(ModelError::Lost)), computed)
    });
    let (computed, (tokenizer, template, tokenizer_took)) = (computed?, text?);
    let limits = computed.backend.limits().clone();
    let options = EngineOptions {
        max_num_seqs: config.max_num_seqs,
        max_model_len: computed.max_model_len,
        queue_max: config.queue_max,
        reader_stall: Duration::from_millis(config.reader_stall_ms),
    };
    let name = source.name();
    let meters = Meters::new(registry, name);
    let engine = EngineHandle::start(computed.backend, options, meters, name).map_err(ModelError::Thread)?;
    let ready_after = begun.elapsed();
    let info = registry.gauge(&names::VLLM_CACHE_CONFIG);
    info.with_label_values(&[name, &limits.kv_block_tokens.to_string(), &limits.kv_blocks.to_string()]).set(1.0);
    #[expect(clippy::cast_precision_loss, reason = "a gauge of bytes")]
    registry.gauge(&names::WORKER_WEIGHTS_BYTES).with_label_values(&[name]).set(computed.weights_bytes as f64);
    for (phase, took) in [("weights", computed.weights_open), ("tokenizer", tokenizer_took), ("total", ready_after)] {
        registry.gauge(&names::WORKER_LOAD_SECONDS).with_label_values(&[name, phase]).set(took.as_secs_f64());
    }
    Ok(ServerModel {
        id: name.into(),
        engine,
        tokenizer: Arc::new(tokenizer),
        template,
        created_unix_s: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
        proof: computed.proof,
        weights_bytes: computed.weights_bytes,
        weights_open: computed.weights_open,
        ready_after,
    })
}

fn load_text(files: &Files) -> Result<(Tokenizer, Option<ChatTemplate>, Duration), ModelError> {
    let begun = Instant::now();
    let files = files.text();
    let tokenizer = Tokenizer::parse(&files).map_err(ModelError::Text)?;
    let template = ChatTemplate::parse(&files, &tokenizer).map_err(ModelError::Text)?;
    Ok((tokenizer, template, begun.elapsed()))
}

struct Computed {
    backend: Box<dyn Backend>,
    max_model_len: usize,
    weights_bytes: u64,
    weights_open: Duration,
    proof: String,
}

fn load_backend(config: &WorkerConfig, source: &ModelSource, files: &Files) -> Result<Computed, ModelError> {
    let model = Config::parse(&files.config).map_err(ModelError::Config)?;
    if config.backend == BackendKind::Scripted {
        return Ok(scripted(config, &model));
    }
    let begun = Instant::now();
    let weights = match source {
        ModelSource::Demo => demo::weights(),
        ModelSource::Dir { path, .. } => Weights::open_dir(path),
    };
    let weights = weights.map_err(ModelError::Weights)?;
    let decoder = Arc::new(Decoder::bind(&model, &weights).map_err(ModelError::Bind)?);
    let weights_open = begun.elapsed();
    let wishes = wishes(config, &decoder);
    let planned = plan(&model, weights.total_bytes(), &wishes).map_err(ModelError::Memory)?;
    let backend = build(config, &decoder, &planned, &wishes)?;
    Ok(Computed {
        backend,
        max_model_len: planned.max_model_len,
        weights_bytes: weights.total_bytes(),
        weights_open,
        proof: weights.proof().to_string(),
    })
}

fn wishes(config: &WorkerConfig, decoder: &Decoder) -> MemoryOptions {
    MemoryOptions {
        budget_bytes: None,
        kv_cache_bytes: config.kv_cache_bytes,
        max_model_len: config.max_model_len,
        max_num_seqs: config.max_num_seqs,
        max_rows: config.max_num_batched_tokens,
        max_logits_rows: logits_rows(config),
        kv_float: kv_dtype(config.kv_cache_dtype).float(decoder.head().float()),
    }
}

fn logits_rows(config: &WorkerConfig) -> usize {
    (config.max_num_seqs + PROMPT_LOGITS_ROWS).min(config.max_num_seqs.max(config.max_num_batched_tokens))
}

fn kv_dtype(configured: KvCacheDtype) -> KvDtype {
    match configured {
        KvCacheDtype::Auto => KvDtype::Auto,
        KvCacheDtype::F32 => KvDtype::F32,
        KvCacheDtype::F16 => KvDtype::F16,
        KvCacheDtype::Bf16 => KvDtype::Bf16,
    }
}

fn build(
    config: &WorkerConfig,
    decoder: &Arc<Decoder>,
    planned: &MemoryPlan,
    wishes: &MemoryOptions,
) -> Result<Box<dyn Backend>, ModelError> {
    let (max_rows, max_logits_rows) = (wishes.max_rows, wishes.max_logits_rows);
    let max_position = Some(planned.max_model_len);
    if config.backend == BackendKind::Candle {
        let options = CandleOptions { max_rows, max_logits_rows, kv_blocks: planned.kv_blocks, max_position };
        let backend = CandleBackend::new(decoder, &options).map_err(|cause| ModelError::Backend(cause.into()))?;
        return Ok(Box::new(backend));
    }
    let options = CpuOptions {
        threads: config.threads.and_then(NonZeroUsize::new),
        max_rows,
        max_logits_rows,
        kv_blocks: planned.kv_blocks,
        kv_dtype: kv_dtype(config.kv_cache_dtype),
        max_position,
        instruction_set: None,
    };
    let backend = CpuBackend::new(decoder, &options).map_err(|cause| ModelError::Backend(cause.into()))?;
    Ok(Box::new(backend))
}

fn scripted(config: &WorkerConfig, model: &Config) -> Computed {
    let max_model_len = config.max_model_len.unwrap_or(SCRIPTED_POSITIONS);
    let kv_blocks = (max_model_len * config.max_num_seqs).div_ceil(KV_BLOCK_TOKENS);
    let limits = Limits {
        vocab_size: model.vocab_size,
        max_position: max_model_len,
        max_rows: config.max_num_batched_tokens,
        max_logits_rows: logits_rows(config),
        kv_block_tokens: KV_BLOCK_TOKENS,
        kv_blocks: config.kv_cache_bytes.map_or(kv_blocks, |bytes| (bytes as usize / (KV_BLOCK_TOKENS * 4)).max(1)),
        kv_block_bytes: KV_BLOCK_TOKENS * 4,
    };
    let max_model_len = max_model_len.min(limits.kv_blocks * KV_BLOCK_TOKENS);
    let step = Duration::from_millis(config.scripted_step_ms);
    let backend = ScriptedBackend::new(ScriptedOptions { limits, step, row: Duration::ZERO });
    Computed {
        backend: Box::new(backend),
        max_model_len,
        weights_bytes: 0,
        weights_open: Duration::ZERO,
        proof: "none".into(),
    }
}
