//! A small model as it is published, at an origin of its own, and what a process needs to load it beside peers.

use std::collections::BTreeMap;
use std::sync::Arc;

use loader::peers::{Member, Peers};
use loader::{Load, OpenOptions, Proof, Summary};
use sha2::{Digest as _, Sha256};
use wire::digest::{AnyDigest, Digest};
use wire::evidence::{Expected, Verdict};
use wire::extent::EXTENT_BYTES;
use wire::manifest::{MANIFEST_NAME, Manifest, ManifestFile};

use super::{Fleet, Peer, PeerWeights};
use crate::origin::{Generated, Origin};

const TENSOR_BYTES: usize = 3_000_000;
const CONFIG: &[u8] = br#"{"model_type":"test"}"#;
const SEED: u64 = 5;

/// A published model, and the fleet that loads it.
pub struct Published {
    /// Signs the certificates of the fleet.
    pub fleet: Fleet,
    /// The files by name.
    pub files: Arc<BTreeMap<String, Vec<u8>>>,
    /// Their manifest. `config.json` is its first extent.
    pub manifest: Manifest,
    /// The store; none once it is gone.
    pub origin: Option<Origin>,
    /// The model's URL there.
    pub url: String,
    tensors: usize,
}

impl Published {
    /// The name of the file of weights.
    pub const WEIGHTS: &'static str = "model.safetensors";

    /// A model of so many tensors of 3 MB, with its manifest beside it.
    ///
    /// # Panics
    /// The origin cannot be started.
    #[must_use]
    pub fn new(tensors: usize) -> Self {
        let (weights, config) = (safetensors(tensors), CONFIG.to_vec());
        let files = BTreeMap::from([(Self::WEIGHTS.to_owned(), weights), ("config.json".to_owned(), config)]);
        let manifest = manifest_of(&files);
        let mut origin = Origin::builder().seed(7).object(&format!("m/{MANIFEST_NAME}"), manifest.to_json());
        for (name, bytes) in &files {
            origin = origin.object(&format!("m/{name}"), bytes.clone());
        }
        let origin = origin.start().expect("an origin");
        let url = format!("{}/m/", origin.url());
        Self { fleet: Fleet::new(), files: Arc::new(files), manifest, origin: Some(origin), url, tensors }
    }

    /// The bytes of the weights.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files[Self::WEIGHTS].len() as u64
    }

    /// Bytes of weights that the origin has sent.
    #[must_use]
    pub fn sent_by_origin(&self) -> u64 {
        let account = self.origin.as_ref().map(Origin::account).unwrap_or_default();
        account.objects.get(&format!("m/{}", Self::WEIGHTS)).map_or(0, |object| object.bytes_sent)
    }

    /// All of it, of a peer that serves.
    #[must_use]
    pub fn weights(&self) -> PeerWeights {
        PeerWeights::all(&self.manifest, &self.files)
    }

    /// The weights with the manifest that an honest peer attests, after `change`.
    #[must_use]
    pub fn attested(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> PeerWeights {
        let mut files = BTreeMap::from([(Self::WEIGHTS.to_owned(), self.files[Self::WEIGHTS].clone())]);
        change(&mut files);
        PeerWeights::all(&manifest_of(&files), &Arc::new(files)).attesting()
    }

    /// The verdict where the manifest decides.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let expected = |file: &ManifestFile| (file.name.clone(), Expected::Extents(file.extents.clone()));
        let expected = self.manifest.files().iter().map(expected).collect();
        let root = Some(self.manifest.root());
        Verdict { proof: Proof::Proven, expected, is_exhaustive: true, root, reasons: Vec::new() }
    }

    /// The verdict where the store tells the SHA-256 of the whole file, as a hub does, and nobody anything else.
    #[must_use]
    pub fn verdict_of_whole(&self) -> Verdict {
        let sha256 = wire::digest::Sha256(Sha256::digest(&self.files[Self::WEIGHTS]).into());
        let whole = Expected::Whole(AnyDigest::Sha256(sha256));
        let expected = BTreeMap::from([(Self::WEIGHTS.to_owned(), whole)]);
        Verdict { proof: Proof::Proven, expected, is_exhaustive: false, root: None, reasons: Vec::new() }
    }

    /// The peers of a process of this name.
    #[must_use]
    pub fn peers(&self, own: &str, members: Vec<Member>) -> Peers {
        Peers { roots: vec![self.manifest.root()], ..fleet_of(&self.fleet, own, members) }
    }

    /// The tensors, in the order in which they are executed.
    #[must_use]
    pub fn options(&self) -> OpenOptions {
        OpenOptions { order: (0..self.tensors).map(tensor).collect(), ..OpenOptions::default() }
    }

    /// Waits for a load and checks every byte of it.
    ///
    /// # Panics
    /// The load fails, or a byte is wrong.
    pub async fn arrived(&self, load: &Load) -> Summary {
        let summary = load.finished().await.expect("the load succeeds");
        let expected = Generated::new((self.tensors * TENSOR_BYTES) as u64, SEED);
        for at in 0..self.tensors {
            let range = (at * TENSOR_BYTES) as u64..((at + 1) * TENSOR_BYTES) as u64;
            let found = load.weights.get(&tensor(at)).expect("the tensor is there");
            assert!(found.bytes() == expected.bytes(range), "wrong bytes in {}", tensor(at));
        }
        summary
    }
}

/// The peers of a process of this name, which knows no root before it asks storage.
#[must_use]
pub fn fleet_of(fleet: &Fleet, own: &str, members: Vec<Member>) -> Peers {
    let (tls, own) = (fleet.client(own), own.to_owned());
    Peers {
        members: Arc::new(move || members.clone()),
        settled: Arc::new(|| Box::pin(std::future::ready(()))),
        tls: Arc::new(move || Arc::clone(&tls)),
        own_id: Arc::new(move || Some(own.clone())),
        roots: Vec::new(),
    }
}

/// A near member of a fleet.
#[must_use]
pub fn member(id: &str, address: impl ToString) -> Member {
    Member { id: id.to_owned(), address: address.to_string(), name: id.to_owned(), is_near: true, zone: None }
}

impl Peer {
    /// The peer as a member of its fleet.
    #[must_use]
    pub fn member(&self) -> Member {
        member(&self.id, self.address)
    }
}

/// Bytes that a load took from peers.
#[must_use]
pub fn bytes_from_peers(summary: &Summary) -> u64 {
    let sources = summary.fetch.iter().flat_map(|fetch| &fetch.sources);
    sources.filter(|source| source.url.starts_with("peer://")).map(|source| source.bytes).sum()
}

fn tensor(at: usize) -> String {
    format!("layers.{at}")
}

fn safetensors(tensors: usize) -> Vec<u8> {
    let entry = |at: usize| {
        let (begin, end) = (at * TENSOR_BYTES, (at + 1) * TENSOR_BYTES);
        format!("\"{}\":{{\"dtype\":\"U8\",\"shape\":[{TENSOR_BYTES}],\"data_offsets\":[{begin},{end}]}}", tensor(at))
    };
    let header = format!("{{{}}}", (0..tensors).map(entry).collect::<Vec<_>>().join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    let length = (tensors * TENSOR_BYTES) as u64;
    bytes.extend(Generated::new(length, SEED).bytes(0..length));
    bytes
}

fn manifest_of(files: &BTreeMap<String, Vec<u8>>) -> Manifest {
    let file = |(name, bytes): (&String, &Vec<u8>)| ManifestFile {
        name: name.clone(),
        bytes: bytes.len() as u64,
        extents: bytes.chunks(EXTENT_BYTES as usize).map(|bytes| Digest(*blake3::hash(bytes).as_bytes())).collect(),
        tensors: Vec::new(),
    };
    Manifest::new(files.iter().map(file).collect()).expect("a manifest")
}
