//! Bytes on storage become mapped weights that others read in place.
//!
//! A directory as Hugging Face publishes it (or one file compiled into the binary) is opened by
//! reading headers only: each shard file is mapped once ([`Region`]), each tensor is a view into a
//! region ([`Tensor`]), and [`Weights`] finds them by name. Nothing is copied and no page of
//! weights is touched before someone computes with it.
//!
//! This room knows the safetensors and the GGUF format. It knows no model, no kernel and no HTTP handler.

mod attested;
pub mod cache;
pub mod conformance;
mod content;
pub mod disk;
mod error;
pub mod fetch;
pub mod gguf;
pub mod header;
mod identity;
mod json;
pub mod landing;
mod model_url;
mod open;
pub mod peers;
pub mod plan;
pub mod probe;
pub mod publish;
mod region;
pub mod remote;
pub mod source;
mod tensor;
mod verify;
mod weights;

pub use content::Content;
pub use error::LoadError;
pub use header::{Header, HeaderError, TensorInfo};
pub use landing::Landing;
pub use model_url::{ModelUrl, ModelUrlError, is_commit};
pub use open::{Load, Loader, LoaderConfig, OpenOptions, Summary};
pub use probe::Probe;
pub use region::{Lease, Region, file_behind, on_truncation};
pub use source::{Object, ReadOptions, Source, SourceError, Tag};
pub use tensor::Tensor;
pub use weights::{WeightFile, Weights};
pub use wire::proof::Proof;
