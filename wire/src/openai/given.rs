//! A field's value as a request gives it, and its checked readings. The scan has checked its type already; what is
//! left is ranges, and values inside values.

use super::complaint::complaint;
use super::error::ApiError;
use super::value::{integer, same};
use serde::de::DeserializeOwned;

/// The value of a known field.
#[derive(Debug, Clone, Copy)]
pub struct Given<'b> {
    /// The field's name.
    pub(super) name: &'static str,
    /// Its JSON.
    pub(super) raw: &'b [u8],
}

impl Given<'_> {
    /// The value as `T`.
    pub(super) fn json<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        let mut json = serde_json::Deserializer::from_slice(self.raw);
        let mut track = serde_path_to_error::Track::new();
        T::deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track)).map_err(|cause| {
            let inner = track.path().to_string();
            let dot = if inner.starts_with('[') { "" } else { "." };
            let path = if inner == "." { self.name.to_owned() } else { format!("{}{dot}{inner}", self.name) };
            ApiError::invalid(path.clone(), complaint(&path, &cause.to_string()))
        })
    }

    pub(super) fn boolean(self) -> bool {
        self.raw == b"true"
    }

    /// An integer within `low..=high`.
    pub(super) fn integer(self, low: i64, high: i64) -> Result<i64, ApiError> {
        match integer(self.raw) {
            Some(value) if (low..=high).contains(&value) => Ok(value),
            _ => Err(self.wrong(&format!("an integer between {low} and {high}"))),
        }
    }

    /// A count of up to `high`.
    pub(super) fn count(self, high: u32) -> Result<u32, ApiError> {
        // The range fits.
        Ok(u32::try_from(self.integer(0, high.into())?).unwrap_or(high))
    }

    /// A number within `low..=high`. JSON has no NaN, and infinities are out of every range.
    pub(super) fn number(self, low: f64, high: f64) -> Result<f32, ApiError> {
        let value = std::str::from_utf8(self.raw).ok().and_then(|text| text.parse::<f64>().ok());
        match value {
            #[expect(clippy::cast_possible_truncation, reason = "within a small range; precision is not at stake")]
            Some(value) if (low..=high).contains(&value) => Ok(value as f32),
            _ => Err(self.wrong(&format!("a number between {low} and {high}"))),
        }
    }

    /// A number above `low`, up to `high`.
    pub(super) fn number_above(self, low: f64, high: f64, instead: &str) -> Result<f32, ApiError> {
        let value = self.number(low, high)?;
        if f64::from(value) > low {
            return Ok(value);
        }
        Err(ApiError::invalid(self.name, format!("`{}` must be above {low}; {instead}", self.name)))
    }

    pub(super) fn wrong(self, wanted: &str) -> ApiError {
        let shown = String::from_utf8_lossy(&self.raw[..self.raw.len().min(32)]);
        ApiError::invalid(self.name, format!("`{}` must be {wanted}, not {shown}", self.name))
    }

    /// Refuses what is not done, unless the value asks for nothing.
    pub(super) fn refuse(self, unless: &[&str]) -> Result<(), ApiError> {
        if unless.iter().any(|harmless| same(self.raw, harmless.as_bytes())) {
            return Ok(());
        }
        let name = self.name;
        Err(ApiError::unsupported(name, format!("`{name}` is not supported yet; leave it out")))
    }
}
