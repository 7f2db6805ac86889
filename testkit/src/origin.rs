//! A storage origin that fails on demand: an HTTP/1.1 server with the manners of a web server, S3,
//! Azure Blob or the Hugging Face hub, whose caps and faults are seeded and whose books are exact.
//!
//! It is the measuring instrument of the loader, so it is honest (bytes are booked when the kernel
//! took them) and fast (files go out by `sendfile`). It knows neither the loader nor safetensors.
//! `docs/fault-origin.md` has the manual.

mod access;
mod account;
mod answer;
mod content;
mod control;
mod draw;
mod faults;
mod hub;
mod metadata;
mod pacer;
mod reply;
mod request;
mod server;
mod shapes;
mod state;
mod transfer;
mod wire;

pub use access::Access;
pub use account::{Account, Logged, ObjectAccount};
pub use content::Generated;
pub use faults::{BitFlip, Burst, Fault, Faults, Lognormal, Script};
pub use pacer::{Pacer, RequestGate};
pub use shapes::Shape;

use bytes::Bytes;
use content::{Body, Catalogue};
use rustls::pki_types::PrivateKeyDer;
use server::{Server, Settings};
use state::State;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Connections served at once, unless told otherwise: far above any sane client, far below what
/// threads cost.
const CONNECTIONS_MAX: u64 = 512;

/// A running origin. Dropping it stops it and joins its threads.
#[derive(Debug)]
pub struct Origin {
    state: Arc<State>,
    server: Server,
    certificate: Option<String>,
}

impl Origin {
    /// An origin to be.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Its address: `http://127.0.0.1:PORT`, or `https://…` with TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.server.address())
    }

    /// The books.
    #[must_use]
    pub fn account(&self) -> Account {
        self.state.books.account()
    }

    /// The latest requests for objects, oldest first; the last 16,384 are kept.
    #[must_use]
    pub fn log(&self) -> Vec<Logged> {
        self.state.books.log()
    }

    /// Begins the books anew; request numbers count from 1 again.
    pub fn reset_account(&self) {
        self.state.books.reset();
    }

    /// Changes the faults from the next request on; paces also for bodies on their way.
    pub fn set_faults(&self, faults: Faults) {
        self.state.set_faults(faults);
    }

    /// Puts other bytes, with another entity tag, under a name. Answers on their way keep the old.
    pub fn replace(&self, name: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let len = bytes.len() as u64;
        self.state.replace(name, Body::Memory(bytes), len);
    }

    /// Puts other bytes of the same length under a name and keeps entity tag and date: a store that
    /// lies, or an attacker who may write to it.
    ///
    /// # Panics
    /// There is no such object, or its length is another.
    pub fn replace_unnoticed(&self, name: &str, bytes: impl Into<Bytes>) {
        self.state.catalogue.replace_unnoticed(name, bytes.into());
    }

    /// The certificate it shows, to be trusted by a test's client; none without TLS.
    #[must_use]
    pub fn certificate_pem(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// Serves until the process ends.
    pub fn wait(mut self) {
        self.server.wait();
    }
}

/// The settings of an origin to be.
#[derive(Debug)]
pub struct Builder {
    seed: u64,
    shape: Shape,
    listen: SocketAddr,
    dir: Option<PathBuf>,
    held: Vec<(String, Body, u64)>,
    faults: Faults,
    access: Access,
    tls: bool,
    connections_max: u64,
    congestion: Option<String>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            seed: 0,
            shape: Shape::Http,
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            dir: None,
            held: Vec::new(),
            faults: Faults::default(),
            access: Access::default(),
            tls: false,
            connections_max: CONNECTIONS_MAX,
            congestion: None,
        }
    }
}

impl Builder {
    /// The seed of everything that is drawn; 0 unless given.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Whose manners it has; a plain web server's unless given.
    #[must_use]
    pub fn shape(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// Where it listens; a free port of the loopback interface unless given.
    #[must_use]
    pub fn listen(self, listen: SocketAddr) -> Self {
        Self { listen, ..self }
    }

    /// Serves the files under this directory by their paths.
    #[must_use]
    pub fn dir(self, dir: impl Into<PathBuf>) -> Self {
        Self { dir: Some(dir.into()), ..self }
    }

    /// Serves these bytes.
    #[must_use]
    pub fn object(mut self, name: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let len = bytes.len() as u64;
        self.held.push((name.to_owned(), Body::Memory(bytes), len));
        self
    }

    /// Serves `len` bytes computed from a seed, never zero; [`Generated`] says which.
    #[must_use]
    pub fn generated(mut self, name: &str, len: u64, seed: u64) -> Self {
        self.held.push((name.to_owned(), Body::Generated(Generated::new(len, seed)), len));
        self
    }

    /// Sets the faults; none unless given.
    #[must_use]
    pub fn faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// Sets the demands on requests; none unless given.
    #[must_use]
    pub fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// Speaks TLS under a certificate made for the occasion (`localhost`, `127.0.0.1`).
    #[must_use]
    pub fn tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// Connections served at once; more are answered 503, closed and counted. 512 unless given.
    #[must_use]
    pub fn connections_max(self, connections_max: u64) -> Self {
        Self { connections_max, ..self }
    }

    /// The kernel's congestion control for our sending side; the system's own unless given.
    #[must_use]
    pub fn congestion(self, name: impl Into<String>) -> Self {
        Self { congestion: Some(name.into()), ..self }
    }

    /// Starts it.
    ///
    /// # Errors
    /// The directory does not exist, the address cannot be bound, or no certificate can be made.
    pub fn start(self) -> io::Result<Origin> {
        let dir = self.dir.map(|dir| {
            dir.canonicalize().map_err(|error| {
                io::Error::new(error.kind(), format!("serving the directory {}: {error}", dir.display()))
            })
        });
        let catalogue = Catalogue::new(dir.transpose()?);
        for (name, body, len) in self.held {
            catalogue.hold(&name, body, len, 0);
        }
        let (tls, certificate) =
            if self.tls { self_signed().map(|(config, pem)| (Some(config), Some(pem)))? } else { (None, None) };
        let guard = access::Guard::new(self.access);
        let state = Arc::new(State::new(self.seed, self.shape, catalogue, guard, self.faults));
        let settings = Settings { connections_max: self.connections_max, tls, congestion: self.congestion };
        let server = Server::start(self.listen, Arc::clone(&state), settings)?;
        Ok(Origin { state, server, certificate })
    }
}

/// A TLS configuration under a fresh certificate, and the certificate as PEM.
fn self_signed() -> io::Result<(Arc<rustls::ServerConfig>, String)> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key))
        .map_err(io::Error::other)?;
    Ok((Arc::new(config), made.cert.pem()))
}

#[cfg(test)]
mod tests;
