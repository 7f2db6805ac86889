//! Reads what a peer says it has, for as long as it says so.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::sleep;
use wire::peers::{Decoder, Frame, FrameError, HAVE_TYPE, Resource};

use super::request::Asked;
use crate::fetch::Event;
use crate::remote::http::{AnswerStream, HttpError};

/// The bytes read at a time, and the least time between two reads: a peer cannot make us busy by talking.
const READ_BYTES: usize = 16 << 10;
const READ_PAUSE: Duration = Duration::from_millis(2);

/// Errors of a stream of news; all of them end it.
#[derive(Debug, Error)]
pub(super) enum HaveError {
    /// It could not be had, or broke.
    #[error("reading what a peer has")]
    Http(#[from] HttpError),
    /// It is not what it should be.
    #[error("reading what a peer has")]
    Frame(#[from] FrameError),
    /// It is of another kind.
    #[error("a peer answered `have` with a body of another type than {HAVE_TYPE}")]
    Type,
    /// It ended in the middle of a frame.
    #[error("a peer ended `have` in the middle of a frame")]
    Truncated,
}

/// Asks a peer what it has.
pub(super) async fn open(asked: &Asked) -> Result<AnswerStream, HaveError> {
    let stream = asked.client().stream(asked.get(Resource::Have)?).await?;
    match stream.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == HAVE_TYPE) {
        true => Ok(stream),
        false => Err(HaveError::Type),
    }
}

/// Passes on what a peer says, until it says no more. `extents` is the number of the model's.
pub(super) async fn read(
    mut stream: AnswerStream,
    extents: u32,
    peer: usize,
    events: &mpsc::Sender<Event>,
) -> Result<(), HaveError> {
    let mut decoder = Decoder::new(extents);
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let count = stream.receive(&mut bytes).await?;
        if count == 0 {
            return if decoder.is_mid_frame() { Err(HaveError::Truncated) } else { Ok(()) };
        }
        let mut frames = Vec::new();
        let decoded = decoder.push(&bytes[..count], |frame| frames.push(frame));
        for frame in frames {
            let is_bye = frame == Frame::Bye;
            if events.send(Event::Said { peer, frame }).await.is_err() || is_bye {
                return Ok(());
            }
        }
        decoded?;
        sleep(READ_PAUSE).await;
    }
}
