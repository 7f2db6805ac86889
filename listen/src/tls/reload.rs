//! A value made from files, made anew when they change. A change that does not hold up leaves the old value in use.
//!
//! Files are polled, since a notification is lost on the mounts where certificates come from, and Kubernetes swaps a
//! symlink above them. The value's meaning is not known here.

use super::error::TlsError;
use super::files::{Print, Validity};
use arc_swap::ArcSwap;
use prometheus::{Gauge, IntCounter};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wire::Chain;

/// Meters of one certificate.
#[derive(Debug, Clone)]
pub struct CertificateMeters {
    /// The last moment at which it is valid, in seconds since 1970; absent where there is none.
    pub not_after: Option<Gauge>,
    /// Changes that were taken.
    pub loaded: IntCounter,
    /// Looks at a change that cannot be used.
    pub failed: IntCounter,
}

/// A value made from files.
pub(super) struct Made<T> {
    pub(super) value: Arc<T>,
    /// Of the certificate in it, if there is one.
    pub(super) validity: Option<Validity>,
    /// The file of that certificate.
    pub(super) certificate: PathBuf,
}

type Make<T> = Box<dyn Fn() -> Result<Made<T>, TlsError> + Send + Sync>;

/// The newest good value of some files.
pub(super) struct Reloaded<T> {
    value: ArcSwap<T>,
    files: Vec<PathBuf>,
    make: Make<T>,
    every: Duration,
    /// The files as they were before the value was first made.
    first: Prints,
    first_validity: Option<Validity>,
}

type Prints = Vec<Option<Print>>;

/// A look at the files.
enum Look<T> {
    /// They are as they were, or are just being changed.
    Same,
    New(Prints, Made<T>),
    Bad(TlsError),
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Makes the value for the first time. A certificate that is not valid now is used all the same, with a warning:
    /// the clock may be what is wrong.
    pub(super) fn open(files: Vec<PathBuf>, every: Duration, make: Make<T>) -> Result<Self, TlsError> {
        let first = prints(&files);
        let made = make()?;
        if let Err(error) = check_time(&made) {
            tracing::warn!("{error}");
        }
        let value = ArcSwap::new(made.value);
        Ok(Self { value, files, make, every, first, first_validity: made.validity })
    }

    pub(super) fn current(&self) -> Arc<T> {
        self.value.load_full()
    }

    /// Looks at the files again and again.
    pub(super) async fn watch(self: Arc<Self>, meters: Option<CertificateMeters>) {
        let mut seen = self.first.clone();
        let mut told = String::new();
        show(meters.as_ref(), self.first_validity);
        loop {
            tokio::time::sleep(self.every).await;
            let (own, before) = (Arc::clone(&self), seen.clone());
            // The files may be on a mount that hangs.
            match tokio::task::spawn_blocking(move || own.look(&before)).await {
                Ok(Look::New(prints, made)) => {
                    tracing::info!(file = %made.certificate.display(), "certificates changed; new connections use them");
                    show(meters.as_ref(), made.validity);
                    self.value.store(made.value);
                    meters.iter().for_each(|meters| meters.loaded.inc());
                    (seen, told) = (prints, String::new());
                }
                Ok(Look::Bad(error)) => {
                    meters.iter().for_each(|meters| meters.failed.inc());
                    let text = Chain(&error).to_string();
                    if text != told {
                        tracing::error!("changed certificates cannot be used, the old ones stay: {text}");
                        told = text;
                    }
                }
                Ok(Look::Same) | Err(_) => {}
            }
        }
    }

    fn look(&self, seen: &Prints) -> Look<T> {
        let before = prints(&self.files);
        if before == *seen {
            return Look::Same;
        }
        let made = (self.make)().and_then(|made| check_time(&made).map(|()| made));
        // Replaced while they were read, one file may be old and another new.
        if prints(&self.files) != before {
            return Look::Same;
        }
        match made {
            Ok(made) => Look::New(before, made),
            Err(error) => Look::Bad(error),
        }
    }
}

fn prints(files: &[PathBuf]) -> Prints {
    files.iter().map(|path| Print::of(path)).collect()
}

fn check_time<T>(made: &Made<T>) -> Result<(), TlsError> {
    match made.validity.and_then(|validity| validity.problem(SystemTime::now())) {
        Some(problem) => Err(TlsError::Time { path: made.certificate.clone(), problem }),
        None => Ok(()),
    }
}

fn show(meters: Option<&CertificateMeters>, validity: Option<Validity>) {
    if let (Some(not_after), Some(validity)) = (meters.and_then(|meters| meters.not_after.as_ref()), validity) {
        let since = validity.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        not_after.set(since.as_secs_f64());
    }
}
