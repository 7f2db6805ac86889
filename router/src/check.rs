//! Checks of a configuration: each field by itself, with its name.

use crate::config::RouterConfig;
use crate::worker::Address;
use listen::TlsError;
use policy::{Policy, Secret};
use thiserror::Error;

/// The most workers of one router.
const WORKERS_MAX: usize = 16_384;

/// Errors that keep the router from running.
#[derive(Debug, Error)]
pub enum RouterError {
    /// A field of the configuration is wrong.
    #[error("checking the router's configuration: `{field}` {problem}")]
    Config {
        /// The field's path.
        field: String,
        /// The problem with it.
        problem: String,
    },
    /// The files for TLS with workers are missing or wrong.
    #[error("checking the router's configuration: `worker_tls`")]
    WorkerTls(#[source] Box<TlsError>),
    /// The file of usage records cannot be written.
    #[error("opening the file that `usage.file` names")]
    Usage(#[source] std::io::Error),
    /// The policy is wrong.
    #[error("checking the router's configuration")]
    Policy(#[from] policy::ConfigError),
    /// The listener failed.
    #[error("serving clients")]
    Listen(#[from] listen::ListenError),
}

/// Says what is wrong with a configuration, if anything is, without starting.
///
/// # Errors
/// The field that is wrong.
pub fn check(config: &RouterConfig) -> Result<(), RouterError> {
    check_fields(config)?;
    addresses(config)?;
    Policy::new(&config.policy)?;
    Ok(())
}

/// The addresses of the workers of a configuration.
pub(crate) fn addresses(config: &RouterConfig) -> Result<Vec<Address>, RouterError> {
    let address = |(index, url): (usize, &String)| {
        Address::parse(url).map_err(|problem| RouterError::Config { field: format!("workers[{index}]"), problem })
    };
    config.workers.iter().enumerate().map(address).collect()
}

/// Checks each field by itself.
pub(crate) fn check_fields(config: &RouterConfig) -> Result<(), RouterError> {
    let wrong = |field: &str, problem: &str| Err(RouterError::Config { field: field.into(), problem: problem.into() });
    if config.workers.len() > WORKERS_MAX {
        return wrong("workers", "has more than 16,384 entries");
    }
    for (field, key) in [("worker_api_key", &config.worker_api_key), ("admin_api_key", &config.admin_api_key)] {
        if let Some(problem) = key.as_ref().and_then(Secret::key_problem) {
            return wrong(field, problem);
        }
    }
    if let Some((field, problem)) = config.listen.problem() {
        return wrong(&format!("listen.{field}"), problem);
    }
    config.discovery.check().map_err(discovery_error)?;
    if let Some((field, problem)) = config.worker_tls.problem() {
        return wrong(&format!("worker_tls.{field}"), problem);
    }
    if config.retry.attempts_max == 0 {
        return wrong("retry.attempts_max", "is 0; 1 means no retry");
    }
    for (field, value) in [
        ("retry.ratio", config.retry.ratio),
        ("retry.floor_per_second", config.retry.floor_per_second),
        ("retry.saved_max", config.retry.saved_max),
    ] {
        if !value.is_finite() || value < 0.0 {
            return wrong(field, "must be a number of at least 0");
        }
    }
    if !config.pick.load_max_over_mean.is_finite() || config.pick.load_max_over_mean < 1.0 {
        return wrong("pick.load_max_over_mean", "must be a number of at least 1");
    }
    for (field, value) in [
        ("health.interval_ms", config.health.interval_ms),
        ("health.timeout_ms", config.health.timeout_ms),
        ("connect_timeout_ms", config.connect_timeout_ms),
        ("head_timeout_ms", config.head_timeout_ms),
        ("first_event_timeout_ms", config.first_event_timeout_ms),
        ("idle_timeout_ms", config.idle_timeout_ms),
        ("stuck_after_ms", config.stuck_after_ms),
        ("comment_interval_ms", config.comment_interval_ms),
        ("usage.queue_max", config.usage.queue_max as u64),
        ("in_flight_max", config.in_flight_max as u64),
        ("large_at_once_max", config.large_at_once_max as u64),
        ("event_bytes_max", config.event_bytes_max as u64),
        ("answer_bytes_max", config.answer_bytes_max as u64),
        ("answers_bytes_max", config.answers_bytes_max as u64),
    ] {
        if value == 0 {
            return wrong(field, "must be above 0");
        }
    }
    Ok(())
}

/// An error of the sources of workers.
pub(crate) fn discovery_error(error: discovery::ConfigError) -> RouterError {
    RouterError::Config { field: format!("discovery.{}", error.field), problem: error.problem }
}
