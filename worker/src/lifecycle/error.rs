//! Errors of starting a worker, and of loading or swapping one of its models.

use std::sync::Arc;

use loader::{LoadError, ModelUrlError};
use policy::trust::Refusal;
use thiserror::Error;

use crate::engine::SwapError;
use compute::backend::StepError;
use compute::memory::MemoryError;
use compute::memory::take::TakeError;
use compute::{BuildError, DeviceError};
use models::gguf::GgufModelError;
use models::tokenizer::TextError;
use models::tokenizer_json::FormError;
use models::{BindError, ConfigError};

/// Errors of starting a worker.
#[derive(Debug, Error)]
pub enum StartError {
    /// A configuration that cannot be honoured.
    #[error("checking the configuration: {0}")]
    Config(String),
    /// A MODEL argument that means nothing.
    #[error("the model `{source_text}` {problem}")]
    Source {
        /// The argument as given.
        source_text: String,
        /// The problem, and the fix.
        problem: String,
    },
    /// A MODEL argument that is no URL.
    #[error("the model {0}")]
    Url(ModelUrlError),
    /// Two models of one name.
    #[error("two models are named `{0}`; name one with NAME=DIR")]
    SameName(String),
    /// The loader cannot work as configured.
    #[error("preparing to load models")]
    Loader(#[source] LoadError),
    /// The device asked for is not there.
    #[error("opening the device asked for; `device = \"cpu\"` computes without one")]
    Device(#[source] DeviceError),
    /// One model cannot be served.
    #[error("loading the model `{model}`")]
    Load {
        /// The model's name.
        model: String,
        /// The cause.
        #[source]
        source: Box<ModelError>,
    },
    /// The load ended without a word: a panic in it.
    #[error("loading the models: the loading task ended early")]
    Lost,
}

/// Errors of loading or swapping one model.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The first look failed.
    #[error("looking at its files")]
    Probe(#[source] LoadError),
    /// A GGUF file is no model of ours.
    #[error(transparent)]
    Gguf(GgufModelError),
    /// A file is missing.
    #[error("reading {place}: there is no {name}; {advice}")]
    NoFile {
        /// The file's name.
        name: &'static str,
        /// The model's place.
        place: String,
        /// The way out.
        advice: &'static str,
    },
    /// Nobody vouches for it as the configuration demands.
    #[error("deciding whom to believe")]
    Untrusted(#[source] Refusal),
    /// `config.json`.
    #[error(transparent)]
    Config(ConfigError),
    /// Weights.
    #[error("opening the weights")]
    Weights(#[source] LoadError),
    /// Weights that did not all arrive.
    #[error("loading the weights")]
    Arrival(#[source] Arc<LoadError>),
    /// Weights that do not fit the config.
    #[error("matching the weights with config.json")]
    Bind(#[source] BindError),
    /// Tokenizer or template.
    #[error("reading the tokenizer")]
    Text(#[source] TextError),
    /// A vocabulary in another form than `tokenizer.json`.
    #[error("reading the tokenizer")]
    Form(#[source] FormError),
    /// A file that the configuration names instead of the model's own.
    #[error("{key}: {problem}")]
    Instead {
        /// The key.
        key: &'static str,
        /// The fault.
        problem: String,
    },
    /// Too little memory for the wishes.
    #[error("planning its memory")]
    Memory(#[source] MemoryError),
    /// Too little memory for the KV cache, when it was to be taken.
    #[error(transparent)]
    Take(TakeError),
    /// The backend.
    #[error("building its backend")]
    Backend(#[source] BuildError),
    /// Weights that could not be quantized.
    #[error("quantizing the weights")]
    Quantize(#[source] StepError),
    /// A thread.
    #[error("starting its engine thread")]
    Thread(#[source] std::io::Error),
    /// A revision that cannot replace what is served.
    #[error("{field} differs from the model being served; start a worker with the new one instead")]
    Differs {
        /// The part that differs.
        field: String,
    },
    /// The backend has no weights to swap, or the engine refused.
    #[error("swapping its weights")]
    Swap(#[source] SwapError),
    /// Another task panicked.
    #[error("a loading task panicked")]
    Lost,
}

/// An error with all its causes, for a line of a log or an answer.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    wire::Chain(error).to_string()
}
