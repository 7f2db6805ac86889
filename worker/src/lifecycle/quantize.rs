//! A model's matrices are quantized, or copied to a device, as they arrive, beside the steps that need them; what
//! quantizing lost is reported.
//!
//! It knows no block and no scale: the backend's kind does it, and measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use telemetry::names;
use tokio::task::{JoinHandle, spawn_blocking};
use wire::status::Quantization;

use super::context::Context;
use super::error::ModelError;
use compute::backend::{Prepared, StepError};

/// Weights that are being quantized; dropping it ends that with the next part.
pub(super) struct Quantizing {
    prepared: Arc<dyn Prepared>,
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
    /// Begins, and shares the copies that `base`, which serves meanwhile, has of the same bytes.
    pub(super) fn begin(prepared: &Arc<dyn Prepared>, base: Option<Arc<dyn Prepared>>) -> Self {
        let flag = Arc::new(AtomicBool::new(true));
        let (work, wanted) = (Arc::clone(prepared), Arc::clone(&flag));
        let task = spawn_blocking(move || {
            let begun = Instant::now();
            let done = work.complete(base.as_deref(), &|| wanted.load(Ordering::Relaxed));
            (done, begun.elapsed())
        });
        Self { prepared: Arc::clone(prepared), task, is_wanted: Wanted(flag) }
    }

    /// Waits until all is done and reports what was lost.
    pub(super) async fn finish(self, context: &Context, name: &str) -> Result<(), ModelError> {
        let Self { prepared, task, is_wanted } = self;
        let (done, took) = task.await.map_err(|_| ModelError::Lost)?;
        drop(is_wanted);
        done.map_err(ModelError::Quantize)?;
        if context.config.quantization.is_some() {
            report(context, name, &*prepared, took);
        } else {
            tracing::info!(model = name, took_ms = took.as_secs_f64() * 1e3, "the weights are on the device");
        }
        Ok(())
    }
}

fn report(context: &Context, name: &str, prepared: &dyn Prepared, took: Duration) {
    let (loss, format) = (prepared.loss(), context.config.quantization.map_or("", |format| format.name()));
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
    let quantization = Quantization {
        format: format.to_owned(),
        matrices: loss.matrices as u64,
        bytes: loss.bytes,
        relative_error_mean: loss.mean,
        relative_error_max: loss.max,
        worst: loss.worst,
    };
    context.board.update(name, |model| model.quantization = Some(quantization));
}
