//! The peers of one load: joins some of them, passes on what they say, and replaces those that are
//! gone or of no use.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use wire::digest::Digest;
use wire::manifest::Manifest;
use wire::peers::{ExtentId, Layout};

use super::choose::choose;
use super::have;
use super::member::Member;
use super::request::{Asked, Asking};
use super::source::{OnTaken, PeerSource};
use super::{NeighboursConfig, Peers};
use crate::fetch::{Dismissed, Event, Neighbours};
use crate::remote::http::{Client, HttpConfig};

/// The interval at which the members are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The peers that one load joins at most, all together: those that come and go do not grow its memory.
const JOINS_MAX: usize = 256;

/// The time after which a peer that went away may be joined again.
const AWAY: Duration = Duration::from_secs(10);

/// The news that may wait for the load.
const EVENTS_MAX: usize = 256;

/// Joins peers for a load of `files` of a manifest, in the order of the load's targets. They leave when the value drops.
/// None where no peer can be asked: a file is not in the manifest, or the manifest is too long.
pub(crate) fn join(
    peers: &Peers,
    config: &NeighboursConfig,
    client: &Client,
    http: &HttpConfig,
    manifest: &Manifest,
    files: &[&str],
) -> Option<Neighbours> {
    let layout = Layout::of(manifest)?;
    let places = manifest.files().iter().zip(0_u32..).map(|(file, place)| (file.name.clone(), place));
    let places: Arc<BTreeMap<String, u32>> = Arc::new(places.collect());
    let first = |name: &&str| {
        let place = usize::try_from(*places.get(*name)?).ok()?;
        // An empty file has none, and is not asked for.
        Some(layout.number(ExtentId { file: place, index: 0 }).unwrap_or(0))
    };
    let firsts = files.iter().map(first).collect::<Option<Vec<u32>>>()?;
    let (events, news) = mpsc::channel(EVENTS_MAX);
    let (dismissed, dismissals) = mpsc::channel(EVENTS_MAX);
    let extents = layout.extents();
    let session = Session {
        peers: peers.clone(),
        config: config.clone(),
        client: client.clone(),
        http: config.http(http),
        root: manifest.root(),
        layout: Arc::new(layout),
        files: places,
        events,
        known: BTreeMap::new(),
        numbers: Arc::default(),
        joined: 0,
        readers: JoinSet::new(),
        by_task: HashMap::new(),
    };
    tokio::spawn(session.run(dismissals));
    Some(Neighbours { firsts, extents, bounds: config.bounds(), events: news, dismissed })
}

/// A member as one load knows it.
enum Known {
    /// It is a neighbour, of this number.
    Here { peer: usize, is_near: bool, reader: AbortHandle },
    /// It is not to be joined before this time; never, without one.
    Away { until: Option<Instant> },
}

struct Session {
    peers: Peers,
    config: NeighboursConfig,
    client: Client,
    http: HttpConfig,
    root: Digest,
    layout: Arc<Layout>,
    files: Arc<BTreeMap<String, u32>>,
    events: mpsc::Sender<Event>,
    known: BTreeMap<String, Known>,
    /// The latest number of each member.
    numbers: Arc<Mutex<BTreeMap<String, usize>>>,
    joined: usize,
    readers: JoinSet<()>,
    by_task: HashMap<Id, String>,
}

impl Session {
    async fn run(mut self, mut dismissals: mpsc::Receiver<Dismissed>) {
        let asking = Asking::new(self.root, &self.peers, &self.config).await;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let events = self.events.clone();
        self.look(&asking).await;
        let _ = events.send(Event::Looked).await;
        look.reset();
        loop {
            tokio::select! {
                () = events.closed() => return,
                Some(dismissed) = dismissals.recv() => self.dismiss(dismissed),
                Some(ended) = self.readers.join_next_with_id() => {
                    let task = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    self.left(task).await;
                }
                _ = look.tick() => self.look(&asking).await,
            }
        }
    }

    /// Joins members while there is room.
    async fn look(&mut self, asking: &Asking) {
        let here = self.known.values().filter_map(|known| match known {
            Known::Here { is_near, .. } => Some(*is_near),
            Known::Away { .. } => None,
        });
        let (near, far): (Vec<bool>, Vec<bool>) = here.partition(|is_near| *is_near);
        let room = self.config.neighbours_max.saturating_sub(near.len() + far.len());
        let room = room.min(JOINS_MAX.saturating_sub(self.joined));
        if room == 0 {
            return;
        }
        let members = (self.peers.members)();
        let now = Instant::now();
        let is_open = |member: &Member| match self.known.get(&member.id) {
            None => true,
            Some(Known::Here { .. }) => false,
            Some(Known::Away { until }) => until.is_some_and(|until| until <= now),
        };
        let far_room = self.config.far_max.saturating_sub(far.len());
        let chosen = choose(&members, self.root, self.peers.own_id.as_deref(), is_open, room, far_room);
        for member in chosen {
            self.join(member, asking).await;
        }
    }

    async fn join(&mut self, member: &Member, asking: &Asking) {
        let Some(asked) = Asked::new(member, asking, &self.peers, &self.client, &self.http) else {
            self.known.insert(member.id.clone(), Known::Away { until: None });
            return tracing::warn!(member = member.id, address = member.address, "a peer's address is not HOST:PORT");
        };
        let peer = self.joined;
        self.joined += 1;
        self.numbers.lock().insert(member.id.clone(), peer);
        let source = PeerSource::new(asked.clone(), Arc::clone(&self.files), self.on_taken());
        let is_near = member.is_near;
        if self.events.send(Event::Joined { source: Arc::new(source), is_near }).await.is_err() {
            return;
        }
        let (extents, events) = (self.layout.extents(), self.events.clone());
        let reader = self.readers.spawn(async move {
            if let Err(error) = have::read(&asked, extents, peer, &events).await {
                tracing::info!(url = asked.url, %error, "a peer is left");
            }
        });
        self.by_task.insert(reader.id(), member.id.clone());
        self.known.insert(member.id.clone(), Known::Here { peer, is_near, reader });
    }

    /// Names of members that are no neighbours mean nothing: nobody is asked because a peer said so.
    fn on_taken(&self) -> OnTaken {
        let (numbers, layout) = (Arc::clone(&self.numbers), Arc::clone(&self.layout));
        // A source outlives its load's session; it must not keep the news from ending.
        let events = self.events.downgrade();
        Arc::new(move |file, index, members| {
            let id = ExtentId { file: usize::try_from(file).unwrap_or(usize::MAX), index };
            let (Some(events), Some(extent)) = (events.upgrade(), layout.number(id)) else { return };
            let numbers = numbers.lock();
            let peers: Vec<usize> = members.iter().filter_map(|member| numbers.get(member).copied()).collect();
            if !peers.is_empty() {
                // Only a hint: where there is no room for it, it is forgotten.
                let _ = events.try_send(Event::Took { peers, extent });
            }
        })
    }

    /// The load wants nothing more of a peer.
    fn dismiss(&mut self, dismissed: Dismissed) {
        let found = self
            .known
            .iter_mut()
            .find(|(_, known)| matches!(known, Known::Here { peer, .. } if *peer == dismissed.peer));
        let Some((_, known)) = found else { return };
        if let Known::Here { reader, .. } = known {
            reader.abort();
        }
        let until = (!dismissed.is_banned).then(|| Instant::now() + AWAY);
        *known = Known::Away { until };
    }

    /// A peer says no more.
    async fn left(&mut self, task: Id) {
        let Some(member) = self.by_task.remove(&task) else { return };
        if let Some(Known::Here { peer, reader, .. }) = self.known.get(&member)
            && reader.id() == task
        {
            let peer = *peer;
            self.known.insert(member, Known::Away { until: Some(Instant::now() + AWAY) });
            let _ = self.events.send(Event::Left { peer }).await;
        }
    }
}
