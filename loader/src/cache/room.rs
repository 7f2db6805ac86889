//! Room: what the cache takes, what it may take, and who makes way.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use wire::digest::Digest;

use super::disk;
use super::error::CacheError;
use super::facts::Origin;
use super::layout;
use super::lock::{Lock, Mode};
use super::shelf::Shelf;

/// A model or a broken-off load that lies in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resident {
    /// A model's root, or a load's key.
    pub(super) name: Digest,
    pub(super) directory: PathBuf,
    /// Not finished.
    pub(super) is_partial: bool,
    /// The bytes that it takes of the disk.
    pub(super) bytes: u64,
    /// The bytes that it will take when it is finished.
    pub(super) bytes_planned: u64,
    pub(super) last_used: SystemTime,
    pub(super) is_pinned: bool,
    pub(super) is_in_use: bool,
}

/// The bounds on the cache's size, as they are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) quota: Option<u64>,
    /// The bytes that the disk has left.
    pub(super) available: u64,
    pub(super) min_free: u64,
}

/// All that lies in the cache. Looks at every file's size, reads none.
pub(super) fn residents(shelf: &Shelf) -> Vec<Resident> {
    let models = disk::subdirectories(&shelf.layout.models()).into_iter().map(|path| (path, false));
    let partials = disk::subdirectories(&shelf.layout.partials()).into_iter().map(|path| (path, true));
    models.chain(partials).filter_map(|(directory, is_partial)| resident(shelf, directory, is_partial)).collect()
}

/// The one directory, unless its name is none of ours.
pub(super) fn resident(shelf: &Shelf, directory: PathBuf, is_partial: bool) -> Option<Resident> {
    let name = Digest::from_hex(directory.file_name()?.to_str()?).ok()?;
    let bytes = disk::used_bytes(&directory);
    let origin: Option<Origin> = if is_partial { disk::read_json(&layout::origin(&directory)) } else { None };
    let used = disk::modified(&layout::used(&directory)).or_else(|| disk::modified(&directory));
    // Asking needs the lock for a moment; who wants it meanwhile asks again.
    let is_in_use =
        !shelf.is_read_only && !matches!(Lock::attempt(&shelf.layout.lock(name), Mode::Exclusive), Ok(Some(_)));
    Some(Resident {
        name,
        is_partial,
        bytes,
        bytes_planned: origin.map_or(bytes, |origin| origin.total_bytes().max(bytes)),
        last_used: used.unwrap_or(SystemTime::UNIX_EPOCH),
        is_pinned: layout::pinned(&directory).exists(),
        is_in_use,
        directory,
    })
}

/// Bytes that must go before `need` more fit.
pub(super) fn excess(residents: &[Resident], need: u64, bounds: Bounds) -> u64 {
    let planned: u64 = residents.iter().map(|resident| resident.bytes_planned).sum();
    let promised: u64 = residents.iter().map(|resident| resident.bytes_planned - resident.bytes).sum();
    let over_quota = bounds.quota.map_or(0, |quota| planned.saturating_add(need).saturating_sub(quota));
    let wanted = need.saturating_add(promised).saturating_add(bounds.min_free);
    over_quota.max(wanted.saturating_sub(bounds.available))
}

/// Chooses the least recently used residents to evict for `excess` bytes; `None` if that would not
/// be enough.
pub(super) fn choose(residents: &[Resident], excess: u64) -> Option<Vec<&Resident>> {
    let chosen = choose_up_to(residents, excess);
    let freed: u64 = chosen.iter().map(|resident| resident.bytes_planned).sum();
    (freed >= excess).then_some(chosen)
}

/// As [`choose`], but all that may go if it is not enough.
pub(super) fn choose_up_to(residents: &[Resident], excess: u64) -> Vec<&Resident> {
    let mut candidates: Vec<&Resident> =
        residents.iter().filter(|resident| !resident.is_pinned && !resident.is_in_use).collect();
    candidates.sort_by_key(|resident| (resident.last_used, resident.name));
    let mut freed = 0_u64;
    let is_enough = |freed: u64| freed >= excess;
    candidates.retain(|candidate| {
        let goes = !is_enough(freed);
        freed = freed.saturating_add(candidate.bytes_planned);
        goes
    });
    candidates
}

pub(super) fn bounds(shelf: &Shelf) -> Result<Bounds, CacheError> {
    let available = disk::available_bytes(shelf.layout.root())?;
    Ok(Bounds { quota: shelf.config.quota_bytes, available, min_free: shelf.config.min_free_bytes })
}

/// Evicts until `need` more bytes fit beside everything but the load `ours`, which is counted in
/// `need`, its linked files aside. The caller holds the space lock.
pub(super) fn make(shelf: &Shelf, need: u64, ours: Digest) -> Result<(), CacheError> {
    let partial = shelf.layout.partial(ours);
    let held = disk::unshared_bytes(&partial);
    loop {
        let mut residents = residents(shelf);
        residents.retain(|resident| resident.directory != partial);
        let mut bounds = bounds(shelf)?;
        // What it has already is no longer to be found on the disk.
        bounds.available = bounds.available.saturating_add(held);
        let excess = excess(&residents, need, bounds);
        let Some(chosen) = choose(&residents, excess) else {
            shelf.metrics.failure(super::metrics::Failure::Full);
            let root = shelf.layout.root().to_owned();
            return Err(CacheError::NoSpace { bytes: need, root, problem: explain(&residents, need, bounds) });
        };
        let mut all_went = true;
        for resident in chosen {
            let went = evict(shelf, &resident.directory, resident.name)?;
            all_went &= went;
            if went {
                tracing::info!(directory = %resident.directory.display(), bytes = resident.bytes, "evicted from the cache");
                shelf.metrics.evicted();
            }
        }
        if all_went {
            return Ok(());
        }
        // Someone began to use one of them: look again. It is in use then, so this ends.
    }
}

/// Removes a model or load unless someone uses it. Returns true if it is gone.
pub(super) fn evict(shelf: &Shelf, directory: &Path, name: Digest) -> Result<bool, CacheError> {
    let Some(lock) = Lock::attempt(&shelf.layout.lock(name), Mode::Exclusive)? else { return Ok(false) };
    if directory.exists() {
        disk::discard(&shelf.layout, directory)?;
    }
    lock.remove();
    Ok(true)
}

/// Shows the cache's size on its gauges.
pub(super) fn show(shelf: &Shelf) {
    let bytes = disk::used_bytes(&shelf.layout.models()) + disk::used_bytes(&shelf.layout.partials());
    shelf.metrics.size(bytes, shelf.config.quota_bytes);
}

fn explain(residents: &[Resident], need: u64, bounds: Bounds) -> String {
    let held: u64 =
        residents.iter().filter(|other| other.is_pinned || other.is_in_use).map(|other| other.bytes_planned).sum();
    match bounds.quota {
        Some(quota) if held.saturating_add(need) > quota => {
            format!("the quota is {quota} bytes, {held} of them pinned or in use")
        }
        _ => {
            let (available, min_free) = (bounds.available, bounds.min_free);
            format!("the disk has {available} bytes left, of which {min_free} are left to others")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn resident() -> impl Strategy<Value = Resident> {
        (any::<[u8; 4]>(), 0_u64..100, 0_u64..100, 0_u64..50, any::<bool>(), any::<bool>()).prop_map(
            |(name, bytes, more, age, is_pinned, is_in_use)| Resident {
                name: Digest(*blake3::hash(&name).as_bytes()),
                directory: PathBuf::new(),
                is_partial: more > 0,
                bytes,
                bytes_planned: bytes + more,
                last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(age),
                is_pinned,
                is_in_use,
            },
        )
    }

    fn planned(residents: &[Resident]) -> u64 {
        residents.iter().map(|resident| resident.bytes_planned).sum()
    }

    proptest! {
        #[test]
        fn who_makes_way_is_unused_unpinned_and_oldest(
            residents in prop::collection::vec(resident(), 0..12),
            excess in 0_u64..600,
        ) {
            match choose(&residents, excess) {
                None => {
                    let free = residents.iter().filter(|one| !one.is_pinned && !one.is_in_use);
                    prop_assert!(free.map(|one| one.bytes_planned).sum::<u64>() < excess);
                }
                Some(chosen) => {
                    prop_assert!(chosen.iter().map(|one| one.bytes_planned).sum::<u64>() >= excess);
                    prop_assert!(chosen.iter().all(|one| !one.is_pinned && !one.is_in_use));
                    let newest = chosen.iter().map(|one| one.last_used).max();
                    let spared = residents.iter().filter(|one| {
                        !one.is_pinned && !one.is_in_use && !chosen.iter().any(|other| other == one)
                    });
                    prop_assert!(spared.map(|one| one.last_used).min().is_none_or(|oldest| Some(oldest) >= newest));
                    if let Some((_, others)) = chosen.split_last() {
                        let without: u64 = others.iter().map(|one| one.bytes_planned).sum();
                        prop_assert!(without < excess, "the last one was not needed");
                    }
                }
            }
        }

        #[test]
        fn after_the_excess_went_everything_fits(
            residents in prop::collection::vec(resident(), 0..12),
            need in 0_u64..300,
            quota in prop::option::of(0_u64..1000),
            available in 0_u64..1000,
            min_free in 0_u64..200,
        ) {
            let bounds = Bounds { quota, available, min_free };
            let gone = excess(&residents, need, bounds);
            let fits = planned(&residents) + need <= quota.unwrap_or(u64::MAX).saturating_add(gone);
            let promised: u64 = residents.iter().map(|one| one.bytes_planned - one.bytes).sum();
            prop_assert!(fits && need + promised + min_free <= available + gone);
        }
    }
}
