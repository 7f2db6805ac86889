//! The listener for peers, on threads of its own: they wait for the disk and encrypt what they send, and have a lower
//! priority than those that compute.

use crate::config::SeedingConfig;
use crate::governor::{Harm, Rate};
use crate::hours::Hours;
use crate::meters::Meters;
use crate::offer::Offer;
use crate::queue::Queue;
use crate::served::Served;
use crate::server::{Server, app};
use crate::upload::{FREE, Upload};
use listen::{Drain, ListenError, Listener};
use parking_lot::Mutex;
use policy::Peers;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use telemetry::metrics::Registry;
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use wire::status::SeedingStatus;

/// The niceness of the threads that send.
const NICENESS: i32 = 10;
/// The interval of looks at the clock and the gauges.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Errors of beginning to seed.
#[derive(Debug, Error)]
pub enum SeedingError {
    /// The configuration cannot be honoured.
    #[error("{key} {problem}")]
    Config {
        /// The key, below the table of seeding.
        key: String,
        /// The problem, and how to mend it.
        problem: String,
    },
    /// The system refuses threads.
    #[error("starting the threads that send weights to peers")]
    Threads(#[source] std::io::Error),
    /// The address or the certificate cannot be used.
    #[error("listening for peers")]
    Listen(#[source] ListenError),
    /// The threads have ended.
    #[error("the threads that send weights to peers have ended")]
    Ended,
}

/// Weights for peers, being served.
#[derive(Debug)]
pub struct Seeder {
    offer: Offer,
    address: SocketAddr,
    url: String,
    zone: Option<String>,
    upload: Arc<Upload>,
    queue: Arc<Queue>,
    served: Arc<Served>,
    meters: Meters,
    harm: Mutex<Option<f64>>,
    listening: Mutex<Option<JoinHandle<()>>>,
    _threads: Threads,
}

impl Seeder {
    /// Begins to serve, until `drain` starts; none where no address is configured.
    ///
    /// # Errors
    /// A configuration that cannot be honoured, an address that is taken, a certificate that cannot be used.
    pub async fn start(
        config: &SeedingConfig,
        registry: &Registry,
        drain: Drain,
    ) -> Result<Option<Self>, SeedingError> {
        let Some(address) = config.listen else { return Ok(None) };
        let wrong = |(key, problem)| SeedingError::Config { key, problem };
        if let Some(problem) = config.problem() {
            return Err(wrong(problem));
        }
        let hours = Hours::read(&config.quiet_hours).map_err(|problem| wrong(("quiet_hours".into(), problem)))?;
        let peers = Peers::new(&config.rights).map_err(|error| wrong((error.field, error.problem)))?;
        let threads = Threads::start(config.threads).map_err(SeedingError::Threads)?;
        let bounds = config.to_listen(address);
        let bound = threads.spawn(async move { Listener::bind(&bounds).await });
        let listener = bound.await.map_err(|_| SeedingError::Ended)?.map_err(SeedingError::Listen)?;
        let (address, url) = (listener.local_addr(), listener.url());
        let listener = listener.with_metrics(registry, "peers").with_shares().with_files(loader::file_behind);
        let server = Arc::new(Server {
            offer: Offer::new(&config.tenant, config.attest),
            peers: Arc::new(peers),
            zone: config.zone().map(str::to_owned),
            queue: Queue::new(config.queue_extents_max),
            upload: Arc::new(Upload::new()),
            served: Arc::default(),
            meters: Meters::new(registry),
            drain: drain.clone(),
            have_life: Duration::from_millis(config.tls.connection_age_max_ms / 2),
        });
        threads.spawn(tend(Arc::clone(&server), Bounds::new(config, hours)));
        let application = app(Arc::clone(&server));
        let listening = threads.spawn(async move {
            // Bodies that a drain cut are fetched elsewhere.
            if let Err(error) = listener.serve(application, drain).await {
                tracing::info!(%error, "peers were cut off");
            }
        });
        tracing::info!(%url, "weights are served to peers");
        Ok(Some(Self {
            offer: server.offer.clone(),
            address,
            url,
            zone: config.zone().map(str::to_owned),
            upload: Arc::clone(&server.upload),
            queue: Arc::clone(&server.queue),
            served: Arc::clone(&server.served),
            meters: server.meters.clone(),
            harm: Mutex::new(None),
            listening: Mutex::new(Some(listening)),
            _threads: threads,
        }))
    }

    /// The models that peers may have.
    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The address in use, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Sets the rate that running requests tolerate, now and outside of pauses, within the configured bound; notes the
    /// harm found.
    pub fn govern(&self, rate: Rate, steady: Rate, harm: Option<Harm>) {
        self.upload.govern(rate.0, steady.0);
        let harm = harm.map(|harm| harm.ratio);
        self.meters.harm.set(harm.unwrap_or(1.0));
        *self.harm.lock() = harm;
    }

    /// Bytes sent since the start.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.upload.sent()
    }

    /// Waits until the drain is over.
    pub async fn finished(&self) {
        let listening = self.listening.lock().take();
        if let Some(listening) = listening {
            // A panic there was logged.
            let _ = listening.await;
        }
    }

    /// Its state, for people.
    #[must_use]
    pub fn status(&self) -> SeedingStatus {
        SeedingStatus {
            address: self.url.clone(),
            zone: self.zone.clone(),
            bytes_per_second: Some(self.upload.steady()).filter(|rate| *rate != FREE),
            harm: *self.harm.lock(),
            sent_bytes: self.upload.sent(),
            queue_extents: u32::try_from(self.queue.extents(Instant::now())).unwrap_or(u32::MAX),
            roots: self.offer.roots(),
            peers: self.served.list(),
        }
    }
}

/// The configured bounds of the rate.
struct Bounds {
    most: u64,
    quiet: Hours,
    quiet_most: u64,
}

impl Bounds {
    fn new(config: &SeedingConfig, quiet: Hours) -> Self {
        Self { most: config.bytes_per_second_max.unwrap_or(FREE), quiet, quiet_most: config.quiet_bytes_per_second }
    }

    /// The bound at a moment, in seconds since 1970.
    fn at(&self, unix_s: u64) -> u64 {
        if self.quiet.contain(unix_s) { self.most.min(self.quiet_most) } else { self.most }
    }
}

/// Keeps the bound and the gauges true.
async fn tend(server: Arc<Server>, bounds: Bounds) {
    let Server { meters, upload, queue, offer, .. } = &*server;
    loop {
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        upload.bound(bounds.at(unix_s));
        #[expect(clippy::cast_precision_loss, reason = "gauges")]
        {
            meters.rate.set(if upload.steady() == FREE { f64::INFINITY } else { upload.steady() as f64 });
            meters.queue.set(queue.extents(Instant::now()) as f64);
            meters.models.set(offer.roots().len() as f64);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A runtime whose threads yield to those that compute.
#[derive(Debug)]
struct Threads(Option<Runtime>);

impl Threads {
    fn start(count: usize) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(count)
            .thread_name("seeding")
            .on_thread_start(lower_priority)
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        match &self.0 {
            Some(runtime) => runtime.spawn(work),
            // Unreachable before `drop`, but harmless.
            None => tokio::spawn(work),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Waiting for its threads here could block another runtime's.
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

fn lower_priority() {
    // On Linux a nice value is a thread's, whatever POSIX says; elsewhere it would be the process's.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "the priority of sending cannot be lowered");
    }
}
