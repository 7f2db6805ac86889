//! What the next step computes: a pure function of facts.
//!
//! Decodes come first, oldest first, so that no prompt stalls a running stream by more than one
//! step's budget; then prompts in chunks with the rows that are left (Agrawal et al. 2024); then
//! new sequences while there is room for their whole prompt. When blocks run out the youngest
//! running sequence gives its own back and is computed again later (vLLM's recompute).

/// A running sequence, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    /// Tokens whose keys and values are not in the cache yet; 1 while decoding.
    pub(super) pending: usize,
    /// Tokens that are.
    pub(super) computed: usize,
    /// Blocks it holds.
    pub(super) blocks: usize,
    /// Whether each row returns logits (the prompt's log probabilities are wanted).
    pub(super) all_logits: bool,
    /// Whether its reader is full.
    pub(super) is_paused: bool,
}

/// What a step may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    pub(super) rows: usize,
    pub(super) logits_rows: usize,
    pub(super) free_blocks: usize,
    pub(super) total_blocks: usize,
    pub(super) block_tokens: usize,
    /// Sequences that may still start.
    pub(super) seats: usize,
}

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Index into the running sequences; those just admitted follow the old ones.
    pub(super) index: usize,
    /// How many of its pending tokens to compute.
    pub(super) tokens: usize,
    /// How many blocks it takes for that.
    pub(super) new_blocks: usize,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// What is computed, by rising index.
    pub(super) runs: Vec<Run>,
    /// Running sequences that give their blocks back first, by falling index.
    pub(super) preempted: Vec<usize>,
    /// How many of the waiting start, in their order.
    pub(super) admitted: usize,
}

/// Plans a step. `waiting` are the pending tokens of the sequences that wait, first come first.
pub(super) fn schedule(running: &[Running], waiting: &[Running], mut budget: Budget) -> Plan {
    let mut plan = Plan::default();
    let mut alive = running.len();
    let decodes = (0..running.len()).filter(|&index| running[index].pending == 1);
    let prefills = (0..running.len()).filter(|&index| running[index].pending > 1);
    for index in decodes.chain(prefills) {
        if index >= alive || running[index].is_paused {
            continue;
        }
        let Some(tokens) = chunk(&running[index], &budget) else { continue };
        let need = blocks_needed(&running[index], tokens, budget.block_tokens);
        while need > budget.free_blocks && alive > index {
            alive -= 1;
            plan.preempted.push(alive);
            budget.free_blocks += running[alive].blocks;
            // What the victim was planned to do comes back too.
            if let Some(at) = plan.runs.iter().position(|run| run.index == alive) {
                let undone = plan.runs.remove(at);
                budget.rows += undone.tokens;
                budget.free_blocks += undone.new_blocks;
                budget.logits_rows += logits_rows(&running[alive], undone.tokens);
            }
        }
        if alive > index {
            take(&mut plan, &mut budget, index, &running[index], tokens, need);
        }
    }
    if plan.preempted.is_empty() {
        admit(&mut plan, &mut budget, running.len(), waiting);
    }
    plan.runs.sort_unstable_by_key(|run| run.index);
    plan
}

fn admit(plan: &mut Plan, budget: &mut Budget, first: usize, waiting: &[Running]) {
    for (offset, sequence) in waiting.iter().enumerate() {
        if offset >= budget.seats {
            return;
        }
        // Room for the whole prompt and one token more, or it would soon be preempted; a prompt that is only scored
        // may fill the cache to its end.
        let prompt = blocks_needed(sequence, sequence.pending, budget.block_tokens);
        let roomy = blocks_needed(sequence, sequence.pending + 1, budget.block_tokens).min(budget.total_blocks);
        let Some(tokens) = chunk(sequence, budget) else { return };
        if roomy.max(prompt) > budget.free_blocks {
            return;
        }
        let need = blocks_needed(sequence, tokens, budget.block_tokens);
        take(plan, budget, first + offset, sequence, tokens, need);
        plan.admitted += 1;
    }
}

fn take(plan: &mut Plan, budget: &mut Budget, index: usize, sequence: &Running, tokens: usize, new_blocks: usize) {
    budget.rows -= tokens;
    budget.free_blocks -= new_blocks;
    budget.logits_rows -= logits_rows(sequence, tokens);
    plan.runs.push(Run { index, tokens, new_blocks });
}

/// How many pending tokens fit the step; `None` when not even one does.
fn chunk(sequence: &Running, budget: &Budget) -> Option<usize> {
    let mut tokens = sequence.pending.min(budget.rows);
    if sequence.all_logits {
        tokens = tokens.min(budget.logits_rows);
    } else if tokens == sequence.pending && budget.logits_rows == 0 {
        // Its last row wants logits: leave it for the next step.
        tokens = tokens.saturating_sub(1);
    }
    (tokens > 0).then_some(tokens)
}

fn logits_rows(sequence: &Running, tokens: usize) -> usize {
    if sequence.all_logits { tokens } else { usize::from(tokens == sequence.pending) }
}

fn blocks_needed(sequence: &Running, tokens: usize, block_tokens: usize) -> usize {
    (sequence.computed + tokens).div_ceil(block_tokens).saturating_sub(sequence.blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: usize = 4;

    fn sequence(pending: usize, computed: usize) -> Running {
        Running { pending, computed, blocks: computed.div_ceil(BLOCK), all_logits: false, is_paused: false }
    }

    fn budget(rows: usize, free_blocks: usize) -> Budget {
        Budget { rows, logits_rows: rows, free_blocks, total_blocks: 1000, block_tokens: BLOCK, seats: 8 }
    }

    #[test]
    fn decodes_run_before_an_older_prompt() {
        let plan = schedule(&[sequence(100, 0), sequence(1, 8)], &[], budget(10, 100));
        assert_eq!(
            plan.runs,
            [Run { index: 0, tokens: 9, new_blocks: 3 }, Run { index: 1, tokens: 1, new_blocks: 1 },]
        );
    }

    #[test]
    fn the_youngest_gives_way_when_blocks_run_out() {
        let plan = schedule(&[sequence(1, 8), sequence(1, 7), sequence(1, 4)], &[sequence(1, 0)], budget(10, 0));
        assert_eq!(plan.preempted, [2]);
        assert_eq!(plan.admitted, 0);
        assert_eq!(plan.runs.iter().map(|run| run.index).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_sequence_waits_until_its_whole_prompt_fits() {
        assert_eq!(schedule(&[], &[sequence(8, 0)], budget(4, 2)).admitted, 0);
        assert_eq!(schedule(&[], &[sequence(8, 0)], budget(4, 3)).admitted, 1);
    }

    #[test]
    fn a_prompt_that_fills_the_whole_cache_starts() {
        let whole = Budget { total_blocks: 2, ..budget(8, 2) };
        assert_eq!(schedule(&[], &[sequence(8, 0)], whole).admitted, 1);
        assert_eq!(schedule(&[], &[sequence(9, 0)], whole).admitted, 0);
    }

    #[test]
    fn a_paused_sequence_keeps_its_blocks_and_rests() {
        let paused = Running { is_paused: true, ..sequence(1, 8) };
        let plan = schedule(&[paused, sequence(1, 4)], &[], budget(4, 4));
        assert_eq!(plan.runs.iter().map(|run| run.index).collect::<Vec<_>>(), [1]);
    }

    fn any_sequence() -> impl Strategy<Value = Running> {
        (1_usize..40, 0_usize..40, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(pending, computed, all_logits, is_paused)| Running {
                all_logits,
                is_paused,
                ..sequence(pending, computed)
            },
        )
    }

    proptest! {
        #[test]
        fn a_plan_never_exceeds_its_budget_and_never_idles_for_nothing(
            running in prop::collection::vec(any_sequence(), 0..8),
            waiting in prop::collection::vec(1_usize..40, 0..4),
            rows in 1_usize..64,
            logits_rows in 1_usize..16,
            free_blocks in 0_usize..40,
            seats in 0_usize..4,
        ) {
            let waiting: Vec<Running> = waiting.into_iter().map(|pending| sequence(pending, 0)).collect();
            let held: usize = running.iter().map(|sequence| sequence.blocks).sum();
            let total_blocks = free_blocks + held;
            let budget = Budget { rows, logits_rows, free_blocks, total_blocks, block_tokens: BLOCK, seats };
            let plan = schedule(&running, &waiting, budget);
            let all: Vec<&Running> = running.iter().chain(&waiting).collect();
            let freed: usize = plan.preempted.iter().map(|&index| running[index].blocks).sum();
            prop_assert!(plan.runs.iter().map(|run| run.tokens).sum::<usize>() <= rows);
            prop_assert!(plan.runs.iter().map(|run| run.new_blocks).sum::<usize>() <= free_blocks + freed);
            let logits: usize = plan.runs.iter().map(|run| super::logits_rows(all[run.index], run.tokens)).sum();
            prop_assert!(logits <= logits_rows);
            prop_assert!(plan.admitted <= seats);
            for run in &plan.runs {
                let sequence = all[run.index];
                prop_assert!(run.tokens >= 1 && run.tokens <= sequence.pending && !sequence.is_paused);
                prop_assert!((sequence.blocks + run.new_blocks) * BLOCK >= sequence.computed + run.tokens);
                prop_assert!(!plan.preempted.contains(&run.index));
                prop_assert!(run.index < running.len() + plan.admitted);
            }
            // The oldest that may run does run, if the cache could hold it alone: no starvation.
            if let Some(oldest) = running.iter().position(|sequence| !sequence.is_paused)
                && oldest == 0
                && running[0].pending == 1
                && (free_blocks > 0 || running.len() > 1 && running[1..].iter().any(|other| other.blocks > 0))
            {
                prop_assert!(plan.runs.iter().any(|run| run.index == 0));
            }
        }
    }
}
