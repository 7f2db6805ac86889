//! The conformance suite: the behaviour that every [`Source`] must have.
//!
//! Store [`fixture`] where the source will read it, and call [`check`]. The suite knows the trait
//! and nothing of any store.

use std::ops::Range;
use std::sync::Arc;

use futures_util::future::try_join_all;
use parking_lot::Mutex;

use crate::landing::{EXTENT_BYTES, Judge, Landing};
use crate::source::{Object, ReadOptions, Source, SourceError};

/// Objects to store before [`check`]: names with spaces, other alphabets and `+`, an empty object,
/// one that fills an extent exactly, one of several extents the last of which is short.
#[must_use]
pub fn fixture() -> Vec<(String, Vec<u8>)> {
    let extent = usize::try_from(EXTENT_BYTES).expect("4 MiB fit");
    let sizes = [
        ("config.json", 700),
        ("empty.bin", 0),
        ("one byte.bin", 1),
        ("one-extent.bin", extent),
        ("sub directory/Größe+1 100%.bin", extent + 1),
        ("model-00001-of-00001.safetensors", 3 * extent + 12_345),
    ];
    sizes.iter().zip(1..).map(|((name, bytes), seed)| ((*name).to_owned(), noise(seed, *bytes))).collect()
}

/// Bytes that do not repeat, the same for the same seed.
#[must_use]
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

/// Runs the suite. `source` holds `objects` (see [`fixture`]) and no others; `replace` stores other
/// bytes under a name, as another writer would.
///
/// # Errors
/// The source's fault, in words.
pub async fn check(
    source: Arc<dyn Source>,
    objects: &[(String, Vec<u8>)],
    mut replace: impl AsyncFnMut(&str, &[u8]),
) -> Result<(), String> {
    let suite = Suite { source: &*source };
    suite.missing().await?;
    for (name, bytes) in objects {
        let object = suite.stat(name, bytes).await?;
        suite.ranges(&object, bytes).await?;
        suite.whole(&object, bytes).await?;
        suite.resumed(&object, bytes).await?;
        suite.in_parallel(&object, bytes).await?;
    }
    for (name, bytes) in objects.iter().filter(|(_, bytes)| bytes.len() > 1) {
        let (same_size, smaller) = (noise(77, bytes.len()), noise(78, bytes.len() / 2));
        // A store that keeps what was once looked at, such as a commit, shows no replacement.
        if suite.replaced(name, bytes, &same_size, &mut replace).await? {
            suite.replaced(name, &same_size, &smaller, &mut replace).await?;
        }
    }
    Ok(())
}

struct Suite<'a> {
    source: &'a dyn Source,
}

impl Suite<'_> {
    async fn missing(&self) -> Result<(), String> {
        for name in ["no-such-object.bin", "no such directory/object+.bin"] {
            match self.source.stat(name).await {
                Err(SourceError::NotFound { .. }) => {}
                other => return Err(format!("stat of `{name}`, which is missing, gave {other:?}")),
            }
        }
        Ok(())
    }

    async fn stat(&self, name: &str, bytes: &[u8]) -> Result<Object, String> {
        let object = self.source.stat(name).await.map_err(|error| format!("stat of `{name}`: {}", chain(&error)))?;
        let tag = &object.tag;
        if object.name != name || object.bytes != bytes.len() as u64 {
            return Err(format!("stat of `{name}`, {} bytes, gave {object:?}", bytes.len()));
        }
        if tag.etag.is_none() && tag.version.is_none() && tag.modified.is_none() {
            return Err(format!("stat of `{name}` gave nothing that pins its content"));
        }
        let again = self.source.stat(name).await.map_err(|error| chain(&error))?;
        if again == object { Ok(object) } else { Err(format!("`{name}` did not change: {object:?}, {again:?}")) }
    }

    /// Start, middle, end, one byte, over an extent's end, and the short last extent.
    async fn ranges(&self, object: &Object, bytes: &[u8]) -> Result<(), String> {
        let end = object.bytes;
        let last_extent = end.saturating_sub(1) / EXTENT_BYTES * EXTENT_BYTES;
        let ends = [0..1, 0..end.min(100), end / 2..end / 2 + 1, end / 3..end / 2, end.saturating_sub(1)..end];
        let extents = [last_extent..end, EXTENT_BYTES - 5..EXTENT_BYTES + 5, EXTENT_BYTES - 1..2 * EXTENT_BYTES + 1];
        for range in ends.into_iter().chain(extents).chain(std::iter::once(0..end)).filter(|range| range.end <= end) {
            for fresh_connection in [false, true] {
                let landing = Landing::small(range.clone());
                self.lands(object, bytes, landing, ReadOptions { fresh_connection }).await?;
            }
        }
        Ok(())
    }

    /// Every extent's digest, as it landed.
    async fn whole(&self, object: &Object, bytes: &[u8]) -> Result<(), String> {
        let (landing, digests) = judged(0..object.bytes);
        self.lands(object, bytes, landing, ReadOptions::default()).await?;
        digests_agree(&object.name, bytes, &digests.lock())
    }

    /// A landing that someone else began is finished, and its digests are those of the whole.
    async fn resumed(&self, object: &Object, bytes: &[u8]) -> Result<(), String> {
        let (mut landing, digests) = judged(0..object.bytes);
        let mut missing = bytes.len() / 2;
        while missing > 0 {
            let from = usize::try_from(landing.position()).map_err(|error| error.to_string())?;
            let buffer = landing.buffer();
            let count = buffer.len().min(missing);
            buffer[..count].copy_from_slice(&bytes[from..from + count]);
            landing.filled(count).await.map_err(|error| error.to_string())?;
            missing -= count;
        }
        self.lands(object, bytes, landing, ReadOptions::default()).await?;
        digests_agree(&object.name, bytes, &digests.lock())
    }

    async fn in_parallel(&self, object: &Object, bytes: &[u8]) -> Result<(), String> {
        let step = (object.bytes / 16).max(1);
        let ranges = (0..object.bytes).step_by(usize::try_from(step).map_err(|error| error.to_string())?);
        let reads = ranges.map(|from| {
            let landing = Landing::small(from..(from + step).min(object.bytes));
            self.lands(object, bytes, landing, ReadOptions::default())
        });
        try_join_all(reads).await.map(drop)
    }

    /// A reader that looked at an object before it was replaced gets its old bytes or
    /// [`SourceError::Changed`], never new ones. A new look gives the same, or the new object: true.
    async fn replaced(
        &self,
        name: &str,
        old: &[u8],
        new: &[u8],
        replace: &mut impl AsyncFnMut(&str, &[u8]),
    ) -> Result<bool, String> {
        let before = self.source.stat(name).await.map_err(|error| chain(&error))?;
        replace(name, new).await;
        for range in [0..before.bytes, 0..1, before.bytes - 1..before.bytes] {
            let mut landing = Landing::small(range.clone());
            let outcome = self.source.read(&before, &mut landing, ReadOptions::default()).await;
            let kept = landing.into_bytes().is_some_and(|bytes| is_part(&bytes, old, &range));
            match outcome {
                Err(SourceError::Changed { .. }) => {}
                Ok(()) if kept && before.bytes == old.len() as u64 => {}
                Ok(()) => {
                    return Err(format!("`{name}` was replaced, and bytes {range:?} of it were read all the same"));
                }
                Err(error) => return Err(format!("`{name}` was replaced, which is told as: {}", chain(&error))),
            }
        }
        let after = self.source.stat(name).await.map_err(|error| chain(&error))?;
        if after == before {
            return Ok(false);
        }
        self.lands(&after, new, Landing::small(0..after.bytes), ReadOptions::default()).await?;
        Ok(true)
    }

    async fn lands(
        &self,
        object: &Object,
        bytes: &[u8],
        mut landing: Landing,
        options: ReadOptions,
    ) -> Result<(), String> {
        let (name, range) = (&object.name, landing.range());
        let outcome = self.source.read(object, &mut landing, options).await;
        outcome.map_err(|error| format!("reading bytes {range:?} of `{name}`: {}", chain(&error)))?;
        if landing.remaining() > 0 {
            return Err(format!("reading bytes {range:?} of `{name}` ended at {}", landing.position()));
        }
        let landed = landing.into_bytes().unwrap_or_default();
        if is_part(&landed, bytes, &range) { Ok(()) } else { Err(format!("bytes {range:?} of `{name}` are wrong")) }
    }
}

/// A landing that notes its extents' digests.
fn judged(range: Range<u64>) -> (Landing, Arc<Mutex<Vec<blake3::Hash>>>) {
    let digests = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&digests);
    let judge: Judge = Arc::new(move |landed| {
        noted.lock().push(landed.digest);
        Ok(())
    });
    (Landing::bounce(range, judge), digests)
}

fn digests_agree(name: &str, bytes: &[u8], digests: &[blake3::Hash]) -> Result<(), String> {
    let extent = usize::try_from(EXTENT_BYTES).expect("4 MiB fit");
    let wanted: Vec<_> = bytes.chunks(extent).map(blake3::hash).collect();
    if wanted == digests { Ok(()) } else { Err(format!("the digests of `{name}`'s extents are wrong")) }
}

fn is_part(landed: &[u8], bytes: &[u8], range: &Range<u64>) -> bool {
    let index = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
    bytes.get(index(range.start)..index(range.end)).is_some_and(|wanted| wanted == landed)
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    wire::Chain(error).to_string()
}
