//! One attempt of one fetch: read, watched for stalls, and raced by a hedge where it is slow.
//!
//! The hedge asks for the next missing extent only, into a buffer of its own. Whichever copy
//! is verified first wins; if it is the second one, the first request is dropped before its bytes are
//! copied in, so two writers never share a range.

use std::future::{Future, pending, poll_fn};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};
use wire::extent::EXTENT_BYTES;

use super::active::ActiveFetch;
use super::budget::Reservation;
use super::clock::now;
use super::decide::Ended;
use super::error::FetchError;
use super::shared::Shared;
use super::stall::{Health, Pulse, Stall};
use super::supply::{News, Order};
use crate::landing::{Landed, Landing, LandingError, LandingProgress};
use crate::source::{ReadOptions, SourceError};

/// The interval at which a slow request is looked at.
pub(super) const SLOW_LOOK: Duration = Duration::from_millis(50);

/// How an attempt ended, and the bytes that it landed.
pub(super) struct Attempted {
    pub(super) ended: Ended,
    pub(super) brought: u64,
}

impl From<Ended> for Attempted {
    fn from(ended: Ended) -> Self {
        Self { ended, brought: 0 }
    }
}

/// Makes one attempt to bring what is missing of an order. `recall` breaks it off.
pub(super) async fn attempt(
    shared: &Arc<Shared>,
    active: &mut ActiveFetch,
    order: &Order,
    recall: &Notify,
) -> Result<Attempted, FetchError> {
    let source = order.source();
    let Some(mut landing) = active.land(shared, source)? else { return Ok(Ended::Complete.into()) };
    // What an attempt that was given up has left on its way.
    if let Err(refused) = landing.settle().await {
        return Ok(put_aside(shared, active, order, landing, Ended::Failed(refused.into())).await.into());
    }
    if landing.remaining() == 0 {
        return Ok(Ended::Complete.into());
    }
    let object = &shared.targets[active.file].object(source).name;
    let wait = shared.budgets.request(shared.source(source).account(), &blob(shared, source, object), now());
    if !wait.is_zero() {
        sleep(wait).await;
    }
    shared.hedges().asked(landing.remaining());
    let from = landing.position();
    let raced = race(shared, active, order, &mut landing, recall).await;
    let brought = landing.position().saturating_sub(from);
    let ended = match raced {
        Raced::Ended(Ended::Complete) => Ended::Complete,
        Raced::Ended(ended) => put_aside(shared, active, order, landing, ended).await,
        Raced::Overtaken(brought) => {
            shared.tally.discarded(landing.position() % EXTENT_BYTES);
            // Its range is free when nothing of it is on its way to the disk; whether that was
            // written matters no more.
            let _ = landing.quiet().await;
            drop(landing);
            active.install(shared, brought.extent, brought.digest, brought.bytes, brought.source).await?;
            if active.missing(shared).is_empty() { Ended::Complete } else { Ended::Overtaken }
        }
    };
    Ok(Attempted { ended, brought })
}

/// Keeps the landing of an attempt that ended early for the next one, or frees its range: nothing of
/// it may be on its way to the disk then.
async fn put_aside(
    shared: &Shared,
    active: &mut ActiveFetch,
    order: &Order,
    mut landing: Landing,
    mut ended: Ended,
) -> Ended {
    if !order.resumes {
        match landing.settle().await {
            Ok(()) if landing.remaining() == 0 => return Ended::Complete,
            Ok(()) => shared.tally.discarded(landing.position() % EXTENT_BYTES),
            Err(refused) => ended = Ended::Failed(refused.into()),
        }
    }
    if let Ended::Failed(SourceError::Landing(LandingError::Corrupt { range, .. })) = &ended {
        shared.tally.discarded(range.end - range.start);
    }
    if order.resumes {
        active.keep(landing);
    }
    ended
}

/// The name of an object's request budget.
fn blob(shared: &Shared, source: usize, object: &str) -> String {
    format!("{}/{object}", shared.source(source).url())
}

enum Raced {
    Ended(Ended),
    Overtaken(Brought),
}

/// A verified extent that a hedge has brought.
struct Brought {
    extent: u64,
    digest: blake3::Hash,
    bytes: Vec<u8>,
    source: usize,
}

impl Brought {
    /// The end of the extent in its object.
    fn end(&self) -> u64 {
        self.extent * EXTENT_BYTES + self.bytes.len() as u64
    }
}

async fn race(
    shared: &Arc<Shared>,
    active: &ActiveFetch,
    order: &Order,
    landing: &mut Landing,
    recall: &Notify,
) -> Raced {
    let source = order.source();
    let options = ReadOptions { fresh_connection: order.history.fresh };
    let (begins_at, end) = (landing.position(), landing.range().end);
    let object = shared.targets[active.file].object(source);
    let mut watch = Watch::new(shared, source, landing);
    let asked = shared.source(source);
    let mut read = asked.read(object, landing, options);
    let mut hedge: Option<Hedge> = None;
    let mut hedged = None;
    let raced = loop {
        let extent = (begins_at + watch.pulse.landed()) / EXTENT_BYTES;
        if let Some(lost) = hedge.take_if(|hedge| hedge.extent < extent || hedge.is_stuck(shared)) {
            lost.lose(shared, "overtaken");
        }
        let look_again = match watch.health(order.history.stalls) {
            Health::Fine(at) => at,
            Health::Stalled(stall) if hedge.is_none() => {
                watch.given_up(stall);
                break Raced::Ended(Ended::Stalled(stall));
            }
            Health::Slow if hedge.is_none() && hedged != Some(extent) => {
                hedge = Hedge::begin(shared, order, extent, end);
                hedged = hedge.as_ref().map(|hedge| hedge.extent);
                now() + SLOW_LOOK
            }
            Health::Slow | Health::Stalled(_) => now() + SLOW_LOOK,
        };
        tokio::select! {
            biased;
            result = watch.read(read.as_mut()) => break Raced::Ended(watch.finished(result)),
            (result, done) = end_of(&mut hedge) => match result {
                // Both may have come with the same poll: then the first request has published it.
                Ok(brought) if begins_at + watch.pulse.landed() < brought.end() => {
                    done.win(shared);
                    shared.tally.request("overtaken");
                    break Raced::Overtaken(brought);
                }
                Ok(_) => done.lose(shared, "overtaken"),
                Err(problem) => {
                    shared.supply().heard(News::HedgeFailed { source: done.source, problem: &problem }, now());
                    done.lose(shared, outcome(&problem));
                }
            },
            () = recall.notified() => {
                shared.tally.request("recalled");
                break Raced::Ended(Ended::Recalled);
            }
            () = sleep_until(look_again.into()) => {}
        }
    };
    if let Some(lost) = hedge {
        lost.lose(shared, "overtaken");
    }
    raced
}

/// The label under which a failed request is counted.
fn outcome(problem: &SourceError) -> &'static str {
    match problem {
        SourceError::Throttled { .. } | SourceError::Taken { .. } => "throttled",
        SourceError::Landing(LandingError::Corrupt { .. }) => "corrupt",
        _ => "failed",
    }
}

/// Watches a request's bytes come in.
pub(super) struct Watch<'a> {
    shared: &'a Shared,
    source: usize,
    progress: Arc<LandingProgress>,
    landed_before: u64,
    pulse: Pulse,
    _reading: super::shared::Reading<'a>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(shared: &'a Shared, source: usize, landing: &Landing) -> Self {
        let progress = landing.progress();
        let landed_before = progress.landed();
        let reading = shared.reading();
        let pulse = Pulse::new(now(), landing.remaining(), shared.others());
        Self { shared, source, progress, landed_before, pulse, _reading: reading }
    }

    /// Reads on. The bytes are counted where they are received, so nothing has to wake up for it.
    pub(super) async fn read<T>(&mut self, mut read: Pin<&mut (dyn Future<Output = T> + Send + '_)>) -> T {
        poll_fn(|context| {
            let polled = read.as_mut().poll(context);
            self.note();
            polled
        })
        .await
    }

    fn note(&mut self) {
        let landed = self.progress.landed() - self.landed_before;
        let more = landed - self.pulse.landed();
        if more == 0 {
            return;
        }
        let is_first = self.pulse.landed() == 0;
        let all = self.shared.receive(self.source, more);
        self.pulse.note(now(), landed, all);
        if let Some(after) = self.pulse.first_byte_after().filter(|_| is_first) {
            self.shared.observed(self.source, |observed| observed.first_byte(after));
        }
    }

    pub(super) fn health(&mut self, stalls: u32) -> Health {
        let patience = self.shared.observed(self.source, |observed| observed.patience(&self.shared.config, stalls));
        if self.progress.is_writing() {
            self.pulse.excuse(now());
        }
        self.pulse.health(now(), &patience, self.shared.others())
    }

    pub(super) fn given_up(&self, stall: Stall) {
        let silent_for = self.pulse.silent_for(now());
        self.shared.observed(self.source, |observed| observed.given_up(stall, silent_for));
        self.shared.tally.request("stalled");
    }

    pub(super) fn finished(&self, result: Result<(), SourceError>) -> Ended {
        match result {
            Ok(()) => {
                let (bytes, took, silence) =
                    (self.pulse.landed(), self.pulse.elapsed(now()), self.pulse.longest_silence());
                self.shared.observed(self.source, |observed| observed.finished(bytes, took, silence));
                self.shared.tally.request("ok");
                Ended::Complete
            }
            Err(problem) => {
                self.shared.tally.request(outcome(&problem));
                Ended::Failed(problem)
            }
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.shared.tally.disk_waited(self.progress.take_waited());
    }
}

type HedgeRead = Pin<Box<dyn Future<Output = Result<Brought, SourceError>> + Send>>;

/// A hedge of one extent, on a connection of its own and from another source where one has it.
struct Hedge {
    extent: u64,
    read: HedgeRead,
    progress: Arc<LandingProgress>,
    pulse: Pulse,
    source: usize,
    /// The buffer counts as bytes in flight.
    _reservation: Reservation,
}

impl Hedge {
    /// Begins one, if somebody has the extent and budgets allow it.
    fn begin(shared: &Arc<Shared>, order: &Order, extent: u64, end: u64) -> Option<Self> {
        let range = extent * EXTENT_BYTES..((extent + 1) * EXTENT_BYTES).min(end);
        let source = shared.supply().hedge(order, extent, now())?;
        let bytes = range.end - range.start;
        let reservation = shared.budgets.in_flight().reserve(bytes)?;
        let (asked, object) = (shared.source(source), &shared.targets[order.file].object(source).name);
        if !shared.budgets.request_now(asked.account(), &blob(shared, source, object), now())
            || !shared.hedges().take(bytes)
        {
            return None;
        }
        shared.tally.hedge();
        let (landing, digest) = bounce(shared, order.file, range, source);
        let progress = landing.progress();
        let pulse = Pulse::new(now(), bytes, shared.others());
        let read = hedge_read(Arc::clone(shared), order.file, extent, source, landing, digest);
        Some(Self { extent, read, progress, pulse, source, _reservation: reservation })
    }

    /// Returns true if it is stuck, too.
    fn is_stuck(&mut self, shared: &Shared) -> bool {
        let others = shared.others();
        self.pulse.note(now(), self.progress.landed(), others.landed);
        let patience = shared.observed(self.source, |observed| observed.patience(&shared.config, 0));
        matches!(self.pulse.health(now(), &patience, others), Health::Stalled(Stall::FirstByte | Stall::Body))
    }

    fn win(self, shared: &Shared) {
        shared.tally.request("ok");
        shared.tally.hedged(self.progress.landed());
    }

    /// Its bytes are thrown away.
    fn lose(self, shared: &Shared, outcome: &str) {
        let bytes = self.progress.landed();
        shared.tally.request(outcome);
        shared.tally.hedged(bytes);
        shared.tally.discarded(bytes);
    }
}

/// The end of the hedge, if there is one.
async fn end_of(hedge: &mut Option<Hedge>) -> (Result<Brought, SourceError>, Hedge) {
    let Some(running) = hedge else { return pending().await };
    let result = running.read.as_mut().await;
    match hedge.take() {
        Some(done) => (result, done),
        None => pending().await,
    }
}

type Digest = Arc<OnceLock<blake3::Hash>>;

fn bounce(shared: &Arc<Shared>, file: usize, range: Range<u64>, source: usize) -> (Landing, Digest) {
    let digest = Digest::default();
    let (seen, shared) = (Arc::clone(&digest), Arc::clone(shared));
    let judge = Arc::new(move |landed: Landed<'_>| {
        shared.targets[file].keeper.check(landed.extent, landed.digest, shared.source(source).url())?;
        // A bounce is one extent, so this is the only digest.
        let _ = seen.set(landed.digest);
        Ok(())
    });
    (Landing::bounce(range, judge), digest)
}

fn hedge_read(
    shared: Arc<Shared>,
    file: usize,
    extent: u64,
    source: usize,
    mut landing: Landing,
    digest: Digest,
) -> HedgeRead {
    Box::pin(async move {
        let (asked, object) = (shared.source(source), shared.targets[file].object(source));
        let options = ReadOptions { fresh_connection: true };
        asked.read(object, &mut landing, options).await?;
        let short = || SourceError::Protocol {
            url: asked.url().to_owned(),
            name: object.name.clone(),
            problem: "the body ended early".to_owned(),
        };
        let digest = *digest.get().ok_or_else(short)?;
        let bytes = landing.into_bytes().ok_or_else(short)?;
        Ok(Brought { extent, digest, bytes, source })
    })
}
