//! The built binary, tried as a user would: real processes, real sockets, the bundled model.

mod cache;
mod client;
mod commands;
mod deployment;
mod files;
mod held;
mod living;
mod process;
mod serving;
mod stopped;
mod tls;
mod tracing;
