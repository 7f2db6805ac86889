//! Holders of KV blocks, and the full blocks that may be used again.
//!
//! A block counts its holders. A block without holders is free, and keeps its name until it is taken: blocks without a
//! name are taken first, then the one that was released the longest ago, as in vLLM's prefix cache. A sequence releases
//! its last block first, so that chains shrink from their end. It knows no sequence and no token.

use super::prefix::{Key, Prefix};
use compute::backend::Generation;
use std::collections::HashMap;

/// The end of the queue.
const NONE: u32 = u32::MAX;

/// A change of the prefix cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A full block can be found from now on.
    Stored(Named),
    /// It cannot any more.
    Removed(Key),
}

impl Change {
    /// The weights whose block it is.
    pub(super) fn generation(&self) -> Generation {
        match self {
            Self::Stored(named) => named.key.generation,
            Self::Removed(key) => key.generation,
        }
    }
}

/// A full block that can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) key: Key,
    /// The block before it; none for the first of a sequence.
    pub(super) parent: Option<Prefix>,
    /// Number of blocks before it.
    pub(super) depth: u32,
}

#[derive(Debug, Clone)]
struct Slot {
    holders: u32,
    name: Option<Named>,
    /// Its neighbours in the queue, while nobody holds it.
    before: u32,
    after: u32,
}

/// All blocks of one model.
#[derive(Debug)]
pub(super) struct BlockPool {
    slots: Vec<Slot>,
    names: HashMap<Key, u32>,
    /// The queue of free blocks: the one to be taken next, and the last.
    first: u32,
    last: u32,
    free: usize,
    changes: Vec<Change>,
}

impl BlockPool {
    pub(super) fn new(total: usize) -> Self {
        let slot = Slot { holders: 0, name: None, before: NONE, after: NONE };
        let mut pool = Self {
            slots: vec![slot; total],
            names: HashMap::new(),
            first: NONE,
            last: NONE,
            free: 0,
            changes: Vec::new(),
        };
        (0..u32::try_from(total).unwrap_or(NONE)).for_each(|block| pool.queue_last(block));
        pool
    }

    /// Blocks that nobody holds, named ones among them.
    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// Blocks that somebody holds.
    pub(super) fn used(&self) -> usize {
        self.slots.len() - self.free
    }

    /// Blocks that can be found by their names, held or not.
    pub(super) fn named(&self) -> usize {
        self.names.len()
    }

    /// Number of its holders.
    pub(super) fn holders(&self, block: u32) -> u32 {
        self.slots[block as usize].holders
    }

    /// The block of this name.
    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        self.names.get(key).copied()
    }

    /// The blocks of some weights that can be found, each after those before it.
    pub(super) fn named_of(&self, generation: Generation) -> Vec<Named> {
        let names = self.slots.iter().filter_map(|slot| slot.name);
        let mut named: Vec<Named> = names.filter(|named| named.key.generation == generation).collect();
        named.sort_by_key(|named| named.depth);
        named
    }

    /// Takes the names of all blocks of some weights away: no sequence will look for them any more.
    pub(super) fn forget_all(&mut self, generation: Generation) {
        for block in 0..self.slots.len() {
            if self.slots[block].name.is_some_and(|named| named.key.generation == generation) {
                self.unname(block);
            }
        }
    }

    fn unname(&mut self, block: usize) {
        if let Some(named) = self.slots[block].name.take() {
            self.names.remove(&named.key);
            self.changes.push(Change::Removed(named.key));
        }
    }

    /// Adds `count` free blocks to `held`; the scheduler has checked that there are as many.
    pub(super) fn take(&mut self, count: usize, held: &mut Vec<u32>) {
        assert!(count <= self.free, "scheduled {count} blocks of {}", self.free);
        for _ in 0..count {
            let block = self.first;
            self.unqueue(block);
            self.slots[block as usize].holders = 1;
            self.unname(block as usize);
            held.push(block);
        }
    }

    /// Holds a block that was found by its name.
    pub(super) fn hold(&mut self, block: u32, held: &mut Vec<u32>) {
        if self.slots[block as usize].holders == 0 {
            self.unqueue(block);
        }
        self.slots[block as usize].holders += 1;
        held.push(block);
    }

    /// Names a full block that was computed, unless another has the name already.
    pub(super) fn name(&mut self, block: u32, named: Named) {
        let slot = &mut self.slots[block as usize];
        assert!(slot.holders > 0, "block {block} is named and nobody's");
        if slot.name.is_none() && !self.names.contains_key(&named.key) {
            slot.name = Some(named);
            self.names.insert(named.key, block);
            self.changes.push(Change::Stored(named));
        }
    }

    /// Takes the names of `held` away, whoever else holds them: what is in them is not to be found any more.
    pub(super) fn forget(&mut self, held: &[u32]) {
        for &block in held {
            assert!(self.holders(block) > 0, "block {block} is forgotten and nobody's");
            self.unname(block as usize);
        }
    }

    /// Releases every block of `held`, the last first.
    pub(super) fn give_back(&mut self, held: &mut Vec<u32>) {
        while let Some(block) = held.pop() {
            let slot = &mut self.slots[block as usize];
            assert!(slot.holders > 0, "block {block} was given back twice");
            slot.holders -= 1;
            match (slot.holders, slot.name.is_some()) {
                (0, true) => self.queue_last(block),
                (0, false) => self.queue_first(block),
                _ => {}
            }
        }
    }

    /// Takes the changes since the last call.
    pub(super) fn changes(&mut self) -> std::vec::Drain<'_, Change> {
        self.changes.drain(..)
    }

    fn queue_first(&mut self, block: u32) {
        let after = std::mem::replace(&mut self.first, block);
        self.link(block, NONE, after);
    }

    fn queue_last(&mut self, block: u32) {
        let before = std::mem::replace(&mut self.last, block);
        self.link(block, before, NONE);
    }

    fn link(&mut self, block: u32, before: u32, after: u32) {
        (self.slots[block as usize].before, self.slots[block as usize].after) = (before, after);
        match before {
            NONE => self.first = block,
            before => self.slots[before as usize].after = block,
        }
        match after {
            NONE => self.last = block,
            after => self.slots[after as usize].before = block,
        }
        self.free += 1;
    }

    fn unqueue(&mut self, block: u32) {
        let Slot { before, after, .. } = self.slots[block as usize];
        match before {
            NONE => self.first = after,
            before => self.slots[before as usize].after = after,
        }
        match after {
            NONE => self.last = before,
            after => self.slots[after as usize].before = before,
        }
        self.free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::prefix::CacheSalt;
    use super::*;
    use proptest::prelude::*;

    fn key(number: u32) -> Key {
        Key { generation: Generation(number / 100), prefix: Prefix::root(&CacheSalt::default()).then(&[number]) }
    }

    fn named(number: u32, depth: u32) -> Named {
        Named { key: key(number), parent: number.checked_sub(1).map(|before| key(before).prefix), depth }
    }

    /// Takes blocks, names them from `first` on, and lets them go.
    fn cached(pool: &mut BlockPool, first: u32, count: u32) {
        let mut held = Vec::new();
        pool.take(count as usize, &mut held);
        for (block, number) in held.iter().zip(first..) {
            pool.name(*block, named(number, number - first));
        }
        pool.give_back(&mut held);
    }

    #[test]
    fn who_was_let_go_the_longest_ago_makes_room_and_a_chain_is_eaten_from_its_end() {
        let mut pool = BlockPool::new(5);
        cached(&mut pool, 0, 2);
        cached(&mut pool, 10, 2);
        let mut held = Vec::new();
        pool.take(2, &mut held);
        let there = |pool: &BlockPool| [0, 1, 10, 11].map(|number| pool.find(&key(number)).is_some());
        assert_eq!(
            there(&pool),
            [true, false, true, true],
            "first the one without a name, then the oldest chain's end"
        );
        pool.hold(pool.find(&key(0)).expect("there"), &mut held);
        pool.take(2, &mut held);
        assert_eq!(there(&pool), [true, false, false, false], "who is held stays");
        assert_eq!((pool.free(), pool.used(), pool.named()), (0, 5, 1));
        let removed = pool.changes().filter(|change| matches!(change, Change::Removed(_))).count();
        assert_eq!(removed, 3);
    }

    #[test]
    fn a_block_without_a_name_goes_first_however_late_it_was_let_go() {
        let mut pool = BlockPool::new(3);
        cached(&mut pool, 0, 2);
        let mut held = Vec::new();
        for _ in 0..2 {
            pool.take(1, &mut held);
            assert_eq!(pool.named(), 2, "nothing that can be found made room");
            pool.give_back(&mut held);
        }
    }

    #[test]
    fn the_second_block_of_a_name_is_nobodys_find() {
        let mut pool = BlockPool::new(2);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        pool.take(1, &mut one);
        pool.take(1, &mut other);
        pool.name(one[0], named(1, 0));
        pool.name(other[0], named(1, 0));
        assert_eq!((pool.find(&key(1)), pool.named(), pool.changes().count()), (Some(one[0]), 1, 1));
        pool.give_back(&mut one);
        pool.give_back(&mut other);
        assert_eq!((pool.free(), pool.find(&key(1))), (2, Some(0)));
    }

    #[test]
    fn the_blocks_of_some_weights_are_listed_from_their_beginning_and_forgotten_together() {
        let mut pool = BlockPool::new(8);
        cached(&mut pool, 100, 3);
        cached(&mut pool, 0, 2);
        pool.changes().for_each(drop);
        let depths: Vec<u32> = pool.named_of(Generation(1)).iter().map(|named| named.depth).collect();
        assert_eq!(depths, [0, 1, 2]);
        pool.forget_all(Generation(1));
        assert_eq!((pool.named(), pool.named_of(Generation(1)), pool.changes().count()), (2, vec![], 3));
    }

    proptest! {
        #[test]
        fn blocks_are_held_as_often_as_they_are_held_and_none_is_lost(
            deeds in prop::collection::vec((0_u8..5, 0_usize..6, 0_u32..8), 1..200),
        ) {
            const TOTAL: usize = 12;
            let mut pool = BlockPool::new(TOTAL);
            let mut holders: Vec<Vec<u32>> = vec![Vec::new(); 6];
            for (deed, who, number) in deeds {
                match deed {
                    0 if pool.free() > 0 => pool.take(1 + number as usize % pool.free(), &mut holders[who]),
                    1 => if let Some(block) = pool.find(&key(number)) { pool.hold(block, &mut holders[who]) },
                    2 => if let Some(&block) = holders[who].last() { pool.name(block, named(number, 0)) },
                    3 => pool.give_back(&mut holders[who]),
                    4 => {
                        pool.forget(&holders[who]);
                        let found: Vec<u32> = (0..8).filter_map(|number| pool.find(&key(number))).collect();
                        prop_assert!(holders[who].iter().all(|block| !found.contains(block)));
                    }
                    _ => {}
                }
                let mut counts = [0_u32; TOTAL];
                holders.iter().flatten().for_each(|&block| counts[block as usize] += 1);
                for (block, count) in (0..).zip(counts) {
                    prop_assert_eq!(pool.holders(block), count);
                }
                prop_assert_eq!(pool.used(), counts.iter().filter(|&&count| count > 0).count());
                let found: Vec<u32> = (0..8).filter_map(|number| pool.find(&key(number))).collect();
                prop_assert_eq!(found.len(), pool.named());
                prop_assert!(found.iter().all(|block| found.iter().filter(|other| *other == block).count() == 1));
            }
        }
    }
}
