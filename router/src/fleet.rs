//! All workers: snapshots for the picker, and what the fleet as a whole serves.

use crate::pick::{Candidate, Verdict, pick};
use crate::worker::{ServedModel, State, Worker};
use policy::Moment;
use std::sync::Arc;
use wire::openai::models::Model;

/// The workers, as configured. Which there are does not change while the router runs; what each
/// of them is does (`Worker::view`).
#[derive(Debug)]
pub(crate) struct Fleet {
    workers: Vec<Arc<Worker>>,
}

impl Fleet {
    pub(crate) fn new(workers: Vec<Worker>) -> Self {
        Self { workers: workers.into_iter().map(Arc::new).collect() }
    }

    pub(crate) fn workers(&self) -> &[Arc<Worker>] {
        &self.workers
    }

    /// Picks a worker for `model` that is not among those `tried`.
    pub(crate) fn pick(
        &self,
        model: &str,
        tried: &[Arc<Worker>],
        now: Moment,
        random: u64,
    ) -> Result<&Arc<Worker>, Verdict> {
        let was_tried = |worker: &Arc<Worker>| tried.iter().any(|other| Arc::ptr_eq(other, worker));
        let look = |worker: &Arc<Worker>| worker.candidate(model, was_tried(worker), now);
        let candidates: Vec<Candidate> = self.workers.iter().map(look).collect();
        match pick(&candidates, random) {
            Verdict::Worker(at) => Ok(&self.workers[at]),
            verdict => Err(verdict),
        }
    }

    /// Whether any worker ever said that it has the model: what bounds the metrics' labels.
    pub(crate) fn knows(&self, model: &str) -> bool {
        self.workers.iter().any(|worker| worker.view().models.iter().any(|served| served.model.id == model))
    }

    /// Whether a worker takes requests.
    pub(crate) fn is_ready(&self) -> bool {
        self.workers.iter().any(|worker| {
            let view = worker.view();
            view.state == State::Healthy && view.models.iter().any(|served| served.is_ready)
        })
    }

    /// The models that can be asked for now, each once, in the workers' order.
    pub(crate) fn models(&self) -> Vec<Model> {
        let mut models: Vec<Model> = Vec::new();
        for worker in &self.workers {
            let view = worker.view();
            let is_listed = |served: &&ServedModel| view.state == State::Healthy && served.is_ready;
            for served in view.models.iter().filter(is_listed) {
                if !models.iter().any(|model| model.id == served.model.id) {
                    models.push(served.model.clone());
                }
            }
        }
        models
    }
}
