//! Offers a model's files to peers, from when their manifest is known until nobody here uses them.

use loader::Load;
use seeding::{Role, Seeder};
use std::future::pending;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// An offer, withdrawn when this is dropped.
#[derive(Debug)]
pub(super) struct Shared(AbortHandle);

/// Offers the files of a load; none where nothing is given to peers.
pub(super) fn begin(seeder: Option<&Arc<Seeder>>, load: &Load) -> Option<Shared> {
    let seeder = Arc::clone(seeder?);
    let (mut content, arrived) = (load.content(), load.arrived());
    let task = tokio::spawn(async move {
        let Ok(Some(content)) = content.wait_for(Option::is_some).await.map(|content| content.clone()) else { return };
        let sharing = seeder.offer().add(content, Role::Loading);
        // What arrived of a load that failed is not worth keeping the rest of it for.
        if arrived.await.is_ok() {
            sharing.set_role(Role::Serving);
            pending::<()>().await;
        }
    });
    Some(Shared(task.abort_handle()))
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.0.abort();
    }
}
