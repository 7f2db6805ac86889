//! Progress of each model: for `/status`, the terminal and callers that wait.
//!
//! Values only: loads and swaps write them, and they know neither.

use std::time::Duration;

use tokio::sync::watch;
use wire::status::{ModelDigests, ModelPhase, Quantization};

/// Progress of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelProgress {
    /// The name requests use.
    pub id: String,
    /// The phase of its weights.
    pub phase: ModelPhase,
    /// Bytes of weights that have arrived and are verified.
    pub bytes_loaded: u64,
    /// Bytes of weights there are; 0 before their headers are known.
    pub bytes_total: u64,
    /// Time until the rest has arrived, at the present rate.
    pub eta: Option<Duration>,
    /// The time until all weights were there; none before.
    pub ready_after: Option<Duration>,
    /// The result of quantizing its weights; none before, and where it was not asked for.
    pub quantization: Option<Quantization>,
    /// Digests of what it is made of; none before its files were read.
    pub digests: Option<ModelDigests>,
    /// The error of the last load or swap that failed.
    pub error: Option<String>,
}

impl ModelProgress {
    /// True if all its weights are there.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, ModelPhase::Ready | ModelPhase::Swapping)
    }
}

/// Progress of all models of a worker.
#[derive(Debug)]
pub(crate) struct Board(watch::Sender<Vec<ModelProgress>>);

impl Board {
    /// A board on which nothing has begun.
    pub(crate) fn new(ids: impl IntoIterator<Item = String>) -> Self {
        let fresh = |id| ModelProgress {
            id,
            phase: ModelPhase::Probing,
            bytes_loaded: 0,
            bytes_total: 0,
            eta: None,
            ready_after: None,
            quantization: None,
            digests: None,
            error: None,
        };
        Self(watch::Sender::new(ids.into_iter().map(fresh).collect()))
    }

    /// Changes what is known of one model.
    pub(crate) fn update(&self, id: &str, change: impl FnOnce(&mut ModelProgress)) {
        self.0.send_if_modified(|models| {
            let Some(model) = models.iter_mut().find(|model| model.id == id) else { return false };
            let before = model.clone();
            change(model);
            *model != before
        });
    }

    /// All weights are there, `took` after the load or swap began.
    pub(crate) fn ready(&self, id: &str, took: Duration) {
        self.update(id, |model| {
            (model.phase, model.eta, model.bytes_loaded) = (ModelPhase::Ready, None, model.bytes_total);
            model.ready_after = Some(took);
        });
    }

    /// Begins a swap, where nothing else is under way. Returns true if it was begun.
    pub(crate) fn begin_swap(&self, id: &str) -> bool {
        self.0.send_if_modified(|models| {
            let Some(model) = models.iter_mut().find(|model| model.id == id) else { return false };
            let is_free = model.phase == ModelPhase::Ready;
            if is_free {
                (model.phase, model.error) = (ModelPhase::Swapping, None);
            }
            is_free
        })
    }

    /// All models, in the order they were given.
    pub(crate) fn all(&self) -> Vec<ModelProgress> {
        self.0.borrow().clone()
    }

    /// One model.
    pub(crate) fn of(&self, id: &str) -> Option<ModelProgress> {
        self.0.borrow().iter().find(|model| model.id == id).cloned()
    }

    /// A receiver of every change.
    pub(crate) fn watch(&self) -> watch::Receiver<Vec<ModelProgress>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_swap_at_a_time_and_none_of_what_is_not_ready() {
        let board = Board::new(["m".to_owned()]);
        assert!(!board.begin_swap("m") && !board.begin_swap("unknown"));
        board.update("m", |model| model.phase = ModelPhase::Ready);
        assert!(board.begin_swap("m"));
        assert!(!board.begin_swap("m"));
        assert!(board.of("m").is_some_and(|model| model.is_ready()), "the old revision serves meanwhile");
    }

    #[test]
    fn who_watches_hears_of_changes_and_of_nothing_else() {
        let board = Board::new(["m".to_owned()]);
        let mut watch = board.watch();
        board.update("m", |model| model.bytes_total = 0);
        assert!(!watch.has_changed().expect("a sender"));
        board.update("m", |model| model.bytes_total = 7);
        assert_eq!(watch.borrow_and_update()[0].bytes_total, 7);
    }
}
