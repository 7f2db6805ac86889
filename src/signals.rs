//! Signals that end a process: watched from a command's first moment, since they do nothing to the first process of a
//! container that does not watch for them.

use anyhow::Context;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// A signal so soon after another is the same wish: `timeout` sends two, and so do some terminals.
const SAME_WISH: Duration = Duration::from_millis(100);

/// A command that a signal ended before its work was done.
#[derive(Debug, Error)]
#[error("ended by {}", .0.name())]
pub(crate) struct Ended(pub(crate) Wish);

impl Ended {
    /// The exit code that shells report for such an end: 128 and the signal's number.
    pub(crate) fn exit_code(&self) -> u8 {
        128 + match self.0 {
            Wish::Interrupt => 2,
            Wish::Terminate => 15,
        }
    }
}

/// A request to end the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Wish {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "Ctrl-C",
            Self::Terminate => "SIGTERM",
        }
    }
}

/// The signals that ask a process to end.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Those that do not end it.
    ignored: Vec<(&'static str, Signal)>,
    /// True if SIGHUP is heard elsewhere.
    follows: bool,
    last: Option<Instant>,
}

impl Signals {
    /// Watches from now on, for a command that ends by itself. To be called within a runtime.
    ///
    /// # Errors
    /// The system does not let us watch.
    pub(crate) fn of_command() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("watching for signals");
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            ignored: Vec::new(),
            follows: false,
            last: None,
        })
    }

    /// As `of_command`, for a server: SIGHUP, SIGUSR1 and SIGUSR2 do not end it. The terminal that started it may be
    /// closed, and others are told by these to read their configuration again or to open new logs. A router is, too, by
    /// SIGHUP: it `follows`.
    ///
    /// # Errors
    /// As `of_command`.
    pub(crate) fn of_server(follows: bool) -> anyhow::Result<Self> {
        let kinds = [
            ("SIGHUP", SignalKind::hangup()),
            ("SIGUSR1", SignalKind::user_defined1()),
            ("SIGUSR2", SignalKind::user_defined2()),
        ];
        let watched = kinds.into_iter().map(|(name, kind)| Ok((name, signal(kind)?)));
        let ignored = watched.collect::<std::io::Result<_>>().context("watching for signals")?;
        Ok(Self { ignored, follows, ..Self::of_command()? })
    }

    /// Waits for the next wish to end.
    pub(crate) async fn next(&mut self) -> Wish {
        loop {
            let wish = tokio::select! {
                _ = self.interrupt.recv() => Wish::Interrupt,
                _ = self.terminate.recv() => Wish::Terminate,
                name = any(&mut self.ignored) => {
                    if name != "SIGHUP" || !self.follows {
                        tracing::info!("{name} changes nothing: the configuration is read at the start only");
                    }
                    continue;
                }
            };
            let now = Instant::now();
            if self.last.is_none_or(|last| now - last >= SAME_WISH) {
                self.last = Some(now);
                return wish;
            }
        }
    }

    /// Runs `work` to its end, or until a signal ends it. What it holds is dropped then.
    ///
    /// # Errors
    /// Those of `work`, and `Ended`.
    pub(crate) async fn or_ended<T>(&mut self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            result = work => result,
            wish = self.next() => Err(Ended(wish).into()),
        }
    }
}

/// Waits for one of these signals; for ever where there are none.
async fn any(signals: &mut [(&'static str, Signal)]) -> &'static str {
    poll_fn(|cx| {
        let come = signals.iter_mut().find_map(|(name, signal)| signal.poll_recv(cx).is_ready().then_some(*name));
        come.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
