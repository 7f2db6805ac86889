//! Work in proportion to large requests and answers, kept off the few threads that carry every stream.
//!
//! It has places of its own, so that large bodies do not take all processors. Very large ones take half
//! of the places at most: a handful of them must not keep the merely large waiting.

use prometheus::Gauge;
use std::sync::Arc;
use telemetry::metrics::Registry;
use telemetry::names;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Work on so many bytes is done at once: screening takes up to 60 ns a byte, so it is done within some
/// milliseconds, and handing it over costs some microseconds.
pub(crate) const INLINE_BYTES_MAX: usize = 32 << 10;
/// Work on more bytes takes at most half of the places.
const LARGE_BYTES_MAX: usize = 1 << 20;

/// The places for such work.
#[derive(Debug)]
pub(crate) struct Offload {
    places: Arc<Semaphore>,
    /// Places of the very large.
    large: Arc<Semaphore>,
    gauge: Gauge,
}

impl Offload {
    /// So many places.
    pub(crate) fn new(places: usize, registry: &Registry) -> Self {
        let semaphore = |places: usize| Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS)));
        let gauge = registry.gauge(&names::ROUTER_OFFLOADED).with_label_values::<&str>(&[]);
        Self { places: semaphore(places), large: semaphore(places / 2), gauge }
    }

    /// Does work on so many bytes: at once, or once there is a place. If this is dropped meanwhile, work that has
    /// begun is done to its end and keeps its place until then.
    pub(crate) async fn run<T: Send + 'static>(&self, bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
        if bytes <= INLINE_BYTES_MAX {
            return work();
        }
        let _counted = Counted::new(&self.gauge);
        let large = match bytes > LARGE_BYTES_MAX {
            true => Arc::clone(&self.large).acquire_owned().await.ok(),
            false => None,
        };
        let place = Arc::clone(&self.places).acquire_owned().await;
        let done = spawn_blocking(move || {
            let _places = (large, place);
            work()
        });
        match done.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(result) => result,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime shuts down, and with it whoever waits here.
            Err(Err(_)) => std::future::pending().await,
        }
    }
}

/// One piece of work in the gauge, waiting or done.
struct Counted<'g>(&'g Gauge);

impl<'g> Counted<'g> {
    fn new(gauge: &'g Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    #[tokio::test]
    async fn large_work_waits_for_a_place_and_leaves_this_thread_free() {
        let offload = Offload::new(2, &Registry::new());
        let (go, gone) = channel::<()>();
        let here = thread::current().id();
        let slow = offload.run(INLINE_BYTES_MAX + 1, move || {
            gone.recv().expect("a word");
            thread::current().id()
        });
        let quick = async {
            // The other place; and then this thread was free while both ran.
            let there = offload.run(INLINE_BYTES_MAX + 1, || thread::current().id()).await;
            go.send(()).expect("somebody waits");
            there
        };
        let (one, two) = tokio::join!(slow, quick);
        assert!(one != here && two != here);
        assert_eq!(offload.gauge.get(), 0.0);
        assert_eq!(offload.run(INLINE_BYTES_MAX, || thread::current().id()).await, here, "small work is done at once");
    }

    #[tokio::test]
    async fn very_large_work_leaves_places_to_the_large() {
        let offload = Offload::new(2, &Registry::new());
        let (go, gone) = channel::<()>();
        let first = offload.run(LARGE_BYTES_MAX + 1, move || gone.recv().expect("a word"));
        let second = offload.run(LARGE_BYTES_MAX + 1, || ());
        let large = async {
            while offload.gauge.get() < 2.0 {
                tokio::task::yield_now().await;
            }
            offload.run(INLINE_BYTES_MAX + 1, || ()).await;
            go.send(()).expect("the first still runs");
        };
        let all = async { tokio::join!(first, second, large) };
        tokio::time::timeout(Duration::from_secs(30), all).await.expect("nobody waits for ever");
    }

    #[tokio::test]
    async fn a_panic_is_the_callers() {
        let offload = Arc::new(Offload::new(1, &Registry::new()));
        let panics = Arc::clone(&offload);
        let work = tokio::spawn(async move { panics.run(INLINE_BYTES_MAX + 1, || panic!("of the work")).await });
        assert!(work.await.expect_err("it panicked").is_panic());
        offload.run(INLINE_BYTES_MAX + 1, || ()).await;
    }
}
