//! The peers of one load: connects to some members, passes on what they say, and replaces those that
//! are gone or of no use.
//!
//! A member counts as a peer of the load once it answers: those that cannot be reached cost the load
//! nothing but a connection that fails.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::sleep;
use wire::digest::Digest;
use wire::manifest::Manifest;
use wire::peers::{ExtentId, Layout};

use super::choose::choose;
use super::fleet::{Fleet, Wrong};
use super::have::{self, HaveError};
use super::ledger::{Connected, Ledger};
use super::member::Member;
use super::request::{Asked, Asking};
use super::source::{OnTaken, PeerSource};
use crate::fetch::{Claims, Dismissed, Event, MemberKey, Neighbours};

/// The interval at which the members are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The interval in the first seconds of a load: others that start at the same time are not there yet, or have nothing to
/// say of the model.
const FIRST_LOOKS: Duration = Duration::from_millis(250);
const BEGINNING: Duration = Duration::from_secs(10);

/// The peers that one load has at most, all together: those that come and go do not grow its memory.
const JOINS_MAX: usize = 256;

/// The time after which a member that went away may be tried again; it doubles each time. One that never answered may be
/// starting, as we are: it is tried so often before the pause doubles.
const AWAY: Duration = Duration::from_secs(5);
const AWAY_UNSEEN: Duration = Duration::from_millis(200);
const UNSEEN_TRIES: u32 = 16;
const AWAY_MAX: Duration = Duration::from_secs(300);

/// The time for which a load waits for the first answers before it begins without.
const FIRST_ANSWERS: Duration = Duration::from_millis(500);

/// The news that may wait for the load.
const EVENTS_MAX: usize = 256;

/// Joins peers for a load of `files` of a manifest, in the order of the load's targets. They leave when the value drops.
/// If the manifest is `proven`, one that sends other bytes is banned for later loads, too. None where no peer can be
/// asked: a file is not in the manifest, or the manifest is too long.
pub(crate) fn join(
    fleet: &Fleet,
    manifest: &Manifest,
    is_proven: bool,
    files: &[&str],
    claims: Arc<Claims>,
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
    let own = MemberKey(rand::random());
    let session = Session {
        fleet: fleet.clone(),
        is_proven,
        root: manifest.root(),
        layout: Arc::new(layout),
        files: places,
        events,
        known: BTreeMap::new(),
        numbers: Arc::default(),
        joined: 0,
        readers: JoinSet::new(),
        by_task: HashMap::new(),
        has_looked: false,
        strangers: Vec::new(),
    };
    tokio::spawn(session.run(dismissals));
    Some(Neighbours { firsts, extents, own, bounds: fleet.config.bounds(), claims, events: news, dismissed })
}

/// A member as one load knows it.
struct Known {
    state: State,
    /// The times that it went away.
    departures: u32,
}

enum State {
    /// It is asked what it has, and is a peer of this number once it answers.
    Here { peer: Option<usize>, is_near: bool, reader: AbortHandle },
    /// It is not to be tried before this time; never, without one.
    Away { until: Option<Instant> },
}

/// A member answers.
struct Opened {
    asked: Asked,
    member: Member,
    number: oneshot::Sender<usize>,
}

struct Session {
    fleet: Fleet,
    is_proven: bool,
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
    /// The load has been told that the first peers are there.
    has_looked: bool,
    /// The members of which nothing is known, as the load was told.
    strangers: Vec<MemberKey>,
}

impl Session {
    async fn run(mut self, mut dismissals: mpsc::Receiver<Dismissed>) {
        self.fleet.settled().await;
        if let Some(id) = (self.fleet.peers.own_id)() {
            let _ = self.events.send(Event::Own(MemberKey::of(&id))).await;
        }
        let asking = Asking::new(self.root, &self.fleet.peers, &self.fleet.config).await;
        let (opened, mut openings) = mpsc::channel(self.fleet.config.neighbours_max);
        let begun = Instant::now();
        let mut look = pin!(sleep(FIRST_LOOKS));
        let mut first_answers = pin!(sleep(FIRST_ANSWERS));
        let events = self.events.clone();
        self.look(&asking, &opened);
        self.tell_strangers().await;
        loop {
            tokio::select! {
                () = events.closed() => {
                    // The last of them may have been dismissed with the load's end.
                    while let Ok(dismissed) = dismissals.try_recv() {
                        self.dismiss(dismissed);
                    }
                    return;
                }
                Some(dismissed) = dismissals.recv() => self.dismiss(dismissed),
                Some(opened) = openings.recv() => self.join(opened).await,
                Some(ended) = self.readers.join_next_with_id() => {
                    let task = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    self.left(task).await;
                }
                () = &mut first_answers, if !self.has_looked => self.looked().await,
                () = &mut look => {
                    self.look(&asking, &opened);
                    self.tell_strangers().await;
                    let pause = if begun.elapsed() < BEGINNING { FIRST_LOOKS } else { LOOK };
                    look.as_mut().reset(tokio::time::Instant::now() + pause);
                }
            }
            let has_answered = |known: &Known| !matches!(known.state, State::Here { peer: None, .. });
            if !self.has_looked && self.known.values().all(has_answered) {
                self.looked().await;
            }
        }
    }

    /// Says which members are no neighbours and may load the same model, if those are others than before.
    async fn tell_strangers(&mut self) {
        let own = (self.fleet.peers.own_id)();
        let members = (self.fleet.peers.members)();
        let unknown =
            members.iter().filter(|member| Some(&member.id) != own.as_ref() && !self.known.contains_key(&member.id));
        let strangers: Vec<MemberKey> = unknown.map(|member| MemberKey::of(&member.id)).collect();
        if strangers != self.strangers {
            self.strangers.clone_from(&strangers);
            let _ = self.events.send(Event::Strangers(strangers)).await;
        }
    }

    async fn looked(&mut self) {
        self.has_looked = true;
        let (members, own) = self.fleet.members();
        let is_alone = members.iter().all(|member| Some(&member.id) == own.as_ref());
        let _ = self.events.send(Event::Looked { is_alone }).await;
    }

    /// Connects to members while there is room.
    fn look(&mut self, asking: &Asking, opened: &mpsc::Sender<Opened>) {
        let (members, own) = self.fleet.members();
        self.known.retain(|id, known| {
            // One that is banned stays so, also where it is not listed for a while.
            let is_gone = matches!(known.state, State::Away { until: Some(_) });
            !is_gone || members.iter().any(|member| member.id == *id)
        });
        let here = self.known.values().filter_map(|known| match known.state {
            State::Here { is_near, .. } => Some(is_near),
            State::Away { .. } => None,
        });
        let (near, far): (Vec<bool>, Vec<bool>) = here.partition(|is_near| *is_near);
        let room = self.fleet.config.neighbours_max.saturating_sub(near.len() + far.len());
        if room == 0 || self.joined >= JOINS_MAX {
            return;
        }
        let now = Instant::now();
        let is_open = |member: &Member| match self.known.get(&member.id).map(|known| &known.state) {
            Some(State::Here { .. }) => false,
            Some(State::Away { until }) if !until.is_some_and(|until| until <= now) => false,
            _ => !self.fleet.is_banned(member),
        };
        let far_room = self.fleet.config.far_max.saturating_sub(far.len());
        let chosen = choose(&members, self.root, own.as_deref(), is_open, room, far_room);
        for member in chosen {
            self.connect(member, asking, opened);
        }
    }

    fn connect(&mut self, member: &Member, asking: &Asking, opened: &mpsc::Sender<Opened>) {
        let departures = self.known.get(&member.id).map_or(0, |known| known.departures);
        if matches!(self.known.get(&member.id), Some(Known { state: State::Here { .. }, .. })) {
            return tracing::warn!(member = member.id, "two members of the fleet have one id");
        }
        let Some(asked) = self.fleet.asked(member, asking) else {
            let until = Some(Instant::now() + AWAY_MAX);
            self.known.insert(member.id.clone(), Known { state: State::Away { until }, departures });
            return tracing::warn!(member = member.id, address = member.address, "a peer's address is not HOST:PORT");
        };
        let (extents, events, opened) = (self.layout.extents(), self.events.clone(), opened.clone());
        let (is_near, ledger) = (member.is_near, Arc::clone(&self.fleet.ledger));
        let asking = member.clone();
        let reader = self.readers.spawn(async move {
            if let Err(error) = read(asked, extents, asking, ledger, &opened, &events).await {
                tracing::info!(error = %wire::Chain(&error), "a peer is left");
            }
        });
        self.by_task.insert(reader.id(), member.id.clone());
        let state = State::Here { peer: None, is_near, reader };
        self.known.insert(member.id.clone(), Known { state, departures });
    }

    /// A member answers: it is a peer of the load from now on.
    async fn join(&mut self, opened: Opened) {
        let Opened { asked, member, number: given } = opened;
        let Some(Known { state: State::Here { peer, .. }, .. }) = self.known.get_mut(&member.id) else { return };
        if self.joined >= JOINS_MAX {
            return;
        }
        let number = self.joined;
        self.joined += 1;
        *peer = Some(number);
        self.numbers.lock().insert(member.id.clone(), number);
        let source = PeerSource::new(asked, Arc::clone(&self.files), self.on_taken());
        let source = Arc::new(source.noted_in(Arc::clone(&self.fleet.ledger), &member.id));
        // First, so that nothing is said by a peer that has not joined.
        if self
            .events
            .send(Event::Joined { source, is_near: member.is_near, member: MemberKey::of(&member.id) })
            .await
            .is_ok()
        {
            let _ = given.send(number);
        }
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
        let is_it =
            |known: &Known| matches!(known.state, State::Here { peer: Some(peer), .. } if peer == dismissed.peer);
        let Some((id, known)) = self.known.iter_mut().find(|(_, known)| is_it(known)) else { return };
        if dismissed.is_banned && self.is_proven {
            self.fleet.ban(id, Wrong::Sent);
        }
        if let State::Here { reader, .. } = &known.state {
            reader.abort();
        }
        known.go_away(!dismissed.is_banned);
    }

    /// A peer says no more.
    async fn left(&mut self, task: Id) {
        let known = self.by_task.remove(&task).and_then(|member| self.known.get_mut(&member));
        let Some(known) = known else { return };
        if let State::Here { peer, reader, .. } = &known.state
            && reader.id() == task
        {
            let peer = *peer;
            known.go_away(true);
            if let Some(peer) = peer {
                let _ = self.events.send(Event::Left { peer }).await;
            }
        }
    }
}

impl Known {
    fn go_away(&mut self, may_return: bool) {
        let is_unseen = matches!(self.state, State::Here { peer: None, .. });
        let (pause, doublings) = match is_unseen {
            true => (AWAY_UNSEEN, self.departures.saturating_sub(UNSEEN_TRIES)),
            false => (AWAY, self.departures),
        };
        let pause = pause.saturating_mul(1 << doublings.min(11)).min(AWAY_MAX);
        self.departures += 1;
        self.state = State::Away { until: may_return.then(|| Instant::now() + pause) };
    }
}

/// Asks a member what it has, and passes on what it says.
async fn read(
    asked: Asked,
    extents: u32,
    member: Member,
    ledger: Arc<Ledger>,
    opened: &mpsc::Sender<Opened>,
    events: &mpsc::Sender<Event>,
) -> Result<(), HaveError> {
    let stream = have::open(&asked).await?;
    let _connected = Connected::new(ledger, &member, Instant::now());
    let (number, given) = oneshot::channel();
    if opened.send(Opened { asked, member, number }).await.is_err() {
        return Ok(());
    }
    match given.await {
        Ok(peer) => have::read(stream, extents, peer, events).await,
        Err(_) => Ok(()),
    }
}
