//! The members as a value that is replaced when it changes, and can be waited for.

use crate::member::Member;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The most members of a fleet, in one list.
pub const MEMBERS_MAX: usize = 8_192;

/// The members that are there, now and from now on. Clones share the list; each sees every change once. The tasks that
/// look for members end with the last clone.
#[derive(Debug, Clone)]
pub struct Members {
    view: watch::Receiver<View>,
    _tasks: Option<Arc<JoinSet<()>>>,
}

/// The end that replaces the list of a [`Members`].
#[derive(Debug)]
pub(crate) struct Feed {
    view: watch::Sender<View>,
}

/// The state of discovery at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    members: Arc<[Member]>,
    own: Option<Member>,
    is_complete: bool,
}

impl Members {
    /// A list that never changes. It keeps the first [`MEMBERS_MAX`].
    #[must_use]
    pub fn fixed(members: Vec<Member>) -> Self {
        let (feed, list) = Self::fed();
        feed.replace(members, None, true);
        list
    }

    /// An empty list, and the end that replaces it.
    pub(crate) fn fed() -> (Feed, Self) {
        let view = View { members: Arc::from([]), own: None, is_complete: false };
        let (sender, view) = watch::channel(view);
        (Feed { view: sender }, Self { view, _tasks: None })
    }

    /// Keeps these tasks for as long as anybody has the list.
    pub(crate) fn with_tasks(self, tasks: JoinSet<()>) -> Self {
        Self { _tasks: Some(Arc::new(tasks)), ..self }
    }

    /// The members now.
    #[must_use]
    pub fn current(&self) -> Arc<[Member]> {
        Arc::clone(&self.view.borrow().members)
    }

    /// This process's own entry, if a source has one. It is not among the members.
    #[must_use]
    pub fn own(&self) -> Option<Member> {
        self.view.borrow().own.clone()
    }

    /// Waits for a change that this clone has not seen, and returns the members then. It waits forever where nothing
    /// feeds the list any more.
    pub async fn changed(&mut self) -> Arc<[Member]> {
        if self.view.changed().await.is_err() {
            pending::<()>().await;
        }
        Arc::clone(&self.view.borrow_and_update().members)
    }

    /// Waits until every source has answered once, or failed to, for at most so long. Returns the members then.
    pub async fn settled(&self, patience: Duration) -> Arc<[Member]> {
        let mut view = self.view.clone();
        let _ = tokio::time::timeout(patience, view.wait_for(|view| view.is_complete)).await;
        self.current()
    }
}

impl Feed {
    /// Replaces the list, if it is another one. It keeps the first [`MEMBERS_MAX`]. Returns true if it was another.
    pub(crate) fn replace(&self, mut members: Vec<Member>, own: Option<Member>, is_complete: bool) -> bool {
        members.truncate(MEMBERS_MAX);
        self.view.send_if_modified(|view| {
            let is_new = *view.members != *members || view.own != own || view.is_complete != is_complete;
            if is_new {
                *view = View { members: members.into(), own, is_complete };
            }
            is_new
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: usize) -> Member {
        Member::at(&format!("10.0.{}.{}:8082", number >> 8, number & 255)).expect("an address")
    }

    #[tokio::test]
    async fn a_change_is_seen_once_and_an_equal_list_is_none() {
        let (feed, mut members) = Members::fed();
        assert!(feed.replace(vec![member(1)], None, false));
        assert_eq!(*members.changed().await, [member(1)]);
        assert!(!feed.replace(vec![member(1)], None, false));
        let again = tokio::time::timeout(Duration::from_millis(20), members.changed()).await;
        assert!(again.is_err(), "nothing changed");
        feed.replace(vec![member(2)], Some(member(3)), true);
        assert_eq!(*members.changed().await, [member(2)]);
        assert_eq!((members.current().len(), members.own()), (1, Some(member(3))));
    }

    #[tokio::test]
    async fn a_list_that_nothing_feeds_stays_and_never_changes() {
        let mut members = Members::fixed((0..MEMBERS_MAX + 1).map(member).collect());
        assert_eq!(members.current().len(), MEMBERS_MAX, "the bound holds");
        members.changed().await;
        let again = tokio::time::timeout(Duration::from_millis(20), members.changed()).await;
        assert!(again.is_err(), "a loop over changes would spin");
    }

    #[tokio::test]
    async fn a_list_settles_when_every_source_was_heard_or_patience_ends() {
        let (feed, members) = Members::fed();
        assert!(members.settled(Duration::from_millis(10)).await.is_empty());
        let waiting = tokio::spawn(async move { members.settled(Duration::from_secs(60)).await.len() });
        feed.replace(vec![member(1)], None, false);
        feed.replace(vec![member(1), member(2)], None, true);
        assert_eq!(waiting.await.expect("no panic"), 2);
    }
}
