//! `forebay node`: this machine's cache for engines that are not ours, without a worker.

use crate::config::Config;
use crate::fleet::{self, Own};
use crate::serve::{self, Running};
use anyhow::{Context, bail};
use listen::{Drain, Listener};
use loader::Loader;
use loader::remote::Env;
use seeding::Seeder;
use seeding::hub::{self, Named, Node};
use std::sync::Arc;
use telemetry::metrics::Registry;
use worker::lifecycle::ModelSource;

/// Reads `MODEL` arguments: models that are filled from the start.
///
/// # Errors
/// One that means nothing.
pub(crate) fn named(models: &[String]) -> anyhow::Result<Vec<Named>> {
    models.iter().map(|text| read(text)).collect()
}

fn read(text: &str) -> anyhow::Result<Named> {
    let (name, model) = ModelSource::split(text);
    if let Some(name) = name.filter(|name| name.contains('/')) {
        bail!("the name `{name}` holds a slash, and is to stand in /models/NAME/FILE; give one without");
    }
    let url = serve::url(model)?;
    Ok(Named { name: name.map_or_else(|| url.name(), str::to_owned), url })
}

/// Starts a node.
///
/// # Errors
/// A wrong configuration or a busy port.
pub(crate) async fn start(config: &Config, models: Vec<Named>) -> anyhow::Result<Running> {
    if let Some(problem) = config.node.problem() {
        bail!(problem);
    }
    let (registry, drain) = (Registry::new(), Drain::new());
    let trust = policy::Trust::new(&config.trust)?;
    // A root that stands for every URL would give one model's bytes for another's: a node has many.
    let port = config.node.peers.listen.map(|address| address.port());
    let own = Own { port, key: config.worker.api_key.clone(), roots: Vec::new() };
    let peers = fleet::peers(&config.peers, own, &registry)?;
    let loader = Loader::beside(peers, &config.loader, Env::from_process(), &registry)?;
    let listener = Listener::bind(&config.node.listen).await?.with_metrics(&registry, "node");
    let seeder = Seeder::start(&config.node.peers, &registry, drain.clone()).await.context("node.peers")?;
    let node = Node::new(config.node.clone(), loader, trust, models, (&registry, drain.clone()), seeder)?;
    node.check_address(listener.local_addr())?;
    let url = listener.url();
    let purpose = format!("HF_ENDPOINT={url} for engines on this machine");
    let task = tokio::spawn(run(node, listener, drain.clone()));
    Ok(Running::at_once(url, purpose, drain, task))
}

/// Serves until the drain is over.
async fn run(node: Arc<Node>, listener: Listener, drain: Drain) -> anyhow::Result<()> {
    let tending = tokio::spawn(Arc::clone(&node).tend());
    let served = listener.serve(hub::app(Arc::clone(&node)), drain).await;
    node.seeded().await;
    tending.abort();
    tokio::task::spawn_blocking(move || node.write_notes()).await?;
    Ok(served?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_the_name_that_it_is_given_or_its_urls_last_part() {
        let name = |text: &str| named(&[text.to_owned()]).map(|models| models[0].name.clone());
        assert_eq!(name("hf://org/tiny").expect("a model"), "tiny");
        assert_eq!(name("mine=s3://bucket/tiny").expect("a model"), "mine");
        assert_eq!(name("https://host/a=b/tiny").expect("a model"), "tiny");
        for wrong in ["org/tiny", "demo", "mine=ftp://x", "org/mine=s3://bucket/tiny"] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }
}
