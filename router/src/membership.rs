//! The fleet's members: the workers of the configuration, and those that are found.

use crate::core::Core;
use crate::worker::Address;
use discovery::{Member, Members};
use std::sync::Arc;

/// The addresses of all workers, those of the configuration first.
pub(crate) fn addresses(configured: &[Address], found: &[Member], is_tls: bool) -> Vec<Address> {
    let found = found.iter().filter_map(|member| Address::of_member(member, is_tls));
    configured.iter().cloned().chain(found).collect()
}

/// Follows the members as the configuration changes and others are found. Never returns.
pub(crate) async fn follow(core: Arc<Core>, mut found: Members) {
    let mut configured = core.configured.subscribe();
    loop {
        tokio::select! {
            _ = found.changed() => {}
            // The sender is in `core`.
            _ = configured.changed() => {}
        }
        let (members, configured) = (found.current(), configured.borrow_and_update().clone());
        core.fleet.replace(addresses(&configured, &members, core.settings().config.discovery_tls));
        tracing::info!(found = members.len(), configured = configured.len(), "the workers changed");
    }
}
