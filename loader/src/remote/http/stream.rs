//! An answer that is read as it comes, for as long as it comes.

use http::HeaderMap;

use super::error::HttpError;
use super::exchange::Answer;

/// An answer whose body is being received. Its connection is of no use afterwards.
pub(crate) struct AnswerStream {
    answer: Answer,
}

impl AnswerStream {
    pub(super) fn new(answer: Answer) -> Self {
        Self { answer }
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.answer.head.headers
    }

    /// Receives into `into`, which has room; 0 at the end.
    ///
    /// # Errors
    /// The connection broke, or no byte came for the configured time.
    pub(crate) async fn receive(&mut self, into: &mut [u8]) -> Result<usize, HttpError> {
        self.answer.receive(into).await
    }
}
