//! Who has which KV block: a free list.

/// The blocks nobody holds.
#[derive(Debug)]
pub(super) struct BlockPool {
    free: Vec<u32>,
    total: usize,
}

impl BlockPool {
    pub(super) fn new(total: usize) -> Self {
        let total_u32 = u32::try_from(total).unwrap_or(u32::MAX);
        // Taken from the end, so that low blocks are used first.
        Self { free: (0..total_u32).rev().collect(), total }
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn used(&self) -> usize {
        self.total - self.free.len()
    }

    /// Adds `count` blocks to `held`; the scheduler has checked that there are as many.
    pub(super) fn take(&mut self, count: usize, held: &mut Vec<u32>) {
        assert!(count <= self.free.len(), "scheduled {count} blocks of {}", self.free.len());
        held.extend(self.free.drain(self.free.len() - count..).rev());
    }

    pub(super) fn give_back(&mut self, held: &mut Vec<u32>) {
        self.free.append(held);
        assert!(self.free.len() <= self.total, "a block was given back twice");
    }
}
