//! The kinds of backends there are, by their names in configurations. Nothing else lists them.

use crate::candle::Candle;
use crate::cpu::Cpu;
use crate::cuda::{self, DeviceError};
use crate::kind::{Kind, KvCacheDtype, Quantization};
use crate::scripted::Scripted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Our kernels over mapped weights.
    Cpu,
    /// The portable f32 reference.
    Candle,
    /// No weights.
    Scripted,
}

/// Formats of matrices, keys and values, and the share of the machine that computes.
#[derive(Debug, Clone, Copy, Default)]
pub struct KindOptions {
    /// Threads that compute; all the machine offers if none.
    pub threads: Option<NonZeroUsize>,
    /// The format of keys and values.
    pub kv_cache_dtype: KvCacheDtype,
    /// The format that matrices are converted to when they arrive; they are computed with as stored if none.
    pub quantization: Option<Quantization>,
    /// Duration of a step where nothing is computed.
    pub scripted_step: Duration,
}

impl BackendKind {
    /// Its name in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Candle => "candle",
            Self::Scripted => "scripted",
        }
    }

    /// True if it can convert matrices at load.
    #[must_use]
    pub const fn quantizes(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Candle | Self::Scripted => false,
        }
    }

    /// The kind of this name, as configured.
    #[must_use]
    pub fn configured(self, options: &KindOptions) -> Arc<dyn Kind> {
        match self {
            Self::Cpu => Arc::new(Cpu::new(options.threads, options.kv_cache_dtype, options.quantization)),
            Self::Candle => Arc::new(Candle),
            Self::Scripted => Arc::new(Scripted::new(options.scripted_step)),
        }
    }
}

/// The device that our own kernels run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum DeviceChoice {
    /// The CPU.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
    /// The first GPU; the CPU where there is none.
    Auto,
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = |number: &str| number.parse().ok().map(Self::Cuda);
        let choice = match &*text {
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            "auto" => Some(Self::Auto),
            _ => text.strip_prefix("cuda:").and_then(number),
        };
        choice.ok_or_else(|| format!("`{text}` is no device: cpu, cuda, cuda:N or auto"))
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        match choice {
            DeviceChoice::Cpu => "cpu".into(),
            DeviceChoice::Cuda(number) => format!("cuda:{number}"),
            DeviceChoice::Auto => "auto".into(),
        }
    }
}

impl DeviceChoice {
    /// The kind on the device chosen; none for the CPU. `kernels` is the directory for compiled kernels.
    ///
    /// # Errors
    /// There is no such device, or the kernels cannot be compiled for it.
    pub fn open(self, kernels: Option<&Path>) -> Result<Option<Arc<dyn Kind>>, DeviceError> {
        match self {
            Self::Cpu => Ok(None),
            Self::Cuda(number) => cuda::open(number, kernels).map(Some),
            Self::Auto => cuda::open(0, kernels).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, choice) in
            [("cpu", DeviceChoice::Cpu), ("auto", DeviceChoice::Auto), ("cuda:3", DeviceChoice::Cuda(3))]
        {
            assert_eq!(DeviceChoice::try_from(text.to_owned()), Ok(choice));
            assert_eq!(String::from(choice), text);
        }
        assert_eq!(DeviceChoice::try_from("cuda".to_owned()), Ok(DeviceChoice::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(DeviceChoice::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_machine_without_a_device_says_so_in_one_line() {
        assert!(matches!(DeviceChoice::Cpu.open(None), Ok(None)));
        // No machine has so many.
        let error = DeviceChoice::Cuda(4096).open(None).err().expect("there is none").to_string();
        assert!(error.starts_with("no CUDA device: ") && !error.contains('\n'), "{error}");
    }
}
