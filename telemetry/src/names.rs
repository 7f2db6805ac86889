//! Every metric we expose, as data: the one place that spells a metric's name.
//!
//! Units are seconds, bytes and ratios. A counter's name ends in `_total`. vLLM's names are kept
//! letter for letter, so that dashboards and autoscalers made for it work unchanged.

use crate::metrics::Def;

// --- listen -------------------------------------------------------------------------------------

/// Open client connections.
pub const LISTEN_CONNECTIONS: Def =
    Def::gauge("forebay_listen_connections", "Open client connections, per listener", &["listener"]);
/// Connections refused because the bound was reached.
pub const LISTEN_REFUSED: Def = Def::counter(
    "forebay_listen_refused_connections_total",
    "Connections closed at once because connections_max was reached",
    &["listener"],
);
