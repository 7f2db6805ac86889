//! Following the configuration's file: what changes in it while a router runs goes to the router, and SIGHUP has it read
//! at once.
//!
//! The file is read again and again, since a notification is lost on the mounts that Kubernetes swaps a symlink in. Values
//! of the environment and of flags win over it, as at the start.

use crate::config::Config;
use anyhow::Context;
use router::{Router, RouterConfig};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use wire::Chain;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Reads the whole configuration anew.
pub(crate) type Read = Arc<dyn Fn() -> anyhow::Result<Config> + Send + Sync>;

/// A configuration that may change.
#[derive(Clone)]
pub(crate) struct Followed {
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// Reads the file, the environment and the flags.
    pub(crate) read: Read,
}

impl Followed {
    /// Gives what changes to a router. `adapt` makes the router's table of a process what its router has. Never returns.
    ///
    /// # Errors
    /// The system does not let us watch for SIGHUP.
    pub(crate) async fn follow(
        self,
        router: Router,
        adapt: impl Fn(RouterConfig) -> RouterConfig + Clone + Send + 'static,
    ) -> anyhow::Result<()> {
        let mut hangup = signal(SignalKind::hangup()).context("watching for SIGHUP")?;
        let mut seen = self.print().await;
        loop {
            let by = self.changed(&mut hangup, &mut seen).await;
            let (read, router, adapt) = (Arc::clone(&self.read), router.clone(), adapt.clone());
            // Compiling lists takes a while.
            let taken = tokio::task::spawn_blocking(move || match read() {
                // The log tells of a refusal.
                Ok(config) => drop(router.reload(adapt(config.router), by)),
                Err(error) => router.reload_failed(&Chain(error.as_ref()).to_string(), by),
            });
            taken.await.context("reading the configuration anew")?;
        }
    }

    /// Waits until the file has changed and stays as it is for a look, or for SIGHUP.
    async fn changed(&self, hangup: &mut Signal, seen: &mut Option<u64>) -> &'static str {
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    *seen = self.print().await;
                    return "SIGHUP";
                }
                () = tokio::time::sleep(EVERY), if self.file.is_some() => {}
            }
            let print = self.print().await;
            if print != *seen && print == self.print_after(EVERY / 4).await {
                *seen = print;
                return "file";
            }
        }
    }

    async fn print_after(&self, pause: Duration) -> Option<u64> {
        tokio::time::sleep(pause).await;
        self.print().await
    }

    /// A number that tells the file's contents apart; `None` where it cannot be read.
    async fn print(&self) -> Option<u64> {
        let path = self.file.clone()?;
        tokio::task::spawn_blocking(move || print(&path)).await.ok().flatten()
    }
}

fn print(path: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    std::fs::read(path).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}
