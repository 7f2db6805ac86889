//! The flight recorder's content as others get it: over HTTP, in the log, in a file.
//!
//! A file's name follows from model and cause, so that however often something goes wrong the
//! directory holds a few files and each the newest of its kind.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::activity::Activity;
use super::recorder::StepRecord;

/// Steps in a log line.
const LOGGED_STEPS: usize = 16;

/// One engine's recorder at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flight {
    /// The model.
    pub model: String,
    /// Unix milliseconds of this moment.
    pub at_unix_ms: u64,
    /// Unix milliseconds of the engine's start, from which `began_ms` of a step counts.
    pub began_unix_ms: u64,
    /// The engine thread's activity.
    #[serde(rename = "doing")]
    pub activity: Activity,
    /// The part of the model its step was at, where the backend says.
    pub part: Option<String>,
    /// Milliseconds since its last sign of life; none where it has ended.
    pub silent_ms: Option<u64>,
    /// Older steps that the recorder had no room for.
    pub dropped: u64,
    /// The steps, oldest first.
    pub steps: Vec<StepRecord>,
}

impl Flight {
    /// Puts the last steps into the log and all of them into a file of `directory`, where there is one.
    pub(super) fn dump(&self, cause: &str, directory: Option<&Path>) {
        let last = &self.steps[self.steps.len().saturating_sub(LOGGED_STEPS)..];
        // Numbers and a few words always serialise.
        let steps = serde_json::to_string(last).unwrap_or_default();
        tracing::error!(model = self.model, cause, %steps, "the flight recorder's last steps");
        let Some(directory) = directory else { return };
        match self.write(cause, directory) {
            Ok(path) => tracing::error!(path = %path.display(), "the flight recorder was written to a file"),
            Err(error) => {
                tracing::error!(directory = %directory.display(), %error, "writing the flight recorder failed");
            }
        }
    }

    /// Writes a file, whole or not at all.
    fn write(&self, cause: &str, directory: &Path) -> io::Result<PathBuf> {
        std::fs::create_dir_all(directory)?;
        let safe = |character: char| if character.is_ascii_alphanumeric() { character } else { '-' };
        let model: String = self.model.chars().map(safe).take(100).collect();
        let path = directory.join(format!("forebay-flight-{model}-{cause}.json"));
        let partial = path.with_extension("json.partial");
        std::fs::write(&partial, serde_json::to_vec(self).map_err(io::Error::other)?)?;
        std::fs::rename(&partial, &path)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_model_and_cause_and_holds_the_newest() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut flight = Flight {
            model: "org/../model name".into(),
            at_unix_ms: 2,
            began_unix_ms: 1,
            activity: Activity::default(),
            part: None,
            silent_ms: None,
            dropped: 0,
            steps: vec![StepRecord::default()],
        };
        for step in 1..4 {
            flight.steps[0].step = step;
            flight.dump("panic", Some(directory.path()));
        }
        let files: Vec<_> =
            std::fs::read_dir(directory.path()).expect("reads").map(|entry| entry.expect("one")).collect();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].file_name(), "forebay-flight-org----model-name-panic.json");
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(files[0].path()).expect("reads")).expect("JSON");
        assert_eq!(json["steps"][0]["step"], 3);
    }
}
