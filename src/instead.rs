//! Flags that other servers have and this one has not: known, so that the message names ours.

use clap::Args;
use std::convert::Infallible;

/// For commands that serve.
#[derive(Debug, Default, Args)]
pub(crate) struct OfServers {
    #[arg(long, hide = true, value_parser = listen_port)]
    port: Option<Infallible>,
    #[arg(long, hide = true, value_parser = listen_host)]
    host: Option<Infallible>,
    #[arg(long, hide = true, value_parser = model)]
    model: Option<Infallible>,
}

/// For commands that ask a server.
#[derive(Debug, Default, Args)]
pub(crate) struct OfClients {
    #[arg(long, hide = true, value_parser = url_port)]
    port: Option<Infallible>,
    #[arg(long, hide = true, value_parser = url_host)]
    host: Option<Infallible>,
}

/// The result of these value parsers; none of them takes anything.
type Never = Result<Infallible, String>;

fn listen_port(port: &str) -> Never {
    Err(format!("the flag is --listen, e.g. --listen 127.0.0.1:{port}"))
}

fn listen_host(host: &str) -> Never {
    Err(format!("the flag is --listen, e.g. --listen {host}:8080"))
}

fn model(model: &str) -> Never {
    Err(format!("models are named without a flag, e.g. forebay serve {model}"))
}

fn url_port(port: &str) -> Never {
    Err(format!("the flag is --url, e.g. --url http://127.0.0.1:{port}"))
}

fn url_host(host: &str) -> Never {
    Err(format!("the flag is --url, e.g. --url http://{host}:8080"))
}
