//! Another configuration in the place of the one that runs: all of it or nothing.

use crate::check::{RouterError, addresses, check_fields};
use crate::config::RouterConfig;
use crate::core::{Core, Settings};
use crate::meter::begin_lists;
use crate::worker::Address;
use std::sync::Arc;
use wire::Chain;

/// Takes a configuration, and tells of it.
pub(crate) fn reload(core: &Core, config: RouterConfig, by: &str) -> Result<(), RouterError> {
    let before = core.settings();
    if before.config == config {
        core.reloads.same(by);
        return Ok(());
    }
    match replace(core, &before, config) {
        Ok(()) => core.reloads.taken(by),
        Err(error) => {
            core.reloads.failed(&Chain(&error).to_string(), by);
            return Err(error);
        }
    }
    Ok(())
}

fn replace(core: &Core, before: &Settings, config: RouterConfig) -> Result<(), RouterError> {
    check_fields(&config)?;
    let addresses = addresses(&config)?;
    let fixed = |field: &str| RouterError::Config {
        field: field.to_owned(),
        problem: "differs from what runs, and only a restart changes it; nothing of the new configuration is in force"
            .into(),
    };
    if let Some(field) = fixed_difference(&before.config, &config) {
        return Err(fixed(field));
    }
    if core.tls.is_none() && addresses.iter().any(Address::is_tls) {
        return Err(RouterError::Config {
            field: "workers".into(),
            problem: "names the first worker at an https:// URL, and only a restart reads `worker_tls`".into(),
        });
    }
    let policy = before.policy.replaced(&config.policy)?;
    begin_lists(&core.registry, &config.policy.annotate_lists);
    core.settings.store(Arc::new(Settings { config, policy }));
    core.configured.send_if_modified(|configured| {
        let is_new = *configured != addresses;
        *configured = addresses;
        is_new
    });
    Ok(())
}

/// The first field that differs and that something was made of at the start.
fn fixed_difference(before: &RouterConfig, after: &RouterConfig) -> Option<&'static str> {
    // Written out, so that a new field has to be put on one side or the other.
    let RouterConfig {
        listen,
        workers: _,
        discovery,
        discovery_tls,
        worker_api_key,
        worker_tls,
        admin_api_key: _,
        health: _,
        retry: _,
        pick: _,
        usage,
        connect_timeout_ms,
        head_timeout_ms: _,
        first_event_timeout_ms: _,
        idle_timeout_ms: _,
        stuck_after_ms: _,
        comment_interval_ms: _,
        pool_idle_ms,
        in_flight_max,
        large_at_once_max,
        event_bytes_max: _,
        answer_bytes_max: _,
        answers_bytes_max,
        policy: _,
    } = before;
    let differs = [
        ("listen", *listen != after.listen),
        ("discovery", *discovery != after.discovery),
        ("discovery_tls", *discovery_tls != after.discovery_tls),
        // Routers that are asked for workers are asked with it.
        ("worker_api_key", discovery.is_on() && *worker_api_key != after.worker_api_key),
        ("worker_tls", *worker_tls != after.worker_tls),
        ("usage", *usage != after.usage),
        ("connect_timeout_ms", *connect_timeout_ms != after.connect_timeout_ms),
        ("pool_idle_ms", *pool_idle_ms != after.pool_idle_ms),
        ("in_flight_max", *in_flight_max != after.in_flight_max),
        ("large_at_once_max", *large_at_once_max != after.large_at_once_max),
        ("answers_bytes_max", *answers_bytes_max != after.answers_bytes_max),
    ];
    differs.into_iter().find(|(_, differs)| *differs).map(|(field, _)| field)
}
