//! A file of members, read again when it changes.

use crate::source::{Answer, Ask};
use crate::view::{ViewError, answer};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use wire::fleet::FLEET_BYTES_MAX;

/// Errors of a file of members.
#[derive(Debug, Error)]
pub(crate) enum FileError {
    #[error("reading {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("reading {path}: it has more than {FLEET_BYTES_MAX} bytes")]
    Large { path: PathBuf },
    #[error("reading {path}: no answer in time")]
    TimedOut { path: PathBuf },
    #[error("reading {path}")]
    View {
        path: PathBuf,
        #[source]
        source: ViewError,
    },
}

/// Facts that differ where a file was changed or replaced.
type Stamp = (u64, Option<SystemTime>, u64);

/// A file of members.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    timeout: Duration,
    last: Option<(Stamp, Answer)>,
}

impl File {
    pub(crate) fn new(path: PathBuf, timeout: Duration) -> Self {
        Self { path, timeout, last: None }
    }

    async fn read(&mut self) -> Result<Answer, FileError> {
        let fail = |source| FileError::Read { path: self.path.clone(), source };
        let file = tokio::fs::File::open(&self.path).await.map_err(fail)?;
        let stamp = stamp(&file.metadata().await.map_err(fail)?);
        if let Some((_, known)) = self.last.as_ref().filter(|(last, _)| *last == stamp) {
            return Ok(known.clone());
        }
        let mut bytes = Vec::new();
        file.take(FLEET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).await.map_err(fail)?;
        if bytes.len() > FLEET_BYTES_MAX {
            return Err(FileError::Large { path: self.path.clone() });
        }
        let found = answer(&bytes).map_err(|source| FileError::View { path: self.path.clone(), source })?;
        self.last = Some((stamp, found.clone()));
        Ok(found)
    }
}

impl Ask for File {
    type Error = FileError;

    async fn ask(&mut self) -> Result<Answer, FileError> {
        let (path, timeout) = (self.path.clone(), self.timeout);
        let read = tokio::time::timeout(timeout, self.read()).await;
        read.unwrap_or(Err(FileError::TimedOut { path }))
    }
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    (metadata.len(), metadata.modified().ok(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_again_when_it_changes_and_a_broken_one_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("members.json");
        let mut file = File::new(path.clone(), Duration::from_secs(10));
        assert!(matches!(file.ask().await, Err(FileError::Read { .. })), "there is none yet");
        // As ConfigMaps and careful writers do: a new file takes the old one's name.
        let write = |text: &str| {
            std::fs::write(dir.path().join("new"), text).expect("writes");
            std::fs::rename(dir.path().join("new"), &path).expect("renames");
        };
        write(r#"{"members": [{"address": "a:1"}]}"#);
        let first = file.ask().await.expect("a view");
        assert_eq!(file.ask().await.expect("the same"), first);
        write(r#"{"members": [{"address": "b:1"}]}"#);
        assert_eq!(file.ask().await.expect("another").found[0].member.address, "b:1");
        write("{");
        assert!(matches!(file.ask().await, Err(FileError::View { .. })));
        write(&" ".repeat(FLEET_BYTES_MAX + 1));
        assert!(matches!(file.ask().await, Err(FileError::Large { .. })));
    }
}
