//! The waiting sequences that may start next, and how much the prefix cache saves each: asked one by one, by the scheduler.

use super::blocks::BlockPool;
use super::prefix::Key;
use super::reader::Reader;
use super::scheduler::Running;
use super::state::Sequence;
use compute::backend::Generation;
use std::collections::VecDeque;

/// Sequences beyond the seats that are looked at in one step. It bounds a step's work where many wait for the same
/// prompt to be computed.
const LOOK_BEYOND: usize = 32;

/// The waiting in their order, but for those that would compute now what a running sequence is about to have computed:
/// the choices of one request, and requests of one long prompt, wait for the first of them and share its blocks.
pub(super) struct Prospects<'a, R> {
    waiting: &'a mut VecDeque<Sequence<R>>,
    pool: &'a BlockPool,
    newest: Generation,
    /// Positions per block; none where prefixes are not cached.
    block_tokens: Option<usize>,
    /// The next blocks that running sequences fill.
    leaders: &'a mut Vec<Key>,
    at: usize,
    end: usize,
}

impl<'a, R: Reader> Prospects<'a, R> {
    /// `leaders` is a scratch buffer, reused between steps.
    pub(super) fn new(
        running: &[Sequence<R>],
        waiting: &'a mut VecDeque<Sequence<R>>,
        pool: &'a BlockPool,
        newest: Generation,
        block_tokens: Option<usize>,
        seats: usize,
        leaders: &'a mut Vec<Key>,
    ) -> Self {
        let end = waiting.len().min(seats.saturating_add(LOOK_BEYOND));
        let awake = running.iter().filter(|sequence| sequence.paused_since.is_none());
        // Without followers there is nobody to lead.
        leaders.clear();
        if let Some(size) = block_tokens.filter(|_| end > 0) {
            leaders.extend(awake.filter_map(|sequence| next_of(sequence, size)));
        }
        Self { waiting, pool, newest, block_tokens, leaders, at: 0, end }
    }

    /// The part of a sequence that is cached: how many of its blocks, how many of those nobody holds, and the
    /// name of the first that is not there.
    fn spared(&mut self, index: usize, block_tokens: usize) -> (usize, usize, Option<Key>) {
        let sequence = &mut self.waiting[index];
        sequence.hash_blocks(block_tokens);
        let generation = sequence.generation.unwrap_or(self.newest);
        let (mut hits, mut revived) = (0, 0);
        for at in 0..sequence.skippable(block_tokens) {
            let Some(key) = sequence.key(at, generation) else { break };
            let Some(block) = self.pool.find(&key) else { return (hits, revived, Some(key)) };
            hits += 1;
            revived += usize::from(self.pool.holders(block) == 0);
        }
        (hits, revived, None)
    }
}

impl<R: Reader> Iterator for Prospects<'_, R> {
    type Item = (usize, Running);

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.end {
            let index = self.at;
            self.at += 1;
            let mut facts = self.waiting[index].facts();
            let Some(block_tokens) = self.block_tokens else { return Some((index, facts)) };
            let (hits, revived, missing) = self.spared(index, block_tokens);
            if missing.is_some_and(|missing| self.leaders.contains(&missing)) {
                continue;
            }
            // The scheduler asks for the next one only when it has admitted this one.
            self.leaders.extend(missing);
            (facts.computed, facts.blocks, facts.revived) = (hits * block_tokens, hits, revived);
            facts.pending -= facts.computed;
            facts.to_compute = facts.pending;
            return Some((index, facts));
        }
        None
    }
}

/// The block that a running sequence fills next, where its tokens are known.
fn next_of<R: Reader>(sequence: &Sequence<R>, block_tokens: usize) -> Option<Key> {
    sequence.key(sequence.computed / block_tokens, sequence.generation?)
}
