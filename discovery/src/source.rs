//! A place where members are named, and the word that it sends.

use crate::roster::{Found, News};
use rand::Rng;
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;
use wire::Chain;

/// The members that an answer names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Answer {
    /// Those that can be.
    pub(crate) found: Vec<Found>,
    /// How many cannot be, by their address or their name.
    pub(crate) refused: usize,
}

/// The word of one source.
#[derive(Debug)]
pub(crate) struct Word {
    /// Its place among the sources.
    pub(crate) source: usize,
    pub(crate) news: News,
    /// How many of the members that it named cannot be.
    pub(crate) refused: usize,
}

/// Where a source sends its words.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) source: usize,
    pub(crate) name: &'static str,
    pub(crate) words: mpsc::Sender<Word>,
}

impl Line {
    /// Sends a word; returns false if nobody listens any more.
    pub(crate) async fn send(&self, news: News, refused: usize) -> bool {
        self.words.send(Word { source: self.source, news, refused }).await.is_ok()
    }
}

/// A source that is asked again and again.
pub(crate) trait Ask: Send + 'static {
    /// The reason why it does not answer.
    type Error: std::error::Error + Send + 'static;

    /// Asks once.
    fn ask(&mut self) -> impl Future<Output = Result<Answer, Self::Error>> + Send;
}

/// Asks every so often, until nobody listens. `news` says how much an answer means. The log tells of the first failure
/// in a row, and of its end.
pub(crate) async fn poll(mut source: impl Ask, line: Line, interval: Duration, news: fn(Vec<Found>) -> News) {
    let mut is_silent = false;
    loop {
        let is_heard = match source.ask().await {
            Ok(Answer { found, refused }) => {
                if std::mem::take(&mut is_silent) {
                    tracing::info!(source = line.name, "members are found again");
                }
                line.send(news(found), refused).await
            }
            Err(cause) => {
                if !std::mem::replace(&mut is_silent, true) {
                    let cause = Chain(&cause);
                    tracing::warn!(source = line.name, %cause, "members cannot be looked for; the last ones stand");
                }
                line.send(News::Silence, 0).await
            }
        };
        if !is_heard {
            return;
        }
        tokio::time::sleep(jittered(interval)).await;
    }
}

/// The time, give or take a fifth, so that a fleet does not ask in step.
pub(crate) fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::rng().random_range(0.8..1.2))
}
