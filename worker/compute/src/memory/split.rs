//! One budget for the models of a worker: who gets how much of it.

use super::{MemoryError, MemoryOptions, Need, WeightsMemory};

/// One model's demand on the memory that it shares with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Mapped weights and their copies.
    pub weights: WeightsMemory,
    /// Activations.
    pub arena_bytes: u64,
    /// The KV storage asked for; else what would hold every sequence at its longest, as a measure of what to give.
    pub kv_bytes: u64,
    /// True if the KV storage was asked for.
    pub is_fixed: bool,
}

impl Demand {
    /// The demand of a model whose backend needs `need`.
    #[must_use]
    pub fn of(need: &Need, mapped_bytes: u64, options: &MemoryOptions) -> Self {
        let length = options.max_model_len.unwrap_or(usize::MAX).min(need.positions);
        let sequence = need.blocks_of(length).saturating_mul(need.kv_block_bytes);
        let useful = need.kv_blocks_max.map_or(u64::MAX, |blocks| blocks.saturating_mul(need.kv_block_bytes));
        let all = sequence.saturating_mul(options.max_num_seqs as u64).min(useful).max(1);
        Self {
            weights: WeightsMemory { mapped_bytes, copies_bytes: need.copies_bytes },
            arena_bytes: need.activation_bytes,
            kv_bytes: options.kv_cache_bytes.unwrap_or(all),
            is_fixed: options.kv_cache_bytes.is_some(),
        }
    }

    fn own_bytes(&self) -> u64 {
        self.weights.total_bytes().saturating_add(self.arena_bytes)
    }
}

/// Divides a budget: each model gets its weights, its activations and the KV storage asked for; those that asked for
/// none share the rest in proportion to what they could use. The shares together are the budget where one of them
/// did not ask.
///
/// # Errors
/// All of them together exceed the budget; the error has the sums.
pub fn split(budget_bytes: u64, demands: &[Demand]) -> Result<Vec<u64>, MemoryError> {
    let sum = |part: fn(&Demand) -> u64| demands.iter().map(part).fold(0_u64, u64::saturating_add);
    let weights = WeightsMemory {
        mapped_bytes: sum(|demand| demand.weights.mapped_bytes),
        copies_bytes: sum(|demand| demand.weights.copies_bytes),
    };
    let arena_bytes = sum(|demand| demand.arena_bytes);
    let fixed = sum(|demand| if demand.is_fixed { demand.kv_bytes } else { 0 });
    let taken = weights.total_bytes().saturating_add(arena_bytes).saturating_add(fixed);
    if taken > budget_bytes {
        return Err(MemoryError::OverBudget { weights, arena_bytes, kv_bytes: fixed, budget_bytes });
    }
    let left = u128::from(budget_bytes - taken);
    let total: u128 = demands.iter().filter(|demand| !demand.is_fixed).map(|demand| u128::from(demand.kv_bytes)).sum();
    // Cut at running sums, so that the parts add up to all of it.
    let mut used = 0;
    let mut given = 0;
    let shares = demands.iter().map(|demand| {
        if demand.is_fixed {
            return demand.own_bytes() + demand.kv_bytes;
        }
        used += u128::from(demand.kv_bytes);
        let upto = left.saturating_mul(used) / total.max(1);
        let part = upto - std::mem::replace(&mut given, upto);
        demand.own_bytes() + u64::try_from(part).unwrap_or(u64::MAX)
    });
    Ok(shares.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn demand() -> impl Strategy<Value = Demand> {
        (0_u64..1 << 40, 0_u64..1 << 39, 0_u64..1 << 30, 1_u64..1 << 40, any::<bool>()).prop_map(
            |(mapped_bytes, copies_bytes, arena_bytes, kv_bytes, is_fixed)| {
                let weights = WeightsMemory { mapped_bytes, copies_bytes };
                Demand { weights, arena_bytes, kv_bytes, is_fixed }
            },
        )
    }

    proptest! {
        #[test]
        fn the_shares_are_the_budget_and_everybody_has_their_own(
            demands in prop::collection::vec(demand(), 1..6),
            budget in 0_u64..1 << 43,
        ) {
            let taken: u64 = demands.iter().map(|demand| demand.own_bytes() + if demand.is_fixed { demand.kv_bytes } else { 0 }).sum();
            match split(budget, &demands) {
                Err(MemoryError::OverBudget { weights, arena_bytes, kv_bytes, .. }) => {
                    prop_assert!(weights.total_bytes() + arena_bytes + kv_bytes == taken && taken > budget);
                }
                Err(other) => prop_assert!(false, "{}", other),
                Ok(shares) => {
                    let sum: u64 = shares.iter().sum();
                    let all_fixed = demands.iter().all(|demand| demand.is_fixed);
                    prop_assert_eq!(sum, if all_fixed { taken } else { budget });
                    for (share, demand) in shares.iter().zip(&demands) {
                        prop_assert!(*share >= demand.own_bytes());
                    }
                }
            }
        }
    }
}
