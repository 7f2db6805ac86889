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

/// Follows the members that are found. Never returns.
pub(crate) async fn follow(core: Arc<Core>, configured: Vec<Address>, mut found: Members) {
    loop {
        let members = found.changed().await;
        core.fleet.replace(addresses(&configured, &members, core.config.discovery_tls));
        tracing::info!(found = members.len(), configured = configured.len(), "the workers changed");
    }
}
