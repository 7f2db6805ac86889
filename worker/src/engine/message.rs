//! Messages to the engine thread.

use super::prefix::Identity;
use super::sequence::Submission;
use compute::backend::{Generation, InstallError, Prepared};
use std::sync::Arc;
use tokio::sync::oneshot;

/// A message to the engine thread.
pub(super) enum Message {
    Submit(Vec<Submission>),
    Identify(Generation, Identity),
    Install(Arc<dyn Prepared>, oneshot::Sender<Result<Generation, InstallError>>),
}
