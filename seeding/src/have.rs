//! The body of `have`: first the sender's state and all extents that are here, then those that come, and a state every
//! two seconds. It ends with the model, with the asker's right to it, and with the connection's time.

use crate::meters::Counted;
use crate::offer::{Entry, Right};
use crate::queue::Queue;
use crate::upload::Upload;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use listen::Drain;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::peers::{COALESCE, Frame, HEARTBEAT, Role, State};

/// A `have` body under way.
pub(crate) struct Have {
    pub(crate) entry: Arc<Entry>,
    pub(crate) right: Right,
    pub(crate) upload: Arc<Upload>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) zone: Option<String>,
    pub(crate) drain: Drain,
    /// The end of it: the peer asks again, over a new connection.
    pub(crate) until: Instant,
    pub(crate) _counted: Counted,
}

/// The place in a body.
struct Progress {
    have: Have,
    /// The extents that were told of.
    told: usize,
    /// The extents that are to come soon, as they were told of.
    claimed: BTreeSet<u32>,
    /// When the state was sent, and the role in it; none at the beginning.
    state: Option<(Instant, Role)>,
    is_over: bool,
}

impl Have {
    pub(crate) fn into_body(self) -> Body {
        let progress = Progress { have: self, told: 0, claimed: BTreeSet::new(), state: None, is_over: false };
        Body::from_stream(stream::unfold(progress, |mut progress| async move {
            let frames = progress.next().await?;
            Some((Ok::<_, Infallible>(frames), progress))
        }))
    }

    fn state(&self, role: Role) -> Frame {
        let queue = self.queue.extents(Instant::now());
        let bytes_per_second = self.upload.steady();
        let queue = u32::try_from(queue).unwrap_or(u32::MAX);
        Frame::State(State { role, queue, bytes_per_second, zone: self.zone.clone() })
    }

    /// Waits for the next look: soon while extents come.
    async fn pause(&self, since_state: Duration) -> End {
        let pause = if self.entry.is_loading() { COALESCE } else { HEARTBEAT.saturating_sub(since_state) };
        tokio::select! {
            () = self.entry.gone() => End::Bye,
            () = self.drain.started() => End::Bye,
            () = tokio::time::sleep_until(self.until.into()) => End::Again,
            () = tokio::time::sleep(pause) => End::NotYet,
        }
    }
}

/// The end of a body, or none.
enum End {
    NotYet,
    /// Nothing more comes from here.
    Bye,
    /// The peer is to ask again.
    Again,
}

impl Progress {
    /// The next frames, as soon as there are some; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let mut out = Vec::new();
        let Some((last, _)) = self.state else {
            self.begin(&mut out);
            return Some(out.into());
        };
        loop {
            match self.have.pause(last.elapsed()).await {
                End::NotYet => {}
                End::Again => return None,
                End::Bye => {
                    self.is_over = true;
                    self.have.state(Role::Draining).encode(&mut out);
                    Frame::Bye.encode(&mut out);
                    return Some(out.into());
                }
            }
            if last.elapsed() >= HEARTBEAT && self.have.right.entry().is_none() {
                return None;
            }
            self.news(last, &mut out);
            if !out.is_empty() {
                return Some(out.into());
            }
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        self.tell_state(out);
        self.told = self.have.entry.arrived();
        Frame::Full(self.have.entry.bitmap(self.told)).encode(out);
        self.tell_claims(out);
    }

    /// The changes, and the heartbeat if it is time for it.
    fn news(&mut self, last: Instant, out: &mut Vec<u8>) {
        let here = self.have.entry.arrived();
        if here > self.told {
            Frame::Add(self.have.entry.came(self.told..here)).encode(out);
            self.told = here;
        }
        self.tell_claims(out);
        let is_new_role = self.state.is_none_or(|(_, role)| role != self.have.entry.role());
        if is_new_role || last.elapsed() >= HEARTBEAT {
            self.tell_state(out);
        }
    }

    /// The extents that were claimed, or are no longer and have not come.
    fn tell_claims(&mut self, out: &mut Vec<u8>) {
        let claimed = self.have.entry.claimed();
        let new: Vec<u32> = claimed.difference(&self.claimed).copied().collect();
        let old: Vec<u32> = self.claimed.difference(&claimed).copied().collect();
        for (list, frame) in [(new, Frame::Claim as fn(Vec<u32>) -> Frame), (old, Frame::Unclaim)] {
            if !list.is_empty() {
                frame(list).encode(out);
            }
        }
        self.claimed = claimed;
    }

    fn tell_state(&mut self, out: &mut Vec<u8>) {
        let role = self.have.entry.role();
        self.have.state(role).encode(out);
        self.state = Some((Instant::now(), role));
    }
}
