//! Errors of steps and of installing weights.

use std::sync::Arc;
use tensor::Part;
use thiserror::Error;

/// Errors of a step.
#[derive(Debug, Error)]
pub enum StepError {
    /// The caller broke a limit; a bug of ours.
    #[error("running a step: {0}")]
    Contract(String),
    /// The device failed.
    #[error("running a step on the {backend} backend")]
    Device {
        /// The backend.
        backend: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Weights did not arrive: the load has failed.
    #[error("waiting for the weights of {part}: tensor `{tensor}` of {object} will not arrive")]
    Weights {
        /// The part of the model that needed it.
        part: Part,
        /// The tensor.
        tensor: String,
        /// The file or object it is in.
        object: String,
        /// The load's error.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Nobody wants the step any more; it ended before its time.
    #[error("waiting for the weights of {part}: the step is not wanted any more")]
    Unwanted {
        /// The part it was waiting for.
        part: Part,
    },
}

/// Errors of installing a revision. The backend is as it was.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum InstallError {
    /// The backend has one generation for its life, or the weights were prepared for another kind.
    #[error(
        "installing a revision: the {backend} backend cannot take these weights in the place of its own; restart the worker instead"
    )]
    Unsupported {
        /// The backend.
        backend: &'static str,
    },
    /// Sizes or formats differ from what arena and KV storage were made for.
    #[error("installing a revision: {field} differs from the model being served; restart the worker with it instead")]
    Differs {
        /// The field.
        field: &'static str,
    },
}
