//! A model read from peers alone, where its storage cannot be asked: its root is known and proves
//! the manifest, and the manifest proves every byte.
//!
//! This is for the first look (small files and headers); weights are fetched beside peers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use wire::digest::Digest;
use wire::extent;
use wire::manifest::{MANIFEST_NAME, Manifest};
use wire::peers::Resource;

use super::choose::choose;
use super::fleet::{Fleet, Wrong};
use super::manifest;
use super::member::Member;
use super::request::{Asked, Asking};
use super::source::PeerSource;
use crate::landing::{Landed, Landing, LandingError};
use crate::source::{Object, ReadOptions, Source, SourceError, Tag};

/// Extents read at a time, and kept for the next look: a header is read twice.
const READS_MAX: usize = 4;
const HELD_MAX: usize = 8;

/// A model whose every byte peers bring.
pub(crate) struct PeersModel {
    url: String,
    manifest: Manifest,
    text: Bytes,
    peers: Vec<(Asked, PeerSource)>,
    fleet: Fleet,
    reads: Semaphore,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    banned: BTreeSet<usize>,
    /// The peer that served last.
    good: usize,
    /// The latest verified extents.
    held: VecDeque<((usize, u64), Bytes)>,
}

impl PeersModel {
    /// Asks peers for the manifest of `root`. `url` is the model's, for messages.
    ///
    /// # Errors
    /// No peer gives a manifest of this root.
    pub(crate) async fn find(url: String, root: Digest, fleet: &Fleet) -> Result<Self, SourceError> {
        let Fleet { peers, config, .. } = fleet;
        fleet.settled().await;
        let asking = Asking::new(root, peers, config).await;
        let (members, own) = fleet.members();
        let is_open = |member: &Member| !fleet.is_banned(member);
        let chosen = choose(&members, root, own.as_deref(), is_open, config.neighbours_max, config.far_max);
        let asked: Vec<Asked> = chosen.into_iter().filter_map(|member| fleet.asked(member, &asking)).collect();
        let is_it = |manifest: &Manifest| match manifest.root() {
            found if found == root => Ok(()),
            found => Err(format!("its root is {found}")),
        };
        if let Some((good, manifest, text)) = manifest::first(&asked, Resource::Manifest, is_it).await {
            return Ok(Self::new(url, manifest, text, (asked, good), fleet));
        }
        let problem = format!("none of {} peers gave the manifest {root}", asked.len());
        Err(SourceError::Transient { url, name: MANIFEST_NAME.to_owned(), problem, source: None })
    }

    fn new(url: String, manifest: Manifest, text: Bytes, (asked, good): (Vec<Asked>, usize), fleet: &Fleet) -> Self {
        let places = manifest.files().iter().zip(0_u32..).map(|(file, place)| (file.name.clone(), place));
        let places: Arc<BTreeMap<String, u32>> = Arc::new(places.collect());
        let source = |asked: Asked| {
            let source = PeerSource::new(asked.clone(), Arc::clone(&places), Arc::new(|_, _, _| {}));
            (asked, source)
        };
        let peers = asked.into_iter().map(source).collect();
        let seen = Mutex::new(Seen { good, ..Seen::default() });
        Self { url, manifest, text, peers, fleet: fleet.clone(), reads: Semaphore::new(READS_MAX), seen }
    }

    fn held(&self, place: (usize, u64)) -> Option<Bytes> {
        let seen = self.seen.lock();
        seen.held.iter().find(|(held, _)| *held == place).map(|(_, bytes)| bytes.clone())
    }

    /// One extent of a file of the manifest, verified.
    async fn extent(&self, object: &Object, file: usize, index: u64) -> Result<Bytes, SourceError> {
        let _permit = self.reads.acquire().await;
        if let Some(bytes) = self.held((file, index)) {
            return Ok(bytes);
        }
        let mut problem = SourceError::NotFound { url: self.url.clone(), name: object.name.clone() };
        let good = self.seen.lock().good;
        for at in (0..self.peers.len()).map(|at| (good + at) % self.peers.len()) {
            if self.seen.lock().banned.contains(&at) {
                continue;
            }
            match self.extent_of(at, object, file, index).await {
                Ok(bytes) => {
                    let mut seen = self.seen.lock();
                    seen.good = at;
                    seen.held.push_back(((file, index), bytes.clone()));
                    if seen.held.len() > HELD_MAX {
                        seen.held.pop_front();
                    }
                    return Ok(bytes);
                }
                Err(error) => {
                    if matches!(error, SourceError::Landing(LandingError::Corrupt { .. })) {
                        self.fleet.ban(self.peers[at].0.member(), Wrong::Sent);
                        self.seen.lock().banned.insert(at);
                    }
                    problem = error;
                }
            }
        }
        let (url, name, problem) =
            (self.url.clone(), object.name.clone(), format!("no peer gave it; the last: {problem}"));
        Err(SourceError::Transient { url, name, problem, source: None })
    }

    async fn extent_of(&self, at: usize, object: &Object, file: usize, index: u64) -> Result<Bytes, SourceError> {
        let expected = self.manifest.files().get(file).and_then(|file| file.extents.get(usize::try_from(index).ok()?));
        let missing = || SourceError::NotFound { url: self.url.clone(), name: object.name.clone() };
        let (range, expected) =
            (extent::range(object.bytes, index).ok_or_else(missing)?, *expected.ok_or_else(missing)?);
        let (name, url, bytes) = (object.name.clone(), self.peers[at].0.url.clone(), range.clone());
        let judge = move |landed: Landed<'_>| match landed.digest.as_bytes() == &expected.0 {
            true => Ok(()),
            false => Err(LandingError::Corrupt {
                object: name.clone(),
                range: bytes.clone(),
                source_url: url.clone(),
                found: landed.digest.to_string(),
                expected: expected.to_string(),
            }),
        };
        let mut landing = Landing::bounce(range, Arc::new(judge));
        self.peers[at].1.read(object, &mut landing, ReadOptions::default()).await?;
        Ok(Bytes::from(landing.into_bytes().unwrap_or_default()))
    }
}

impl fmt::Debug for PeersModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} from {} peers", self.manifest.root(), self.peers.len())
    }
}

#[async_trait]
impl Source for PeersModel {
    fn url(&self) -> &str {
        &self.url
    }

    fn account(&self) -> &str {
        "peers"
    }

    async fn stat(&self, name: &str) -> Result<Object, SourceError> {
        let bytes = match self.manifest.file(name) {
            _ if name == MANIFEST_NAME => self.text.len() as u64,
            Some(file) => file.bytes,
            None => return Err(SourceError::NotFound { url: self.url.clone(), name: name.to_owned() }),
        };
        Ok(Object { name: name.to_owned(), bytes, tag: Tag::default(), checksum: None })
    }

    async fn read(&self, object: &Object, landing: &mut Landing, _: ReadOptions) -> Result<(), SourceError> {
        let file = self.manifest.files().iter().position(|file| file.name == object.name);
        while landing.remaining() > 0 {
            let at = landing.position();
            let (bytes, begin) = match file {
                _ if object.name == MANIFEST_NAME => (self.text.clone(), 0),
                Some(file) => {
                    let index = at / extent::EXTENT_BYTES;
                    (self.extent(object, file, index).await?, index * extent::EXTENT_BYTES)
                }
                None => return Err(SourceError::NotFound { url: self.url.clone(), name: object.name.clone() }),
            };
            let from = usize::try_from(at - begin).unwrap_or(usize::MAX);
            let rest = bytes.get(from..).unwrap_or_default();
            let buffer = landing.buffer();
            let count = buffer.len().min(rest.len());
            if count == 0 {
                let (url, name) = (self.url.clone(), object.name.clone());
                return Err(SourceError::Changed { url, name, detail: "it is shorter than it was".to_owned() });
            }
            buffer[..count].copy_from_slice(&rest[..count]);
            landing.filled(count).await?;
        }
        Ok(())
    }
}
