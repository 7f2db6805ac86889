//! Which worker: a pure function of a snapshot of the fleet and a random number.

use std::time::Duration;

/// What a client is told to wait where nothing better is known.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One worker, as far as one request is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Whether it has the model.
    pub(crate) serves: Serves,
    /// Whether it answers and takes new requests.
    pub(crate) is_up: bool,
    /// How long it asked to be left alone.
    pub(crate) backs_off_for: Option<Duration>,
    /// Whether this request already failed there.
    pub(crate) was_tried: bool,
    /// Requests it holds: ours, counted the moment they are sent, and those it says are waiting.
    pub(crate) load: u32,
}

/// Whether a worker has a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// It has it.
    Ready,
    /// It has it and cannot serve it yet.
    NotReady,
    /// It was never heard, so nobody knows.
    Unknown,
    /// It does not.
    No,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// To this worker, by place.
    Worker(usize),
    /// No worker has the model.
    UnknownModel,
    /// A worker has it, or may have it, and none can take it now.
    Unavailable {
        /// When it is worth asking again.
        retry_after: Duration,
    },
}

/// Takes the least loaded worker; `random` decides among equals, so that routers that see the same
/// loads do not all choose the same one.
pub(crate) fn pick(candidates: &[Candidate], random: u64) -> Verdict {
    let usable = |candidate: &&Candidate| {
        candidate.serves == Serves::Ready
            && candidate.is_up
            && candidate.backs_off_for.is_none()
            && !candidate.was_tried
    };
    if let Some(least) = candidates.iter().filter(usable).map(|candidate| candidate.load).min() {
        let equals = || (0..candidates.len()).filter(|&at| usable(&&candidates[at]) && candidates[at].load == least);
        #[expect(clippy::cast_possible_truncation, reason = "a remainder below the count")]
        let chosen = (random % equals().count() as u64) as usize;
        return equals().nth(chosen).map_or(Verdict::UnknownModel, Verdict::Worker);
    }
    if candidates.iter().all(|candidate| candidate.serves == Serves::No) && !candidates.is_empty() {
        return Verdict::UnknownModel;
    }
    let waits = candidates.iter().filter(|candidate| candidate.serves != Serves::No && candidate.is_up);
    let retry_after = waits.filter_map(|candidate| candidate.backs_off_for).min().unwrap_or(RETRY_AFTER);
    Verdict::Unavailable { retry_after }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDLE: Candidate =
        Candidate { serves: Serves::Ready, is_up: true, backs_off_for: None, was_tried: false, load: 0 };

    #[test]
    fn equals_share() {
        let candidates = [Candidate { load: 1, ..IDLE }, IDLE, IDLE];
        let mut counts = [0; 3];
        for random in 0..10 {
            match pick(&candidates, random) {
                Verdict::Worker(at) => counts[at] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(counts, [0, 5, 5]);
    }

    #[test]
    fn a_model_nobody_has_is_unknown_and_one_that_is_down_unavailable() {
        let unavailable = Verdict::Unavailable { retry_after: RETRY_AFTER };
        let wait = Duration::from_secs(7);
        for (candidate, verdict) in [
            (Candidate { serves: Serves::No, ..IDLE }, Verdict::UnknownModel),
            (Candidate { serves: Serves::Unknown, ..IDLE }, unavailable),
            (Candidate { serves: Serves::NotReady, ..IDLE }, unavailable),
            (Candidate { is_up: false, ..IDLE }, unavailable),
            (Candidate { was_tried: true, ..IDLE }, unavailable),
            (Candidate { backs_off_for: Some(wait), ..IDLE }, Verdict::Unavailable { retry_after: wait }),
        ] {
            assert_eq!(pick(&[candidate], 3), verdict, "{candidate:?}");
        }
        assert_eq!(pick(&[], 0), unavailable, "a router without workers waits for one");
    }

    fn candidate() -> impl Strategy<Value = Candidate> {
        let serves = prop::sample::select(vec![Serves::Ready, Serves::NotReady, Serves::Unknown, Serves::No]);
        (serves, any::<bool>(), prop::option::of(1_u64..9), any::<bool>(), 0_u32..3).prop_map(
            |(serves, is_up, wait, was_tried, load)| Candidate {
                serves,
                is_up,
                backs_off_for: wait.map(Duration::from_secs),
                was_tried,
                load,
            },
        )
    }

    proptest! {
        #[test]
        fn the_chosen_one_is_usable_and_none_usable_is_less_loaded(
            candidates in prop::collection::vec(candidate(), 0..8),
            random: u64,
        ) {
            let usable = |candidate: &Candidate| {
                *candidate == Candidate { load: candidate.load, ..IDLE }
            };
            match pick(&candidates, random) {
                Verdict::Worker(at) => {
                    prop_assert!(usable(&candidates[at]));
                    prop_assert!(candidates.iter().filter(|c| usable(c)).all(|c| c.load >= candidates[at].load));
                }
                _ => prop_assert!(!candidates.iter().any(usable)),
            }
        }
    }
}
