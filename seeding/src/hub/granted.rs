//! Questions about files, and the files that callers may read.

use loader::ModelUrl;

use super::notes::Facts;

/// A question about a file.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) repository: String,
    pub(super) revision: String,
    pub(super) name: String,
}

/// A file that the caller may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Granted {
    /// The repository's name now.
    pub(super) repository: String,
    /// The revision by which it was asked for, which is this commit.
    pub(super) revision: String,
    pub(super) commit: String,
    pub(super) name: String,
    pub(super) facts: Facts,
}

impl Granted {
    /// The repository at the commit, as the loader names it.
    pub(super) fn folder(&self) -> ModelUrl {
        self.folder_at(&self.commit)
    }

    /// The repository at another revision.
    pub(super) fn folder_at(&self, revision: &str) -> ModelUrl {
        ModelUrl::Hub { repository: self.repository.clone(), revision: revision.to_owned() }
    }
}
