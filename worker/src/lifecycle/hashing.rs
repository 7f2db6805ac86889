//! Hashes the weights of a trusted directory once it is served, so that its KV blocks get the names that other workers
//! with the same weights use.
//!
//! A thread of its own reads the mapped files at the lowest priority and at a configured pace. It ends early where the
//! weights are not served any more. Files that changed meanwhile keep their private name.

use super::context::Context;
use super::identity;
use super::resident::{Arrived, Resident};
use crate::engine::EngineHandle;
use compute::backend::Generation;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use telemetry::names;
use wire::digest::Digest;

/// The longest sleep between two looks at whether the hash is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Begins to hash a model's weights, where nobody did and the configuration wants it.
pub(super) fn begin(context: &Arc<Context>, model: &str, engine: &EngineHandle) {
    let bytes_per_second = context.config.hash_bytes_per_second;
    let Some(resident) = context.resident(model) else { return };
    // A name that is no file's and no directory's cannot become public.
    let Some(weights) = resident.weights.clone().filter(|weights| weights.stamps.is_some()) else { return };
    if bytes_per_second == 0 || resident.identity.is_public() {
        return;
    }
    let task = Task {
        context: Arc::downgrade(context),
        model: model.to_owned(),
        weights: Arc::downgrade(&weights),
        engine: engine.clone(),
        generation: resident.generation,
        pace: Pace { begun: Instant::now(), bytes_per_second },
    };
    if let Err(error) = std::thread::Builder::new().name(format!("hash-{model}")).spawn(move || task.run()) {
        tracing::warn!(model, %error, "the weights are not hashed: the names of KV blocks stay private");
    }
}

/// The hashing of one model's weights. It keeps neither them nor the worker alive beyond an extent.
struct Task {
    context: Weak<Context>,
    model: String,
    weights: Weak<Arrived>,
    engine: EngineHandle,
    generation: Generation,
    pace: Pace,
}

impl Task {
    fn run(self) {
        lower_priority();
        let Some(weights) = self.weights.upgrade().map(|arrived| arrived.weights.clone()) else { return };
        let mut done = 0;
        let hashed = weights.hash(&mut |bytes| {
            done += bytes;
            self.goes_on(done)
        });
        drop(weights);
        if let Some(digest) = hashed {
            self.publish(&digest);
        }
    }

    /// Notes how far it is and waits for its turn. False: the weights are not served any more.
    fn goes_on(&self, done: u64) -> bool {
        loop {
            let Some(context) = self.context.upgrade().filter(|context| self.is_wanted(context)) else { return false };
            #[expect(clippy::cast_precision_loss, reason = "a gauge of bytes")]
            context.registry.gauge(&names::WORKER_HASHED_BYTES).with_label_values(&[&self.model]).set(done as f64);
            drop(context);
            match self.pace.wait(done, Instant::now()) {
                Duration::ZERO => return true,
                wait => std::thread::sleep(wait.min(LOOK_EVERY)),
            }
        }
    }

    fn is_wanted(&self, context: &Context) -> bool {
        let weights = self.weights.upgrade();
        context.resident(&self.model).zip(weights).is_some_and(|(resident, weights)| resident.has(&weights))
    }

    /// Gives the weights the name that all with the same bytes have.
    fn publish(&self, digest: &Digest) {
        let (Some(context), Some(weights)) = (self.context.upgrade(), self.weights.upgrade()) else { return };
        let (model, kind) = (&self.model, &*context.kind);
        let mut residents = context.residents.lock();
        let Some(resident) = residents.get(model).filter(|resident| resident.has(&weights)) else { return };
        let stamps = weights.stamps.clone().unwrap_or_default();
        let files = weights.weights.files();
        if !stamps.iter().zip(files).all(|(stamp, file)| stamp.is_of(Path::new(&file.name))) {
            tracing::warn!(
                model,
                "the model's files changed while they were hashed: the names of KV blocks stay private"
            );
            return;
        }
        let identity = identity::of_bytes(digest, &resident.config, kind);
        context.private.publish(stamps, &resident.config, kind, identity);
        let resident = Resident { identity, ..Resident::clone(resident) };
        residents.insert(model.clone(), Arc::new(resident));
        drop(residents);
        context.board.update(model, |progress| {
            progress.digests.iter_mut().for_each(|digests| digests.weights = Some(digest.to_string()));
        });
        // Last: whoever sees the new name finds the rest.
        self.engine.identify(self.generation, identity);
        let took_ms = self.pace.begun.elapsed().as_secs_f64() * 1e3;
        tracing::info!(model, took_ms, %identity, "the weights are hashed: the names of KV blocks are public from now on");
    }
}

/// A bound on bytes by time.
#[derive(Debug, Clone, Copy)]
struct Pace {
    begun: Instant,
    bytes_per_second: u64,
}

impl Pace {
    /// The wait until so many bytes may have been read.
    fn wait(&self, bytes: u64, now: Instant) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a pace")]
        let due = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        due.saturating_sub(now.saturating_duration_since(self.begun))
    }
}

/// Lowers this thread's priority; where that cannot be, the pace alone bounds what it takes.
fn lower_priority() {
    // On Linux a nice value is a thread's, whatever POSIX says; elsewhere it would be the process's.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "the priority of hashing cannot be lowered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_bounds_bytes_by_time() {
        let begun = Instant::now();
        let pace = Pace { begun, bytes_per_second: 1000 };
        assert_eq!(pace.wait(0, begun), Duration::ZERO);
        assert_eq!(pace.wait(500, begun), Duration::from_millis(500));
        assert_eq!(pace.wait(500, begun + Duration::from_millis(200)), Duration::from_millis(300));
        assert_eq!(pace.wait(500, begun + Duration::from_secs(9)), Duration::ZERO);
    }
}
