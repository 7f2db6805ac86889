//! Forms of answers for one model: grammars are compiled beside the requests, kept for those that ask for the same, and
//! their masks are computed beside the model (`masks`). It knows no HTTP; an error names the field that asked.

mod cache;
mod masks;
mod rules;

pub(crate) use rules::{Budget, Rules};

use crate::engine::Guide;
use cache::{Cache, Name};
use masks::{Job, Masks};
use models::grammar::{Grammar, GrammarError, STACK_BYTES, Shape, Vocabulary};
use models::tokenizer::Tokenizer;
use parking_lot::Mutex;
use prometheus::{Gauge, Histogram, IntCounterVec};
use rules::Ruled;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use telemetry::metrics::Registry;
use telemetry::names;
use tokio::sync::Semaphore;
use wire::openai::{ApiError, ErrorKind};

/// Grammars that are compiled at a time: each keeps a core busy for some milliseconds, and the model wants them, too.
const COMPILES_MAX: usize = 2;

/// The forms of one model's answers.
#[derive(Debug)]
pub(crate) struct Structures {
    model: String,
    tokenizer: Arc<Tokenizer>,
    /// Tokens that have logits.
    vocabulary_size: usize,
    /// Built once, beside the loading of the weights, or by a request that comes before.
    vocabulary: OnceLock<Result<Vocabulary, GrammarError>>,
    kept: Mutex<Cache<Result<Arc<Grammar>, GrammarError>>>,
    places: Semaphore,
    masks: Masks,
    meters: Meters,
}

#[derive(Debug)]
struct Meters {
    vocabulary_bytes: Gauge,
    kept: Gauge,
    compile_s: Histogram,
    asked: IntCounterVec,
}

impl Meters {
    fn new(registry: &Registry, model: &str) -> Self {
        registry.begin(&names::WORKER_GRAMMARS, &[model]);
        Self {
            vocabulary_bytes: registry.gauge(&names::WORKER_GRAMMAR_VOCABULARY_BYTES).with_label_values(&[model]),
            kept: registry.gauge(&names::WORKER_GRAMMARS_KEPT).with_label_values(&[model]),
            compile_s: registry.histogram(&names::WORKER_GRAMMAR_COMPILE).with_label_values(&[model]),
            asked: registry.counter(&names::WORKER_GRAMMARS),
        }
    }
}

impl Structures {
    /// The forms of a model that keeps so many grammars; starts the thread of masks.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn new(
        model: &str,
        tokenizer: Arc<Tokenizer>,
        vocabulary_size: usize,
        kept_max: usize,
        registry: &Registry,
    ) -> std::io::Result<Arc<Self>> {
        let of_masks = masks::Meters {
            seconds: registry.histogram(&names::WORKER_MASK).with_label_values(&[model]),
            hurried: registry.counter(&names::WORKER_FORMS_HURRIED).with_label_values(&[model]),
        };
        Ok(Arc::new(Self {
            model: model.to_owned(),
            tokenizer,
            vocabulary_size,
            vocabulary: OnceLock::new(),
            kept: Mutex::new(Cache::new(kept_max)),
            places: Semaphore::new(COMPILES_MAX),
            masks: Masks::start(model, of_masks)?,
            meters: Meters::new(registry, model),
        }))
    }

    /// Has the vocabulary built in the background.
    pub(crate) fn prepare(self: &Arc<Self>) {
        let structures = Arc::downgrade(self);
        let build = move || {
            if let Some(structures) = structures.upgrade() {
                // Who asks for a form is told what is wrong with it.
                _ = structures.vocabulary();
            }
        };
        self.masks.send(Job::Other(Box::new(build)));
    }

    fn vocabulary(&self) -> Result<&Vocabulary, GrammarError> {
        let built = self.vocabulary.get_or_init(|| {
            let vocabulary = Vocabulary::new(&self.tokenizer, self.vocabulary_size);
            #[expect(clippy::cast_precision_loss, reason = "a gauge of bytes")]
            if let Ok(vocabulary) = &vocabulary {
                self.meters.vocabulary_bytes.set(vocabulary.bytes() as f64);
            }
            vocabulary
        });
        built.as_ref().map_err(Clone::clone)
    }

    /// The grammar of a shape that the field `param` asks for, compiled where nobody asked for the same lately.
    ///
    /// # Errors
    /// 400, naming the field, where it cannot be had.
    pub(crate) async fn grammar(self: &Arc<Self>, shape: Shape, param: &str) -> Result<Arc<Grammar>, ApiError> {
        let name = Name::of(&shape);
        let found = self.kept.lock().get(&name);
        let compiled = match found {
            Some(found) => {
                self.count("kept");
                found
            }
            None => self.compile(name, shape).await?,
        };
        compiled.map_err(|cause| ApiError::invalid(param, format!("`{param}`: {cause}")))
    }

    async fn compile(
        self: &Arc<Self>,
        name: Name,
        shape: Shape,
    ) -> Result<Result<Arc<Grammar>, GrammarError>, ApiError> {
        let failed = || ApiError::new(ErrorKind::Internal, "compiling the form failed");
        let _place = self.places.acquire().await.map_err(|_| failed())?;
        // Somebody before us may have asked for the same.
        if let Some(found) = self.kept.lock().get(&name) {
            self.count("kept");
            return Ok(found);
        }
        let (reply, compiled) = tokio::sync::oneshot::channel();
        let structures = Arc::clone(self);
        let work = move || {
            let begun = Instant::now();
            let compiled = structures.vocabulary().and_then(|vocabulary| vocabulary.compile(&shape)).map(Arc::new);
            structures.meters.compile_s.observe(begun.elapsed().as_secs_f64());
            // The request may be gone.
            _ = reply.send(compiled);
        };
        let thread = std::thread::Builder::new().name(format!("grammar-{}", self.model)).stack_size(STACK_BYTES);
        thread.spawn(work).map_err(|_| failed())?;
        let compiled = compiled.await.map_err(|_| failed())?;
        self.count(if compiled.is_ok() { "compiled" } else { "refused" });
        let kept = self.kept.lock().insert(name, compiled.clone());
        self.meters.kept.set(f64::from(u32::try_from(kept).unwrap_or(u32::MAX)));
        Ok(compiled)
    }

    fn count(&self, outcome: &str) {
        self.meters.asked.with_label_values(&[&self.model, outcome]).inc();
    }

    /// The guide of one sequence of at most so many tokens, along a grammar and under rules; `None` where every token may
    /// come.
    pub(crate) fn guide(
        &self,
        grammar: Option<&Arc<Grammar>>,
        rules: &Rules,
        tokens_max: usize,
    ) -> Option<Box<dyn Guide>> {
        if grammar.is_none() && rules.is_empty() {
            return None;
        }
        let along = grammar.map(|grammar| self.masks.along(Arc::clone(grammar)));
        Some(Box::new(Ruled::new(rules.clone(), along, tokens_max)))
    }
}
