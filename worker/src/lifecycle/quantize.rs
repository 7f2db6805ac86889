//! A model's matrices are quantized as they arrive, beside the steps that need them, and what that lost is told.
//!
//! It knows no block and no scale: the `cpu` backend does it, and measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use telemetry::names;
use tokio::task::{JoinHandle, spawn_blocking};
use wire::status::Quantization;

use super::Context;
use super::computed::threads;
use super::error::ModelError;
use crate::config::WorkerConfig;
use compute::backend::StepError;
use compute::cpu::Staged;

/// Weights that are being quantized; dropping it ends that with the next part.
pub(super) struct Quantizing {
    staged: Arc<Staged>,
    task: JoinHandle<(Result<(), StepError>, Duration)>,
    is_wanted: Wanted,
}

/// Says no from its drop on.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Quantizing {
    /// Begins, and shares the copies that `base` has of the same bytes. `base` serves meanwhile, and its streams need the
    /// threads: beside it one is enough.
    pub(super) fn begin(config: &WorkerConfig, staged: Arc<Staged>, base: Option<Arc<Staged>>) -> Self {
        let flag = Arc::new(AtomicBool::new(true));
        let threads = if base.is_some() { 1 } else { threads(config) };
        let (work, wanted) = (Arc::clone(&staged), Arc::clone(&flag));
        let task = spawn_blocking(move || {
            let begun = Instant::now();
            let done = work.complete(threads, base.as_deref(), &|| wanted.load(Ordering::Relaxed));
            (done, begun.elapsed())
        });
        Self { staged, task, is_wanted: Wanted(flag) }
    }

    /// Waits until all is done and tells what was lost.
    pub(super) async fn finish(self, context: &Context, name: &str) -> Result<(), ModelError> {
        let Self { staged, task, is_wanted } = self;
        let (done, took) = task.await.map_err(|_| ModelError::Lost)?;
        drop(is_wanted);
        done.map_err(ModelError::Quantize)?;
        tell(context, name, &staged, took);
        Ok(())
    }
}

fn tell(context: &Context, name: &str, staged: &Staged, took: Duration) {
    let (loss, format) = (staged.loss(), context.config.quantization.map_or("", |format| format.name()));
    tracing::info!(
        model = name,
        format,
        matrices = loss.matrices,
        bytes = loss.bytes,
        relative_error_mean = loss.mean,
        relative_error_max = loss.max,
        worst = loss.worst,
        took_ms = took.as_secs_f64() * 1e3,
        "the weights are quantized"
    );
    let registry = &context.registry;
    #[expect(clippy::cast_precision_loss, reason = "a gauge of bytes")]
    registry.gauge(&names::WORKER_QUANTIZED_BYTES).with_label_values(&[name]).set(loss.bytes as f64);
    for (over, error) in [("mean", loss.mean), ("max", loss.max)] {
        registry.gauge(&names::WORKER_QUANTIZATION_ERROR).with_label_values(&[name, over]).set(error);
    }
    let seconds = registry.gauge(&names::WORKER_LOAD_SECONDS);
    seconds.with_label_values(&[name, "quantization"]).set(took.as_secs_f64());
    let told = Quantization {
        format: format.to_owned(),
        matrices: loss.matrices as u64,
        bytes: loss.bytes,
        relative_error_mean: loss.mean,
        relative_error_max: loss.max,
        worst: loss.worst,
    };
    context.board.update(name, |model| model.quantization = Some(told));
}
