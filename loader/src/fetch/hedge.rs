//! The budget of hedges: second requests for the bytes of slow ones.
//!
//! At most a share of the bytes asked for so far, or a small floor where that is more: without it
//! a model of a few extents could not hedge its slowest request at all.

/// Bytes asked for, and bytes asked for a second time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct HedgeBudget {
    ratio: f64,
    floor: u64,
    asked: u64,
    hedged: u64,
}

impl HedgeBudget {
    pub(super) fn new(ratio: f64, floor: u64) -> Self {
        Self { ratio, floor, asked: 0, hedged: 0 }
    }

    /// Notes bytes asked for by a first request.
    pub(super) fn asked(&mut self, bytes: u64) {
        self.asked += bytes;
    }

    /// Takes `bytes` for a hedge, if the budget allows them.
    #[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^52 bytes")]
    pub(super) fn take(&mut self, bytes: u64) -> bool {
        let hedged = self.hedged + bytes;
        let allowed = hedged <= self.floor || hedged as f64 <= self.asked as f64 * self.ratio;
        if allowed {
            self.hedged = hedged;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hedges_stay_within_the_share_or_the_floor(
            steps in prop::collection::vec((1u64..20_000_000, any::<bool>()), 0..200),
        ) {
            let mut budget = HedgeBudget::new(0.03, 8 << 20);
            for (bytes, hedge) in steps {
                if hedge { let _ = budget.take(bytes); } else { budget.asked(bytes); }
                prop_assert!(budget.hedged as f64 <= (budget.asked as f64 * 0.03).max((8 << 20) as f64));
            }
        }
    }

    #[test]
    fn a_small_model_may_hedge_twice() {
        let mut budget = HedgeBudget::new(0.03, 8 << 20);
        budget.asked(20 << 20);
        assert!(budget.take(4 << 20) && budget.take(4 << 20));
        assert!(!budget.take(1));
    }
}
