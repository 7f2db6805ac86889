//! A source in memory behind a simulated link, whose faults are scripted request by request. Under
//! tokio's paused clock a load over it takes no real time but for hashing, and is the same each time.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Region;
use crate::fetch::{Keeper, Target};
use crate::landing::{Landing, LandingError};
use crate::source::{Object, ReadOptions, Source, SourceError, Tag};
use wire::extent::EXTENT_BYTES;

/// The largest object of these tests.
pub(super) const CONTENT_BYTES: u64 = 64 * EXTENT_BYTES;

/// How much the link carries at a time.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// The bytes of every object: its first so many.
pub(super) fn content() -> &'static [u8] {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    CONTENT.get_or_init(|| {
        let mut state = 1u64;
        let words = (0..CONTENT_BYTES / 8).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()
        });
        words.collect()
    })
}

fn digests() -> &'static [blake3::Hash] {
    static DIGESTS: OnceLock<Vec<blake3::Hash>> = OnceLock::new();
    DIGESTS.get_or_init(|| content().chunks(EXTENT_BYTES as usize).map(blake3::hash).collect())
}

/// A fault of one request, after so many bytes of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    Throttle(Option<u64>),
    Denied,
    /// Nothing more comes, and the connection stays open.
    Stall(u64),
    Reset(u64),
    /// One bit of the byte there is wrong.
    Flip(u64),
    /// The whole body at so many bytes a second.
    Slow(u64),
    WrongRange,
    /// Slow, and the first extent's last chunk comes only together with the other try's.
    Tie,
    /// The other try: its last chunk comes together with the first request's.
    TieBreak,
}

/// A request as the source saw it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    pub(super) at: Duration,
    pub(super) range: Range<u64>,
    pub(super) fresh: bool,
}

type Script = Box<dyn Fn(usize, &Range<u64>) -> Option<Fault> + Send + Sync>;

pub(super) struct LinkSource {
    url: String,
    per_second: u64,
    per_connection: u64,
    first_byte: Duration,
    script: Script,
    began: Instant,
    free_at: Mutex<Instant>,
    asked: Mutex<Vec<Asked>>,
    open: AtomicUsize,
    /// The first of two tries waits for the second.
    tied: Notify,
    tie: Notify,
}

impl fmt::Debug for LinkSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.url)
    }
}

impl LinkSource {
    /// A link of `per_second` bytes a second, 10 ms away.
    pub(super) fn new(
        url: &str,
        per_second: u64,
        script: impl Fn(usize, &Range<u64>) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        Self {
            url: url.to_owned(),
            per_second,
            per_connection: per_second,
            first_byte: Duration::from_millis(10),
            script: Box::new(script),
            began: Instant::now(),
            free_at: Mutex::new(Instant::now()),
            asked: Mutex::default(),
            open: AtomicUsize::new(0),
            tied: Notify::new(),
            tie: Notify::new(),
        }
    }

    /// Each connection is limited as well.
    pub(super) fn per_connection(mut self, per_second: u64) -> Self {
        self.per_connection = per_second;
        self
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    /// Requests not ended yet.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn transient(&self, object: &Object, problem: &str) -> SourceError {
        let (url, name, problem) = (self.url.clone(), object.name.clone(), problem.to_owned());
        SourceError::Transient { url, name, problem, source: None }
    }

    fn refusal(&self, object: &Object, fault: Option<Fault>) -> Option<SourceError> {
        let (url, name) = (self.url.clone(), object.name.clone());
        match fault? {
            Fault::Throttle(after) => {
                Some(SourceError::Throttled { url, name, status: 503, retry_after: after.map(Duration::from_secs) })
            }
            Fault::Denied => Some(SourceError::Denied { url, name, status: "403".into(), fix: "log in".into() }),
            Fault::WrongRange => Some(SourceError::Protocol { url, name, problem: "another range".into() }),
            _ => None,
        }
    }

    /// When the link has carried so many more bytes.
    fn carried(&self, bytes: u64) -> Instant {
        let mut free_at = self.free_at.lock();
        *free_at = (*free_at).max(Instant::now()) + seconds(bytes, self.per_second);
        *free_at
    }

    async fn body(&self, object: &Object, landing: &mut Landing, fault: Option<Fault>) -> Result<(), SourceError> {
        let begin = landing.position();
        let mut own = Instant::now();
        let own_rate = match fault {
            Some(Fault::Slow(rate)) => rate,
            Some(Fault::Tie) => 12_500_000,
            _ => self.per_connection,
        };
        while landing.remaining() > 0 {
            let at = landing.position();
            let count = landing.buffer().len().min(CHUNK_BYTES);
            own += seconds(count as u64, own_rate);
            sleep_until(self.carried(count as u64).max(own)).await;
            let done = at - begin + count as u64;
            match fault {
                Some(Fault::Stall(after)) if done > after => std::future::pending().await,
                Some(Fault::Tie) if done == EXTENT_BYTES => {
                    self.tied.notify_one();
                    self.tie.notified().await;
                }
                Some(Fault::TieBreak) if done == EXTENT_BYTES => {
                    self.tied.notified().await;
                    self.tie.notify_waiters();
                    tokio::task::yield_now().await;
                }
                Some(Fault::Reset(after)) if done > after => return Err(self.transient(object, "reset")),
                _ => {}
            }
            let from = usize::try_from(at).expect("a test's object is small");
            landing.buffer()[..count].copy_from_slice(&content()[from..from + count]);
            match fault {
                Some(Fault::Flip(at)) if (done - count as u64..done).contains(&at) => landing.buffer()[0] ^= 1,
                _ => {}
            }
            landing.filled(count).await?;
        }
        Ok(())
    }
}

fn seconds(bytes: u64, per_second: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / per_second as f64)
}

struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Source for LinkSource {
    fn url(&self) -> &str {
        &self.url
    }

    fn account(&self) -> &str {
        &self.url
    }

    async fn stat(&self, name: &str) -> Result<Object, SourceError> {
        Ok(object(name, CONTENT_BYTES))
    }

    async fn read(&self, object: &Object, landing: &mut Landing, options: ReadOptions) -> Result<(), SourceError> {
        self.open.fetch_add(1, Ordering::SeqCst);
        let _open = Open(&self.open);
        let range = landing.position()..landing.range().end;
        let number = {
            let mut asked = self.asked.lock();
            asked.push(Asked { at: self.began.elapsed(), range: range.clone(), fresh: options.fresh_connection });
            asked.len() - 1
        };
        let fault = (self.script)(number, &range);
        sleep(self.first_byte).await;
        if let Some(refusal) = self.refusal(object, fault) {
            return Err(refusal);
        }
        self.body(object, landing, fault).await
    }
}

fn object(name: &str, bytes: u64) -> Object {
    Object { name: name.to_owned(), bytes, tag: Tag::default(), checksum: None }
}

/// Believes the digests of [`content`]; counts what it is given to keep.
#[derive(Default)]
pub(super) struct Digests {
    bytes: u64,
    kept: Mutex<HashMap<u64, usize>>,
}

impl Digests {
    fn expected(&self, extent: u64) -> blake3::Hash {
        let end = ((extent + 1) * EXTENT_BYTES).min(self.bytes);
        if end.is_multiple_of(EXTENT_BYTES) {
            return digests()[extent as usize];
        }
        blake3::hash(&content()[(extent * EXTENT_BYTES) as usize..end as usize])
    }

    /// How often each extent was kept.
    pub(super) fn kept(&self) -> HashMap<u64, usize> {
        self.kept.lock().clone()
    }
}

impl Keeper for Digests {
    fn check(&self, extent: u64, digest: blake3::Hash, source_url: &str) -> Result<(), LandingError> {
        let expected = self.expected(extent);
        if digest == expected {
            return Ok(());
        }
        Err(LandingError::Corrupt {
            object: "model.safetensors".to_owned(),
            range: extent * EXTENT_BYTES..((extent + 1) * EXTENT_BYTES).min(self.bytes),
            source_url: source_url.to_owned(),
            found: digest.to_string(),
            expected: expected.to_string(),
        })
    }

    fn keep(&self, extent: u64, digest: blake3::Hash, bytes: &[u8]) -> Result<(), LandingError> {
        assert_eq!(blake3::hash(bytes), digest, "what is kept is what was checked");
        *self.kept.lock().entry(extent).or_default() += 1;
        Ok(())
    }
}

/// One file of `bytes` bytes to fill from so many sources.
pub(super) fn target(bytes: u64, source_count: usize) -> (Target, Arc<Digests>) {
    let keeper = Arc::new(Digests { bytes, kept: Mutex::default() });
    let region = Region::anonymous("model.safetensors", bytes).expect("the machine has memory for tests");
    let objects = vec![object("model.safetensors", bytes); source_count];
    (Target { objects, region, keeper: Arc::<Digests>::clone(&keeper) }, keeper)
}
