//! A file of members, read again when it changes.

use crate::source::{Answer, Ask};
use crate::view::{ViewError, answer};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use thiserror::Error;
use tokio::task::{JoinHandle, spawn_blocking};
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
/// A look at the file: its stamp, and its bytes if that is another one than before.
type Looked = Result<(Stamp, Option<Vec<u8>>), FileError>;

/// A file of members.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    timeout: Duration,
    last: Option<(Stamp, Answer)>,
    /// A look that has not ended. There is one at most: where storage hangs, threads do not pile up.
    looking: Option<JoinHandle<Looked>>,
}

impl File {
    pub(crate) fn new(path: PathBuf, timeout: Duration) -> Self {
        Self { path, timeout, last: None, looking: None }
    }

    fn take_in(&mut self, looked: Looked) -> Result<Answer, FileError> {
        let (stamp, bytes) = looked?;
        if let (None, Some((_, known))) = (&bytes, &self.last) {
            return Ok(known.clone());
        }
        let found = answer(&bytes.unwrap_or_default());
        let found = found.map_err(|source| FileError::View { path: self.path.clone(), source })?;
        self.last = Some((stamp, found.clone()));
        Ok(found)
    }
}

impl Ask for File {
    type Error = FileError;

    async fn ask(&mut self) -> Result<Answer, FileError> {
        let (path, known) = (self.path.clone(), self.last.as_ref().map(|(stamp, _)| *stamp));
        let looking = self.looking.get_or_insert_with(|| spawn_blocking(move || look(&path, known)));
        let Ok(looked) = tokio::time::timeout(self.timeout, looking).await else {
            return Err(FileError::TimedOut { path: self.path.clone() });
        };
        self.looking = None;
        let path = || self.path.clone();
        let looked =
            looked.unwrap_or_else(|cause| Err(FileError::Read { path: path(), source: io::Error::other(cause) }));
        self.take_in(looked)
    }
}

/// Reads the file, unless it is the one that is known.
fn look(path: &Path, known: Option<Stamp>) -> Looked {
    let fail = |source| FileError::Read { path: path.to_owned(), source };
    // Before it is opened: to open a pipe is to wait for a writer.
    let metadata = std::fs::metadata(path).map_err(fail)?;
    if !metadata.is_file() {
        return Err(fail(io::Error::other("it is no regular file")));
    }
    let stamp = stamp(&metadata);
    if Some(stamp) == known {
        return Ok((stamp, None));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(FLEET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > FLEET_BYTES_MAX {
        return Err(FileError::Large { path: path.to_owned() });
    }
    Ok((stamp, Some(bytes)))
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
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

    #[tokio::test]
    async fn what_is_no_regular_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
        assert!(made.success());
        for path in [pipe, dir.path().to_owned(), PathBuf::from("/dev/zero")] {
            let error = File::new(path.clone(), Duration::from_secs(60)).ask().await.expect_err("no file");
            assert!(matches!(error, FileError::Read { .. }), "{}: {error}", path.display());
        }
    }
}
