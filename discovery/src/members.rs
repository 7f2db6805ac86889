//! The members as a value that is replaced when it changes, and can be waited for.

use crate::member::Member;
use std::future::pending;
use std::sync::Arc;
use tokio::sync::watch;

/// The most members of a fleet, in one list.
pub const MEMBERS_MAX: usize = 8_192;

/// The members that are there, now and from now on. Clones share the list; each sees every change once.
#[derive(Debug, Clone)]
pub struct Members {
    list: watch::Receiver<Arc<[Member]>>,
}

/// The end that replaces the list of a [`Members`].
#[derive(Debug)]
pub struct Feed {
    list: watch::Sender<Arc<[Member]>>,
}

impl Members {
    /// A list that never changes. It keeps the first [`MEMBERS_MAX`].
    #[must_use]
    pub fn fixed(members: Vec<Member>) -> Self {
        let (feed, list) = Self::fed();
        feed.replace(members);
        list
    }

    /// An empty list, and the end that replaces it.
    #[must_use]
    pub fn fed() -> (Feed, Self) {
        let (sender, receiver) = watch::channel(Arc::from([]));
        (Feed { list: sender }, Self { list: receiver })
    }

    /// The members now.
    #[must_use]
    pub fn current(&self) -> Arc<[Member]> {
        Arc::clone(&self.list.borrow())
    }

    /// Waits for a change that this clone has not seen, and returns the members then. It waits forever where nothing
    /// feeds the list any more.
    pub async fn changed(&mut self) -> Arc<[Member]> {
        if self.list.changed().await.is_err() {
            pending::<()>().await;
        }
        Arc::clone(&self.list.borrow_and_update())
    }
}

impl Feed {
    /// Replaces the list, if it is another one. It keeps the first [`MEMBERS_MAX`].
    pub fn replace(&self, mut members: Vec<Member>) {
        members.truncate(MEMBERS_MAX);
        self.list.send_if_modified(|list| {
            let is_new = **list != *members;
            if is_new {
                *list = members.into();
            }
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn member(number: usize) -> Member {
        Member::at(&format!("10.0.{}.{}:8082", number >> 8, number & 255)).expect("an address")
    }

    #[tokio::test]
    async fn a_change_is_seen_once_and_an_equal_list_is_none() {
        let (feed, mut members) = Members::fed();
        feed.replace(vec![member(1)]);
        assert_eq!(*members.changed().await, [member(1)]);
        feed.replace(vec![member(1)]);
        let again = tokio::time::timeout(Duration::from_millis(20), members.changed()).await;
        assert!(again.is_err(), "nothing changed");
        feed.replace(vec![member(2)]);
        assert_eq!((&*members.changed().await, &*members.current()), (&[member(2)][..], &[member(2)][..]));
    }

    #[tokio::test]
    async fn a_list_that_nothing_feeds_stays_and_never_changes() {
        let mut members = Members::fixed((0..MEMBERS_MAX + 1).map(member).collect());
        assert_eq!(members.current().len(), MEMBERS_MAX, "the bound holds");
        members.changed().await;
        let again = tokio::time::timeout(Duration::from_millis(20), members.changed()).await;
        assert!(again.is_err(), "a loop over changes would spin");
    }
}
