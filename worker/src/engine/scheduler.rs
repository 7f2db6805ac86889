//! Plans the next step: a pure function of facts.
//!
//! Decodes come first, oldest first, so that no prompt stalls a running stream by more than one
//! step's budget, which is smaller while there are decodes, and smaller still for long prompts;
//! then prompts in chunks with the rows that are left (Agrawal et al. 2024); then new sequences
//! while there is room for their whole prompt. When blocks run out the youngest running sequence
//! gives its own back and is computed again later (vLLM's recompute). A waiting sequence that could
//! never be computed is refused, so that no other waits behind it for ever.

#![warn(clippy::disallowed_methods)]

use super::capacity::{Capacity, Misfit};
use super::options::BesideDecodes;

/// The part of it that is left in a step.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    beside: BesideDecodes,
    rows: usize,
    long_rows: usize,
}

impl Allowance {
    fn of(beside: BesideDecodes) -> Self {
        Self { beside, rows: beside.rows, long_rows: beside.long_rows }
    }

    /// Rows of this prompt that it allows: at least one while it is untouched, however deep the row.
    fn tokens(&self, sequence: &Running) -> usize {
        let (left, whole) = match self.is_long(sequence) {
            true => (self.long_rows.min(self.rows), self.beside.long_rows),
            false => (self.rows, self.beside.rows),
        };
        let positions = self.beside.positions_a_row;
        let fit = match positions {
            0 => left,
            _ => left.saturating_mul(positions) / positions.saturating_add(sequence.computed),
        };
        fit.max(usize::from(left == whole))
    }

    fn take(&mut self, sequence: &Running, tokens: usize) {
        let cost = match self.beside.positions_a_row {
            0 => tokens,
            positions => tokens.saturating_mul(positions.saturating_add(sequence.computed)).div_ceil(positions),
        };
        self.rows = self.rows.saturating_sub(cost);
        if self.is_long(sequence) {
            self.long_rows = self.long_rows.saturating_sub(cost);
        }
    }

    fn is_long(&self, sequence: &Running) -> bool {
        sequence.to_compute > self.beside.long_tokens
    }
}

/// The facts of a running sequence; lists of them are oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    /// Tokens whose keys and values no step has computed or is computing; 1 while decoding, and 0 where the last token
    /// is in flight.
    pub(super) pending: usize,
    /// Tokens of which a step has or does.
    pub(super) computed: usize,
    /// Tokens that were not when it started.
    pub(super) to_compute: usize,
    /// Blocks it holds, or would share when it starts.
    pub(super) blocks: usize,
    /// The part of those without a holder: they stop being free when it starts.
    pub(super) revived: usize,
    /// The rows of results that it needs.
    pub(super) results: Rows,
    /// True if it is computed in one step.
    pub(super) is_whole: bool,
    /// True if its reader has no room.
    pub(super) is_paused: bool,
}

/// Rows of results of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// One, for its last token.
    Last,
    /// One in every step.
    Each,
    /// One for every token.
    Every,
}

/// The resources of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    pub(super) rows: usize,
    pub(super) beside_decodes: BesideDecodes,
    pub(super) logits_rows: usize,
    pub(super) free_blocks: usize,
    /// The resources of an otherwise idle engine.
    pub(super) whole: Capacity,
    /// Sequences that may still start.
    pub(super) seats: usize,
    /// Sequences that may take part: those that wake up beside as many others wait for their turn.
    pub(super) runs: usize,
}

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Index into the running sequences; those just admitted follow the old ones.
    pub(super) index: usize,
    /// Number of its pending tokens to compute.
    pub(super) tokens: usize,
    /// Number of blocks it takes for that.
    pub(super) new_blocks: usize,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Runs, by rising index.
    pub(super) runs: Vec<Run>,
    /// Running sequences that give their blocks back first, by falling index.
    pub(super) preempted: Vec<usize>,
    /// Waiting sequences that start, by rising index.
    pub(super) admitted: Vec<usize>,
    /// Waiting sequences that can never be computed, and why, by rising index.
    pub(super) refused: Vec<(usize, Misfit)>,
}

/// Plans a step into `plan`. `waiting` are those that may start, with their indices, first come first; the next is
/// asked for only when the one before was admitted. `freed` returns the blocks that become free when a running sequence
/// gives its own back, after those of earlier calls.
pub(super) fn schedule(
    running: &[Running],
    waiting: impl Iterator<Item = (usize, Running)>,
    mut freed: impl FnMut(usize) -> usize,
    mut budget: Budget,
    plan: &mut Plan,
) {
    plan.runs.clear();
    plan.preempted.clear();
    plan.admitted.clear();
    plan.refused.clear();
    // Sequences from here on have given their blocks up in this plan.
    let mut alive = running.len();
    let mut allowance = None;
    let mut place = |plan: &mut Plan, budget: &mut Budget, allowance: &mut Option<Allowance>, index: usize| {
        let is_at_rest = |sequence: &Running| sequence.is_paused || sequence.pending == 0;
        if index >= alive || is_at_rest(&running[index]) || plan.runs.len() >= budget.runs {
            return;
        }
        // As many of its tokens as rows, logits and the allowance have room for; blocks are found next.
        let Some(tokens) = chunk(&running[index], budget, allowance.as_ref()) else { return };
        let need = blocks_needed(&running[index], tokens, budget.whole.block_tokens);
        // The youngest give way until there are blocks enough. The last of them may be this sequence itself: then it
        // waits for its turn again, rather than taking blocks from an older one.
        while need > budget.free_blocks && alive > index {
            alive -= 1;
            plan.preempted.push(alive);
            budget.free_blocks += freed(alive);
            // It may have a run in this plan already, a decode placed before this prompt.
            undo(plan, budget, alive, &running[alive]);
        }
        if alive > index {
            take(plan, budget, index, &running[index], tokens, need);
            if let Some(allowance) = allowance {
                allowance.take(&running[index], tokens);
            }
        }
    };
    // Decodes first: a stream waits for no prompt.
    let is_decode = |index: &usize| running[*index].pending == 1;
    (0..running.len()).filter(is_decode).for_each(|index| place(plan, &mut budget, &mut allowance, index));
    // From here on rows are of prompts, and beside decodes there are fewer of them.
    if !plan.runs.is_empty() {
        allowance = Some(Allowance::of(budget.beside_decodes));
    }
    let prompts = (0..running.len()).filter(|index| !is_decode(index));
    prompts.for_each(|index| place(plan, &mut budget, &mut allowance, index));
    // After a preemption nothing starts: the free blocks belong to those that were preempted.
    if plan.preempted.is_empty() {
        admit(plan, &mut budget, &mut allowance, running.len(), waiting);
    }
    plan.runs.sort_unstable_by_key(|run| run.index);
}

/// Undoes a sequence's run.
fn undo(plan: &mut Plan, budget: &mut Budget, index: usize, sequence: &Running) {
    if let Some(at) = plan.runs.iter().position(|run| run.index == index) {
        let undone = plan.runs.remove(at);
        budget.rows += undone.tokens;
        budget.free_blocks += undone.new_blocks;
        budget.logits_rows += logits_rows(sequence, undone.tokens);
    }
}

fn admit(
    plan: &mut Plan,
    budget: &mut Budget,
    allowance: &mut Option<Allowance>,
    first: usize,
    mut waiting: impl Iterator<Item = (usize, Running)>,
) {
    while plan.admitted.len() < budget.seats && plan.runs.len() < budget.runs && budget.rows > 0 {
        let Some((index, sequence)) = waiting.next() else { return };
        // Refused here, it holds up nobody behind it.
        if let Err(misfit) = budget.whole.check(sequence.computed + sequence.pending) {
            plan.refused.push((index, misfit));
            continue;
        }
        // Room for the whole prompt and one token more, or it would soon be preempted; a prompt that is only scored
        // may fill the cache to its end.
        let block_tokens = budget.whole.block_tokens;
        let prompt = blocks_needed(&sequence, sequence.pending, block_tokens);
        let total = budget.whole.blocks.saturating_sub(sequence.blocks);
        let roomy = blocks_needed(&sequence, sequence.pending + 1, block_tokens).min(total);
        let Some(tokens) = chunk(&sequence, budget, allowance.as_ref()) else { return };
        if roomy.max(prompt) + sequence.revived > budget.free_blocks {
            return;
        }
        let need = blocks_needed(&sequence, tokens, block_tokens);
        // Cached blocks that it shares and nobody else holds stop being free.
        budget.free_blocks -= sequence.revived;
        take(plan, budget, first + plan.admitted.len(), &sequence, tokens, need);
        if let Some(allowance) = allowance {
            allowance.take(&sequence, tokens);
        }
        plan.admitted.push(index);
    }
}

fn take(plan: &mut Plan, budget: &mut Budget, index: usize, sequence: &Running, tokens: usize, new_blocks: usize) {
    budget.rows -= tokens;
    budget.free_blocks -= new_blocks;
    budget.logits_rows -= logits_rows(sequence, tokens);
    plan.runs.push(Run { index, tokens, new_blocks });
}

/// The number of pending tokens that fit the step; `None` when not even one does.
fn chunk(sequence: &Running, budget: &Budget, allowance: Option<&Allowance>) -> Option<usize> {
    let mut tokens = sequence.pending.min(budget.rows);
    if let Some(allowance) = allowance.filter(|_| !sequence.is_whole) {
        tokens = tokens.min(allowance.tokens(sequence));
    }
    match sequence.results {
        Rows::Every => tokens = tokens.min(budget.logits_rows),
        Rows::Each if budget.logits_rows == 0 => return None,
        // Its last row wants logits: leave it for the next step.
        Rows::Last if tokens == sequence.pending && budget.logits_rows == 0 => tokens = tokens.saturating_sub(1),
        Rows::Each | Rows::Last => {}
    }
    let is_part = sequence.is_whole && tokens < sequence.pending;
    (tokens > 0 && !is_part).then_some(tokens)
}

fn logits_rows(sequence: &Running, tokens: usize) -> usize {
    match sequence.results {
        Rows::Every => tokens,
        Rows::Each => 1,
        Rows::Last => usize::from(tokens == sequence.pending),
    }
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
        let blocks = computed.div_ceil(BLOCK);
        Running {
            pending,
            computed,
            to_compute: pending,
            blocks,
            revived: 0,
            results: Rows::Last,
            is_whole: false,
            is_paused: false,
        }
    }

    fn plan(running: &[Running], waiting: &[Running], budget: Budget) -> Plan {
        let mut plan = Plan::default();
        let waiting = waiting.iter().cloned().enumerate();
        schedule(running, waiting, |index| running[index].blocks, budget, &mut plan);
        plan
    }

    fn budget(rows: usize, free_blocks: usize) -> Budget {
        Budget {
            rows,
            beside_decodes: beside(rows, rows),
            logits_rows: rows,
            free_blocks,
            whole: whole(1000),
            seats: 8,
            runs: 8,
        }
    }

    fn whole(blocks: usize) -> Capacity {
        Capacity { positions: usize::MAX, blocks, block_tokens: BLOCK, rows: 64, logits_rows: 64 }
    }

    fn beside(rows: usize, long_rows: usize) -> BesideDecodes {
        BesideDecodes { rows, long_rows, long_tokens: 30, positions_a_row: 0 }
    }

    #[test]
    fn a_long_prompt_beside_decodes_goes_in_smaller_steps_the_deeper_it_is() {
        let beside = BesideDecodes { positions_a_row: 100, ..beside(12, 8) };
        let tokens = |running: &[Running]| {
            let plan = plan(running, &[], Budget { beside_decodes: beside, ..budget(64, 100) });
            plan.runs.last().map_or(0, |run| run.tokens)
        };
        let prompt = |computed| Running { to_compute: 200, ..sequence(40, computed) };
        assert_eq!(tokens(&[prompt(0)]), 40, "alone");
        assert_eq!(tokens(&[sequence(1, 8), prompt(0)]), 8);
        assert_eq!(tokens(&[sequence(1, 8), prompt(100)]), 4);
        assert_eq!(tokens(&[sequence(1, 8), prompt(10_000)]), 1, "it never stands still");
        assert_eq!(tokens(&[sequence(1, 8), sequence(20, 100)]), 6, "a short one has more");
        let both = [sequence(1, 8), prompt(0), sequence(20, 0)];
        assert_eq!(tokens(&both), 4, "what the long one left");
        assert_eq!(tokens(&[sequence(1, 8), prompt(0), prompt(0)]), 8, "the second waits");
    }

    #[test]
    fn decodes_run_before_an_older_prompt() {
        let plan = plan(&[sequence(100, 0), sequence(1, 8)], &[], budget(10, 100));
        assert_eq!(
            plan.runs,
            [Run { index: 0, tokens: 9, new_blocks: 3 }, Run { index: 1, tokens: 1, new_blocks: 1 },]
        );
    }

    #[test]
    fn the_youngest_gives_way_when_blocks_run_out() {
        let plan = plan(&[sequence(1, 8), sequence(1, 7), sequence(1, 4)], &[sequence(1, 0)], budget(10, 0));
        assert_eq!(plan.preempted, [2]);
        assert!(plan.admitted.is_empty());
        assert_eq!(plan.runs.iter().map(|run| run.index).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_sequence_waits_until_its_whole_prompt_fits() {
        assert_eq!(plan(&[], &[sequence(8, 0)], budget(4, 2)).admitted.len(), 0);
        assert_eq!(plan(&[], &[sequence(8, 0)], budget(4, 3)).admitted.len(), 1);
    }

    #[test]
    fn a_prompt_that_fills_the_whole_cache_starts() {
        let all = Budget { whole: whole(2), ..budget(8, 2) };
        assert_eq!(plan(&[], &[sequence(8, 0)], all).admitted.len(), 1);
        assert_eq!(plan(&[], &[sequence(9, 0)], all).admitted.len(), 0);
    }

    #[test]
    fn what_can_never_be_computed_is_refused_and_holds_nobody_up() {
        let most = whole(4);
        let waiting = [sequence(8, 0), sequence(17, 0), sequence(40_000, 0), sequence(0, 0), sequence(4, 0)];
        let found = plan(&[], &waiting, Budget { whole: most, ..budget(64, 4) });
        assert_eq!(found.admitted, [0, 4]);
        let refused: Vec<usize> = found.refused.iter().map(|(index, _)| *index).collect();
        assert_eq!(refused, [1, 2, 3]);
        // One that has grown until nothing holds it gives way, and is then refused like any other.
        let grown = sequence(1, 16);
        assert_eq!(plan(&[grown], &[], Budget { whole: most, ..budget(64, 0) }).preempted, [0]);
        assert_eq!(plan(&[], &[sequence(17, 0)], Budget { whole: most, ..budget(64, 4) }).refused.len(), 1);
        let no_logits = Capacity { logits_rows: 0, ..most };
        let found = plan(&[], &[sequence(2, 0)], Budget { whole: no_logits, logits_rows: 0, ..budget(64, 4) });
        assert_eq!(found.refused, [(0, Misfit::Rows)]);
    }

    #[test]
    fn a_paused_sequence_keeps_its_blocks_and_rests() {
        let paused = Running { is_paused: true, ..sequence(1, 8) };
        let plan = plan(&[paused, sequence(1, 4)], &[], budget(4, 4));
        assert_eq!(plan.runs.iter().map(|run| run.index).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_whole_sequence_is_computed_in_one_step_or_waits_for_the_next() {
        let encoded = |pending| Running { is_whole: true, results: Rows::Each, ..sequence(pending, 0) };
        let waiting = [encoded(6), encoded(3), encoded(4), encoded(1)];
        let found = plan(&[], &waiting, budget(10, 100));
        assert_eq!(
            found.runs.iter().map(|run| run.tokens).collect::<Vec<_>>(),
            [6, 3],
            "the third is too long for the rest"
        );
        let beside = Budget { beside_decodes: beside(2, 2), ..budget(10, 100) };
        let found = plan(&[], &[encoded(1), encoded(7)], beside);
        assert_eq!(found.runs.iter().map(|run| run.tokens).collect::<Vec<_>>(), [1, 7], "none of them decodes");
        let one_row = Budget { logits_rows: 1, ..budget(10, 100) };
        assert_eq!(plan(&[], &[encoded(1), encoded(2)], one_row).runs.len(), 1, "a row of results each");
    }

    fn any_sequence() -> impl Strategy<Value = Running> {
        let results = prop_oneof![Just(Rows::Last), Just(Rows::Each), Just(Rows::Every)];
        (1_usize..40, 0_usize..40, results, prop::bool::weighted(0.2)).prop_map(
            |(pending, computed, results, is_paused)| Running { results, is_paused, ..sequence(pending, computed) },
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
            let whole = whole(free_blocks + held);
            let budget = Budget { rows, beside_decodes: beside(16, 4), logits_rows, free_blocks, whole, seats, runs: 6 };
            let plan = plan(&running, &waiting, budget);
            let decodes = |run: &&Run| run.index < running.len() && running[run.index].pending == 1;
            if plan.runs.iter().any(|run| decodes(&run)) && plan.preempted.is_empty() {
                let prompts: usize = plan.runs.iter().filter(|run| !decodes(run)).map(|run| run.tokens).sum();
                prop_assert!(prompts <= 16, "{} rows of prompts beside decodes", prompts);
                let all: Vec<&Running> = running.iter().chain(&waiting).collect();
                let is_long = |run: &&Run| !decodes(run) && all[run.index].to_compute > 30;
                let long: usize = plan.runs.iter().filter(is_long).map(|run| run.tokens).sum();
                prop_assert!(long <= 4, "{} rows of long prompts beside decodes", long);
            }
            let all: Vec<&Running> = running.iter().chain(&waiting).collect();
            let freed: usize = plan.preempted.iter().map(|&index| running[index].blocks).sum();
            prop_assert!(plan.runs.iter().map(|run| run.tokens).sum::<usize>() <= rows);
            prop_assert!(plan.runs.iter().map(|run| run.new_blocks).sum::<usize>() <= free_blocks + freed);
            let logits: usize = plan.runs.iter().map(|run| super::logits_rows(all[run.index], run.tokens)).sum();
            prop_assert!(logits <= logits_rows);
            prop_assert!(plan.admitted.len() <= seats && plan.runs.len() <= 6);
            for &(index, _) in &plan.refused {
                prop_assert!(waiting[index].pending > whole.blocks * BLOCK);
            }
            for run in &plan.runs {
                let sequence = all[run.index];
                prop_assert!(run.tokens >= 1 && run.tokens <= sequence.pending && !sequence.is_paused);
                prop_assert!((sequence.blocks + run.new_blocks) * BLOCK >= sequence.computed + run.tokens);
                prop_assert!(!plan.preempted.contains(&run.index));
                prop_assert!(run.index < running.len() + plan.admitted.len());
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
