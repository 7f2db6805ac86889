//! A published model, the peers that have it, and a process that loads it.

use loader::peers::Member;
use loader::remote::Env;
use loader::{Load, LoadError, Loader, LoaderConfig, Proof, Summary};
use telemetry::metrics::Registry;
use testkit::peer::{Conduct, Peer, PeerWeights, Published};
use wire::evidence::Verdict;

/// A published model, its fleet, and who is in it.
pub(crate) struct World {
    pub(crate) published: Published,
    pub(crate) peers: Vec<Peer>,
    pub(crate) config: LoaderConfig,
}

impl World {
    pub(crate) fn new(tensors: usize) -> Self {
        let mut config = LoaderConfig::default();
        config.cache.enabled = false;
        Self { published: Published::new(tensors), peers: Vec::new(), config }
    }

    pub(crate) async fn peer(&mut self, conduct: Conduct) -> usize {
        self.peer_with(self.published.weights(), conduct).await
    }

    pub(crate) async fn peer_with(&mut self, weights: PeerWeights, conduct: Conduct) -> usize {
        let id = format!("peer-{}.test", self.peers.len());
        self.peers.push(Peer::start(&self.published.fleet, &id, weights, conduct).await.unwrap());
        self.peers.len() - 1
    }

    pub(crate) fn loader(&self, members: Vec<Member>) -> Loader {
        let peers = self.published.peers("receiver.test", members);
        Loader::beside(Some(peers), &self.config, Env::default(), &Registry::new()).unwrap()
    }

    pub(crate) async fn open_as(&self, loader: &Loader, verdict: &Verdict) -> Result<Load, LoadError> {
        let probe = loader.probe(&self.published.url.parse().unwrap()).await?;
        loader.open(probe, verdict, self.published.options()).await
    }

    pub(crate) async fn open(&self, members: Vec<Member>) -> Result<Load, LoadError> {
        self.open_as(&self.loader(members), &self.published.verdict()).await
    }

    /// Loads beside all peers, and checks every byte.
    pub(crate) async fn load(&self) -> Summary {
        self.load_from(self.peers.iter().map(Peer::member).collect()).await
    }

    pub(crate) async fn load_from(&self, members: Vec<Member>) -> Summary {
        let load = self.open(members).await.unwrap();
        let summary = self.published.arrived(&load).await;
        assert_eq!(load.weights.proof(), Proof::Proven);
        summary
    }
}
