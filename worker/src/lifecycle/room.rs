//! Memory for a model's KV cache, taken beside the arrival of its weights: readiness waits for it, so that a worker that
//! is ready has what it may ever need, and one that has not says so at the start.

use super::error::ModelError;
use compute::cpu::Pages;
use compute::memory::machine::free_bytes;
use compute::memory::take::{Piece, TakeError, take};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Memory on its way.
pub(super) struct Room(oneshot::Receiver<Result<Duration, TakeError>>);

impl Room {
    /// Begins to take it, in a thread that ends early where the backend does: a start that fails does not wait for it.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn take(model: &str, pages: Pages) -> Result<Self, ModelError> {
        let (sender, receiver) = oneshot::channel();
        let name = model.to_owned();
        let work = move || {
            // The receiver may be gone.
            let _ = sender.send(take_all(&name, &pages));
        };
        std::thread::Builder::new().name(format!("kv-{model}")).spawn(work).map_err(ModelError::Thread)?;
        Ok(Self(receiver))
    }

    /// Waits until it is taken: how long that took.
    pub(super) async fn taken(self) -> Result<Duration, ModelError> {
        self.0.await.map_err(|_| ModelError::Lost)?.map_err(ModelError::Take)
    }
}

fn take_all(model: &str, pages: &Pages) -> Result<Duration, TakeError> {
    let (begun, bytes) = (Instant::now(), pages.bytes());
    let piece = |range| {
        if pages.is_orphaned() {
            return Ok(Piece::Unwanted);
        }
        Ok(if pages.make(range)? { Piece::Taken } else { Piece::Unsupported })
    };
    let taken = take(bytes, piece, free_bytes)?;
    let took = begun.elapsed();
    if taken == bytes as u64 {
        tracing::info!(model, bytes, took_ms = took.as_secs_f64() * 1e3, "the KV cache has its memory");
    } else if !pages.is_orphaned() {
        tracing::warn!(model, bytes, taken, "this system cannot take the KV cache's memory beforehand; it may run out");
    }
    Ok(took)
}
