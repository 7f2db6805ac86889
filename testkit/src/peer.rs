//! Peers that give weights over mutual TLS, as well or as badly as a test wants, and the fleet's
//! authority that signs their certificates.
//!
//! A fake of the protocol's serving end, written from `wire::peers` alone: what it claims, sends and
//! refuses is the test's choice, and it keeps books of what it was asked.

mod answer;
mod fleet;
mod published;
mod weights;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub use fleet::Fleet;
pub use published::{Published, bytes_from_peers, fleet_of, member};
pub use weights::PeerWeights;

/// The ways of a peer.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Conduct {
    /// It gives what it has, as fast as the network carries it.
    #[default]
    Honest,
    /// The same at so many bytes a second, all connections together.
    Slow(u64),
    /// One bit of every extent is wrong.
    Lies,
    /// It has nothing of what it says it has: 409.
    Boasts,
    /// It is always busy, for so long, and names these members.
    Busy(Duration, Vec<String>),
    /// It breaks every connection in the middle of the first extent after so many bytes in all, and listens no more.
    DiesAfter(u64),
    /// It answers with the extent before the one that was asked for.
    OtherRange,
    /// It sends more than it was asked for.
    TooMuch,
    /// It sends whoever asks for extents to this URL.
    Redirects(String),
    /// It says this instead of frames.
    BadFrames(Vec<u8>),
    /// It takes requests and answers none.
    Mute,
    /// It knows nothing, or forbids it: 404.
    Unknown,
}

/// The books of a peer.
#[derive(Debug, Default)]
pub struct Books {
    /// Bytes of extents sent.
    pub bytes_sent: AtomicU64,
    /// Requests for extents.
    pub requests: AtomicU64,
    /// Requests for attested digests.
    pub attested: AtomicU64,
    /// Streams of news under way.
    pub streams: AtomicU64,
    /// `forebay-member` and `forebay-capability` of the latest request.
    pub latest: Mutex<(Option<String>, Option<String>)>,
}

/// A peer that listens.
#[derive(Debug)]
pub struct Peer {
    /// Its id, which is also the name in its certificate.
    pub id: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its books.
    pub books: Arc<Books>,
    weights: Arc<PeerWeights>,
    task: JoinHandle<()>,
}

impl Peer {
    /// Listens on a free port of this machine, with a certificate of the fleet for `id`.
    ///
    /// # Errors
    /// The system's error.
    pub async fn start(fleet: &Fleet, id: &str, weights: PeerWeights, conduct: Conduct) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(fleet.server(id));
        let (weights, books) = (Arc::new(weights), Arc::<Books>::default());
        let serving = answer::Serving {
            conduct,
            weights: Arc::clone(&weights),
            books: Arc::clone(&books),
            paced: tokio::sync::Mutex::new(tokio::time::Instant::now()),
        };
        let task = tokio::spawn(serve(listener, acceptor, Arc::new(serving)));
        Ok(Self { id: id.to_owned(), address, books, weights, task })
    }

    /// Gives it extents that it had not, by their numbers; those who listen hear of it.
    pub fn add(&self, extents: &[u32]) {
        self.weights.add(extents);
    }

    /// Ends it at once: every connection breaks, and no new one is taken.
    pub fn kill(&self) {
        self.task.abort();
    }

    /// Bytes of extents sent so far.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.books.bytes_sent.load(Ordering::Relaxed)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, serving: Arc<answer::Serving>) {
    let mut connections: JoinSet<io::Result<()>> = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if serving.is_dead() {
            return;
        }
        let (acceptor, serving) = (acceptor.clone(), Arc::clone(&serving));
        connections.spawn(async move { connection(stream, acceptor, &serving).await });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, serving: &answer::Serving) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    while answer::one(&mut stream, serving).await? {}
    Ok(())
}
