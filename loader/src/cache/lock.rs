//! Locks between processes: a file and flock(2). The kernel lets go when a process ends, however
//! it ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::CacheError;

/// The pause before looking again, at first and at most. Only a load that waits for another
/// process's load looks, and that takes seconds.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// The modes of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// With others who only read.
    Shared,
    /// Alone.
    Exclusive,
}

/// A lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock if nobody is in the way.
    pub(super) fn attempt(path: &Path, mode: Mode) -> Result<Option<Self>, CacheError> {
        let error = || CacheError::io("locking", path);
        loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(error())?;
            let taken = match mode {
                Mode::Shared => file.try_lock_shared(),
                Mode::Exclusive => file.try_lock(),
            };
            match taken {
                Ok(()) if is_at(&file, path).map_err(error())? => {
                    return Ok(Some(Self { file, path: path.to_owned() }));
                }
                // Its last holder removed the file between our opening and locking it.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => return Err(error()(source)),
            }
        }
    }

    /// Takes the lock as soon as nobody is in the way. Dropping the future gives up.
    pub(super) async fn acquire(path: &Path, mode: Mode, what: &str) -> Result<Self, CacheError> {
        let mut pause = LOOK_AGAIN.0;
        let mut told = false;
        loop {
            if let Some(lock) = Self::attempt(path, mode)? {
                return Ok(lock);
            }
            if !told && pause == LOOK_AGAIN.1 {
                tracing::info!("waiting for another process that is {what}");
                told = true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_AGAIN.1);
        }
    }

    /// Lets go before everyone who holds it is done with it.
    pub(super) fn release(&self) {
        // The system refuses this of a closed file only.
        let _ = self.file.unlock();
    }

    /// Removes the lock's file with what it guarded. Only for one that is held alone.
    pub(super) fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok(there.ino() == ours.ino() && there.dev() == ours.dev()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(cause),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let attempt = |mode| Lock::attempt(&path, mode).unwrap();
        let first = attempt(Mode::Shared).unwrap();
        let second = attempt(Mode::Shared).unwrap();
        assert!(attempt(Mode::Exclusive).is_none());
        drop((first, second));
        let alone = attempt(Mode::Exclusive).unwrap();
        assert!(attempt(Mode::Shared).is_none() && attempt(Mode::Exclusive).is_none());
        alone.remove();
        assert!(attempt(Mode::Shared).is_some());
    }

    #[test]
    fn a_removed_file_locks_nobody_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let old = OpenOptions::new().write(true).create(true).truncate(false).open(&path).unwrap();
        old.try_lock().unwrap();
        fs::remove_file(&path).unwrap();
        let _new = Lock::attempt(&path, Mode::Exclusive).unwrap().unwrap();
        assert!(!is_at(&old, &path).unwrap(), "the old file's holder is seen to hold nothing");
    }
}
