//! One asker's right to one root, which may end while it is used.

use super::Offer;
use super::entry::{By, Entry};
use listen::Identity;
use policy::{Asker, Peers};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use wire::digest::Digest;

/// The name that a rule gives to every process of this machine, which a plain listener on loopback asks for no
/// certificate. No certificate can have it.
const LOCAL: &str = "local:loopback";

/// One asker's right to one root.
#[derive(Debug, Clone)]
pub(crate) struct Right {
    pub(crate) offer: Offer,
    pub(crate) peers: Arc<Peers>,
    /// None without TLS.
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) capability: Option<String>,
    pub(crate) root: Digest,
    pub(crate) by: By,
}

impl Right {
    /// The model, if the asker may have it now.
    pub(crate) fn entry(&self) -> Option<Arc<Entry>> {
        let (dns, uris): (&[String], Vec<String>) = match &self.identity {
            Some(identity) => (&identity.dns, identity.uris.iter().filter(|uri| *uri != LOCAL).cloned().collect()),
            None => (&[], vec![LOCAL.to_owned()]),
        };
        let capability = self.capability.as_deref().filter(|_| self.identity.is_some());
        let asker = Asker { dns, uris: &uris, thumbprint: self.key(), capability };
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.offer.find(&self.peers, &asker, (self.root, self.by), now_s)
    }

    /// The asker, as its places in the queue are counted.
    pub(crate) fn key(&self) -> [u8; 32] {
        self.identity.as_ref().map_or([0; 32], |identity| identity.thumbprint)
    }

    /// The asker's name, for people.
    pub(crate) fn name(&self) -> &str {
        self.identity.as_ref().and_then(|identity| identity.name()).unwrap_or(LOCAL)
    }
}
