//! The plan's arithmetic and its refusals.

use super::*;

const ARENA: u64 = 12_345;

fn need() -> Need {
    Need {
        copies_bytes: 0,
        activation_bytes: ARENA,
        kv_block_bytes: BLOCK,
        kv_block_tokens: 16,
        positions: 256,
        kv_blocks_max: None,
    }
}

fn options() -> MemoryOptions {
    MemoryOptions { budget_bytes: None, limit_bytes: None, kv_cache_bytes: None, max_model_len: None, max_num_seqs: 4 }
}

fn mapped(mapped_bytes: u64) -> WeightsMemory {
    WeightsMemory { mapped_bytes, copies_bytes: 0 }
}

const BLOCK: u64 = 4096;

#[test]
fn every_sequence_gets_its_blocks_by_default() {
    let plan = plan(&need(), 1000, &options()).expect("a plan");
    assert_eq!((plan.kv_block_bytes, plan.kv_blocks, plan.max_model_len), (BLOCK, 4 * 16, 256));
    assert_eq!(plan.kv_bytes, 64 * BLOCK);
    assert_eq!(plan.total_bytes(), 1000 + plan.arena_bytes + plan.kv_bytes);
}

#[test]
fn a_small_storage_shortens_sequences_unless_they_were_asked_for() {
    let small = MemoryOptions { kv_cache_bytes: Some(3 * BLOCK + 5), ..options() };
    let plan_of_small = plan(&need(), 0, &small).expect("a plan");
    assert_eq!((plan_of_small.kv_blocks, plan_of_small.max_model_len), (3, 48));
    let asked = MemoryOptions { max_model_len: Some(49), ..small.clone() };
    let error = plan(&need(), 0, &asked).expect_err("too small");
    assert_eq!(error, MemoryError::KvTooSmall { tokens: 49, needed_bytes: 4 * BLOCK, available_bytes: 3 * BLOCK });
    let nothing = MemoryOptions { kv_cache_bytes: Some(BLOCK - 1), ..small };
    assert!(matches!(plan(&need(), 0, &nothing), Err(MemoryError::KvTooSmall { .. })));
}

#[test]
fn a_budget_bounds_everything_together() {
    let arena = ARENA;
    let tight = MemoryOptions { budget_bytes: Some(1000 + arena + 5 * BLOCK), ..options() };
    assert_eq!(plan(&need(), 1000, &tight).expect("a plan").kv_blocks, 5);
    let over = MemoryOptions { kv_cache_bytes: Some(6 * BLOCK), ..tight.clone() };
    let error = plan(&need(), 1000, &over).expect_err("over budget");
    let (weights, arena_bytes, kv_bytes) = (mapped(1000), arena, 6 * BLOCK);
    let budget_bytes = 1000 + arena + 5 * BLOCK;
    assert_eq!(error, MemoryError::OverBudget { weights, arena_bytes, kv_bytes, budget_bytes });
    let no_room = MemoryOptions { budget_bytes: Some(10), ..options() };
    assert!(matches!(plan(&need(), 1000, &no_room), Err(MemoryError::OverBudget { .. })));
}

#[test]
fn weights_activations_and_kv_are_the_budget_to_the_block() {
    for extra in [0, 1, BLOCK - 1] {
        let budget = 1000 + ARENA + 500 * BLOCK + extra;
        let options = MemoryOptions { budget_bytes: Some(budget), limit_bytes: Some(budget), ..options() };
        let plan = plan(&need(), 1000, &options).expect("a plan");
        assert_eq!(plan.total_bytes(), budget - extra);
    }
}

#[test]
fn the_machines_limit_refuses_and_does_not_invite() {
    let arena = ARENA;
    let wide = MemoryOptions { limit_bytes: Some(1 << 40), ..options() };
    assert_eq!(plan(&need(), 1000, &wide).expect("a plan").kv_blocks, 4 * 16, "what the sequences need");
    let narrow = MemoryOptions { limit_bytes: Some(1000 + arena + 5 * BLOCK), ..options() };
    assert_eq!(plan(&need(), 1000, &narrow).expect("a plan").kv_blocks, 5);
    let over = MemoryOptions { budget_bytes: Some(1 << 41), kv_cache_bytes: Some(6 * BLOCK), ..narrow };
    assert!(matches!(plan(&need(), 1000, &over), Err(MemoryError::OverBudget { .. })), "whatever was asked for");
}

#[test]
fn a_model_is_not_stretched_beyond_what_it_was_made_for() {
    let long = MemoryOptions { max_model_len: Some(257), ..options() };
    assert_eq!(plan(&need(), 0, &long).expect_err("too long"), MemoryError::TooLong { asked: 257, available: 256 });
    let zero = MemoryOptions { max_num_seqs: 0, ..options() };
    assert_eq!(plan(&need(), 0, &zero).expect_err("zero"), MemoryError::Zero("max_num_seqs"));
}

#[test]
fn absurd_wishes_saturate_instead_of_overflowing() {
    let absurd = MemoryOptions { kv_cache_bytes: Some(u64::MAX), budget_bytes: Some(1 << 40), ..options() };
    let huge = Need { activation_bytes: u64::MAX, copies_bytes: u64::MAX / 3, ..need() };
    assert!(matches!(plan(&huge, u64::MAX / 2, &absurd), Err(MemoryError::OverBudget { .. })));
}

#[test]
fn copies_count_beside_the_files_they_were_made_of() {
    let weights = WeightsMemory { mapped_bytes: 1000, copies_bytes: 531 };
    let (arena, copied) = (ARENA, Need { copies_bytes: 531, ..need() });
    let budget_bytes = 1531 + arena + 5 * BLOCK;
    let options = MemoryOptions { budget_bytes: Some(budget_bytes), ..options() };
    let planned = plan(&copied, 1000, &options).expect("a plan");
    assert_eq!((planned.kv_blocks, planned.total_bytes()), (5, budget_bytes));
    let none_left = MemoryOptions { budget_bytes: Some(1530 + arena), ..options };
    let error = plan(&copied, 1000, &none_left).expect_err("over budget").to_string();
    assert!(error.contains("weights 1000, their quantized copies 531, activations"), "{error}");
    let refused = split(1530, &[Demand { weights, arena_bytes: 0, kv_bytes: 1, is_fixed: false }]);
    assert!(refused.expect_err("over budget").to_string().contains("their quantized copies 531"));
}
