//! A directory read as if it were far: for verifying, for filling a cache, and as the plainest
//! example of a source. Serving from disk maps the files instead.
//!
//! Inode, size and modification time pin a file.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::OFlags;
use tokio::task::spawn_blocking;

use super::name::is_inside;
use crate::landing::Landing;
use crate::source::{Object, ReadOptions, Source, SourceError, Tag};

/// The bytes that one trip to a blocking thread reads.
const PIECE_BYTES: u64 = 4 << 20;

/// The files of a directory.
#[derive(Debug)]
pub struct LocalSource {
    url: String,
    directory: PathBuf,
}

impl LocalSource {
    /// The files under `directory`; whether it exists is seen when one of them is asked for.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { url: format!("file://{}", directory.display()), directory }
    }

    fn path(&self, name: &str) -> Result<PathBuf, SourceError> {
        if is_inside(name) {
            return Ok(self.directory.join(name));
        }
        let problem = format!("`{name}` leads out of the model's directory");
        Err(SourceError::Config { url: self.url.clone(), problem })
    }

    /// Opens a file and says what it is now.
    async fn open(&self, name: &str) -> Result<(Arc<File>, Object), SourceError> {
        let path = self.path(name)?;
        let is_link = path.is_symlink();
        let opened = blocking(move || {
            // Without O_NONBLOCK, opening a pipe would wait for someone to write.
            let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
            let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
            let facts = file.metadata()?;
            Ok((file, facts))
        });
        let refused = |problem: &str| {
            let (url, name, problem) = (self.url.clone(), name.to_owned(), problem.to_owned());
            SourceError::Refused { url, name, problem }
        };
        let (file, facts) = match opened.await {
            // Caches of downloads are made of links: one without its file is a file that is missing, and
            // not one that the model does not have.
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_link => {
                return Err(refused("it is a link to a file that does not exist; finish the download"));
            }
            opened => opened.map_err(|error| self.failed(name, error))?,
        };
        if !facts.is_file() {
            return Err(refused("it is no regular file"));
        }
        Ok((Arc::new(file), object(name, &facts)))
    }

    fn check(&self, pinned: &Object, now: &Object) -> Result<(), SourceError> {
        if (pinned.bytes, &pinned.tag.modified) == (now.bytes, &now.tag.modified) {
            return Ok(());
        }
        let shown = |object: &Object| {
            format!("{} bytes, {}", object.bytes, object.tag.modified.as_deref().unwrap_or("of no known time"))
        };
        let detail = format!("from {} to {}", shown(pinned), shown(now));
        Err(SourceError::Changed { url: self.url.clone(), name: pinned.name.clone(), detail })
    }

    fn failed(&self, name: &str, error: io::Error) -> SourceError {
        let (url, name) = (self.url.clone(), name.to_owned());
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => SourceError::NotFound { url, name },
            io::ErrorKind::PermissionDenied => {
                let fix = "let this user read the file".to_owned();
                SourceError::Denied { url, name, status: error.to_string(), fix }
            }
            _ => {
                SourceError::Transient { url, name, problem: "reading the file".to_owned(), source: Some(error.into()) }
            }
        }
    }
}

#[async_trait]
impl Source for LocalSource {
    fn url(&self) -> &str {
        &self.url
    }

    fn account(&self) -> &str {
        "disk"
    }

    async fn stat(&self, name: &str) -> Result<Object, SourceError> {
        self.open(name).await.map(|(_, object)| object)
    }

    async fn read(&self, object: &Object, landing: &mut Landing, _options: ReadOptions) -> Result<(), SourceError> {
        let (file, now) = self.open(&object.name).await?;
        self.check(object, &now)?;
        while landing.remaining() > 0 {
            let (from, length) = (landing.position(), landing.remaining().min(PIECE_BYTES));
            let reader = Arc::clone(&file);
            // Read aside and copied: a read that is given up must leave the landing whole.
            let piece = blocking(move || {
                let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                reader.read_exact_at(&mut piece, from)?;
                Ok((piece, reader.metadata()?))
            });
            let (piece, facts) = match piece.await {
                // It became shorter meanwhile.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    let detail = format!("it ends before byte {}", from + length);
                    return Err(SourceError::Changed { url: self.url.clone(), name: object.name.clone(), detail });
                }
                other => other.map_err(|error| self.failed(&object.name, error))?,
            };
            self.check(object, &self::object(&object.name, &facts))?;
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let buffer = landing.buffer();
                let count = buffer.len().min(rest.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                landing.filled(count).await?;
                rest = &rest[count..];
            }
        }
        Ok(())
    }
}

fn object(name: &str, facts: &Metadata) -> Object {
    let modified = format!("inode {} of {}.{:09}", facts.ino(), facts.mtime(), facts.mtime_nsec());
    let tag = Tag { modified: Some(modified), ..Tag::default() };
    Object { name: name.to_owned(), bytes: facts.len(), tag, checksum: None }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_there_and_cannot_be_read_is_not_absent() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("../blobs/gone", directory.path().join("tokenizer.json")).unwrap();
        std::fs::create_dir(directory.path().join("config.json")).unwrap();
        let source = LocalSource::new(directory.path().to_owned());
        for (name, word) in [("tokenizer.json", "download"), ("config.json", "regular")] {
            let error = source.stat(name).await.unwrap_err();
            assert!(matches!(error, SourceError::Refused { .. }) && error.to_string().contains(word), "{error}");
        }
        assert!(matches!(source.stat("vocab.json").await, Err(SourceError::NotFound { .. })));
    }
}
