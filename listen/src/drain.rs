//! The one signal of a shutdown. First readiness flips while requests are still served (load
//! balancers need a moment to notice), then new ones are refused and streams finish, then those
//! that are left are cut.

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Phase {
    Serving,
    Draining,
    Refusing,
    Cutting,
    Over,
}

/// A shutdown in progress, or not. Clones share.
#[derive(Debug, Clone)]
pub struct Drain {
    phase: watch::Sender<Phase>,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// Not draining.
    #[must_use]
    pub fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving) }
    }

    /// Begins the drain: readiness must say no from now on. Idempotent.
    pub fn start(&self) {
        self.advance(Phase::Draining);
    }

    /// True once the drain began. Readiness asks this.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// True once new requests are to be refused. Handlers ask this.
    #[must_use]
    pub fn is_refusing(&self) -> bool {
        *self.phase.borrow() >= Phase::Refusing
    }

    /// Waits until the drain began.
    pub async fn started(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits until new requests are refused.
    pub(crate) async fn refused(&self) {
        self.reached(Phase::Refusing).await;
    }

    /// Waits until what is still being answered is to end with an error.
    pub async fn cut(&self) {
        self.reached(Phase::Cutting).await;
    }

    /// Waits until connections are to be dropped.
    pub(crate) async fn over(&self) {
        self.reached(Phase::Over).await;
    }

    /// Ends the notice period. The listener calls it; a test may.
    pub fn refuse(&self) {
        self.advance(Phase::Refusing);
    }

    /// Ends the time for streams to finish.
    pub(crate) fn start_cutting(&self) {
        self.advance(Phase::Cutting);
    }

    /// Ends everything.
    pub(crate) fn end(&self) {
        self.advance(Phase::Over);
    }

    async fn reached(&self, phase: Phase) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            if forward {
                *phase = to;
            }
            forward
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_go_forward() {
        let drain = Drain::new();
        assert!(!drain.is_draining());
        drain.start();
        drain.started().await;
        assert!(drain.is_draining() && !drain.is_refusing());
        drain.refuse();
        drain.start();
        assert!(drain.is_refusing());
        drain.start_cutting();
        drain.refuse();
        drain.cut().await;
        drain.end();
        drain.over().await;
    }
}
