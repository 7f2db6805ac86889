//! The promises of a plan, over arbitrary models.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use proptest::prelude::*;
use tensor::Format;

use super::*;
use crate::header::TensorInfo;

const NOTHING_HAD: &dyn Fn(usize, u64) -> bool = &|_, _| false;

/// A header of BF16 tensors of these shapes, the data beginning at `data_start`.
fn header(data_start: u64, tensors: &[(&str, &[usize])]) -> Header {
    let mut at = data_start;
    let tensors = tensors
        .iter()
        .map(|(name, shape)| {
            let bytes = 2 * shape.iter().product::<usize>() as u64;
            at += bytes;
            TensorInfo { name: (*name).to_owned(), format: Format::Bf16, shape: shape.to_vec(), range: at - bytes..at }
        })
        .collect();
    Header { metadata: BTreeMap::new(), tensors, data_start }
}

fn file(header: &Header) -> PlanFile<'_> {
    let bytes = header.tensors.last().map_or(header.data_start, |tensor| tensor.range.end);
    PlanFile { name: "model.safetensors", bytes, header }
}

fn whole(files: &[PlanFile<'_>], order: &[&str]) -> Plan {
    make(files, order, &Slices::default(), NOTHING_HAD, &PlanOptions::default()).expect("whole tensors always fit")
}

fn sliced(header: &Header, tensor: &str, slice: Slice) -> Result<Plan, PlanError> {
    let slices = Slices { by_name: [(tensor.to_owned(), slice)].into(), otherwise: Slice::Skip };
    make(&[file(header)], &[], &slices, NOTHING_HAD, &PlanOptions::default())
}

fn extents_in_order(plan: &Plan) -> Vec<(usize, u64)> {
    plan.fetches.iter().flat_map(|fetch| fetch.extents.clone().map(|extent| (fetch.file, extent))).collect()
}

/// Two thousand rows of two kibibytes of elements: 8 MiB, two extents, a tensor.
const TWO_EXTENTS: &[usize] = &[2048, 2048];

#[test]
fn headers_come_first_then_tensors_as_they_are_executed() {
    let first = header(1000, &[("layers.0", TWO_EXTENTS), ("layers.10", &[8192, 2048]), ("layers.2", TWO_EXTENTS)]);
    let second = header(1000, &[("lm_head", TWO_EXTENTS)]);
    let plan = whole(&[file(&first), file(&second)], &["layers.0", "layers.2", "layers.10", "lm_head"]);
    // Extent 2 holds the end of layers.0; layers.2 lies in extents 10..=12, layers.10 in 2..=10.
    assert_eq!(extents_in_order(&plan)[..2], [(0, 0), (0, 1)]);
    assert_eq!(plan.fetches[1], Fetch { file: 1, extents: 0..1, first_tensor: 0 }, "lm_head is far off");
    let place = |extent| extents_in_order(&plan).iter().position(|&at| at == (0, extent)).expect("it is fetched");
    assert!(place(12) < place(5), "layers.2 is wanted before layers.10: {plan}");
    assert!(plan.ready_after("layers.2") < plan.ready_after("layers.10"));
    assert_eq!(plan.ready_after("nobody"), None);
}

#[test]
fn what_is_had_is_not_fetched_and_still_counts_as_touched() {
    let header = header(1000, &[("a", &[8192, 2048])]);
    let had = |_: usize, extent: u64| extent < 3;
    let plan = make(&[file(&header)], &[], &Slices::default(), &had, &PlanOptions::default()).expect("it fits");
    assert_eq!(extents_in_order(&plan), [(0, 3), (0, 4), (0, 5), (0, 6), (0, 7), (0, 8)]);
    assert_eq!(plan.touched_bytes, file(&header).bytes);
    assert_eq!(plan.fetched_bytes, file(&header).bytes - 3 * EXTENT_BYTES);
    let all_had = make(&[file(&header)], &[], &Slices::default(), &|_, _| true, &PlanOptions::default()).expect("fits");
    assert_eq!((all_had.fetches.len(), all_had.ready_after("a")), (0, Some(0)));
}

#[test]
fn a_row_slice_reads_its_rows_and_a_column_slice_nearly_everything() {
    let header = header(1000, &[("a", &[16384, 4096])]);
    let rows = sliced(&header, "a", Slice::Rows(0..2048)).expect("it fits");
    assert_eq!(rows.wanted_bytes, 1000 + 16 * 1024 * 1024);
    assert_eq!(rows.touched_bytes, 5 * EXTENT_BYTES);
    let columns = sliced(&header, "a", Slice::Columns(0..512)).expect("it fits");
    assert_eq!(columns.wanted_bytes, rows.wanted_bytes);
    assert!(columns.amplification() > 7.9, "{}", columns.amplification());
}

#[test]
fn a_column_slice_of_very_wide_rows_leaves_out_what_lies_between() {
    // A row is 32 MiB, a piece 2 MiB.
    let header = header(0, &[("a", &[4, 16 << 20])]);
    let plan = sliced(&header, "a", Slice::Columns(0..1 << 20)).expect("it fits");
    assert_eq!(extents_in_order(&plan), [(0, 0), (0, 8), (0, 16), (0, 24)]);
    assert_eq!(plan.wanted_bytes, 8 << 20);
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let header = header(100, &[("a", &[4, 6]), ("scalar", &[])]);
    for (tensor, slice) in [
        ("a", Slice::Rows(2..5)),
        ("a", Slice::Columns(6..7)),
        ("scalar", Slice::Rows(0..1)),
        ("scalar", Slice::Columns(0..1)),
    ] {
        assert!(matches!(sliced(&header, tensor, slice), Err(PlanError::Slice { .. })));
    }
}

#[test]
fn a_slice_within_a_block_is_refused() {
    let mut header = header(100, &[("a", &[4, 2])]);
    header.tensors[0] = TensorInfo { name: "a".to_owned(), format: Format::F4, shape: vec![4, 2], range: 100..104 };
    assert!(matches!(sliced(&header, "a", Slice::Columns(0..1)), Err(PlanError::CutBlock { .. })));
    assert_eq!(sliced(&header, "a", Slice::Rows(1..2)).expect("a row is a byte").wanted_bytes, 101);
    header.tensors[0] = TensorInfo { name: "a".to_owned(), format: Format::Q8_0, shape: vec![4, 64], range: 100..372 };
    assert_eq!(sliced(&header, "a", Slice::Columns(32..64)).expect("a block a row").wanted_bytes, 100 + 4 * 34);
    assert_eq!(sliced(&header, "a", Slice::Rows(1..3)).expect("whole rows").wanted_bytes, 100 + 2 * 68);
    assert!(matches!(sliced(&header, "a", Slice::Columns(0..33)), Err(PlanError::CutBlock { .. })));
}

#[test]
fn small_files_and_empty_tensors_need_no_more_than_the_header() {
    let header = header(80, &[("empty", &[0, 7]), ("small", &[3])]);
    let plan = whole(&[file(&header)], &["empty", "small"]);
    assert_eq!(plan.fetches, [Fetch { file: 0, extents: 0..1, first_tensor: 0 }]);
    assert_eq!(plan.fetches[0].range(86), 0..86);
    assert_eq!((plan.ready_after("empty"), plan.ready_after("small")), (Some(1), Some(1)));
    assert_eq!((plan.wanted_bytes, plan.fetched_bytes), (86, 86));
    assert_eq!(whole(&[], &[]).amplification().to_bits(), 1f64.to_bits());
}

#[test]
fn every_byte_comes_what_nobody_wants_last() {
    let header = header(1000, &[("a", &[8192, 2048]), ("b", &[8192, 2048])]);
    let slices = Slices { by_name: [("b".to_owned(), Slice::Whole)].into(), otherwise: Slice::Skip };
    let options = PlanOptions { every_byte: true, ..PlanOptions::default() };
    let plan = make(&[file(&header)], &[], &slices, NOTHING_HAD, &options).expect("it fits");
    assert_eq!((plan.fetched_bytes, plan.wanted_bytes), (file(&header).bytes, file(&header).bytes));
    let last = plan.fetches.last().expect("there are fetches");
    assert_eq!(last.first_tensor, 2);
    assert_eq!(last.extents.end, 8, "a's last extent of its own is number 7: {plan}");
}

#[test]
fn a_plan_prints_and_serializes_its_fetches() {
    let header = header(1000, &[("a", TWO_EXTENTS)]);
    let plan = whole(&[file(&header)], &[]);
    let text = plan.to_string();
    assert!(text.contains("1 tensors in 1 files: 8.0 MiB wanted") && text.contains("(header)"), "{text}");
    let json = serde_json::to_value(&plan).expect("a plan is plain data");
    assert_eq!(json["fetches"][0]["extents"]["end"], 2);
    assert_eq!(json["tensors"][0]["ready_after"], 2);
}

#[test]
fn a_hundred_thousand_tensors_are_planned_at_once() {
    let names: Vec<String> = (0..100_000).map(|number| format!("layers.{number}.mlp.experts.weight")).collect();
    let shapes: Vec<(&str, &[usize])> = names.iter().map(|name| (name.as_str(), &[64usize, 1024][..])).collect();
    let header = header(10 << 20, &shapes);
    let order: Vec<&str> = names.iter().rev().map(String::as_str).collect();
    // The best of a few, for the machine has other work.
    let best = (0..5)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(whole(&[file(&header)], &order).tensors.len(), 100_000);
            begun.elapsed()
        })
        .min()
        .expect("it ran");
    // Measured: 30 ms when built for tests, alone on the machine.
    assert!(best.as_millis() < 300, "{best:?}");
}

/// Rows, columns and kind of slice of one file's tensors.
type Shapes = Vec<(usize, usize, u8)>;

/// Shapes of a few tensors, the order and the size of fetches; extents had.
fn models() -> impl Strategy<Value = (Vec<Shapes>, u64, u64, u64)> {
    let tensor = (0usize..6000, 1usize..3000, 0u8..4);
    let files = prop::collection::vec(prop::collection::vec(tensor, 0..8), 1..4);
    (files, 0..FETCH_BYTES_MAX + 1, 0..TOGETHER_BYTES + 1, any::<u64>())
}

fn build(shapes: &[Shapes], seed: u64) -> (Vec<Header>, Vec<String>, Slices) {
    let mut slices = Slices::default();
    let mut order = Vec::new();
    let mut headers = Vec::new();
    for (number, tensors) in shapes.iter().enumerate() {
        let names: Vec<String> = (0..tensors.len()).map(|index| format!("{number}.{index}")).collect();
        let dimensions: Vec<[usize; 2]> = tensors.iter().map(|&(rows, columns, _)| [rows, columns]).collect();
        let named: Vec<(&str, &[usize])> =
            names.iter().map(String::as_str).zip(dimensions.iter().map(<[usize; 2]>::as_slice)).collect();
        headers.push(header(1 + seed % (9 << 20), &named));
        for (name, &(rows, columns, kind)) in names.iter().zip(tensors) {
            let slice = match kind {
                0 => Slice::Whole,
                1 => Slice::Rows(rows / 3..rows / 2),
                2 => Slice::Columns(columns / 3..columns / 2),
                _ => Slice::Skip,
            };
            slices.by_name.insert(name.clone(), slice);
        }
        order.extend(names.into_iter().skip(1));
    }
    order.reverse();
    (headers, order, slices)
}

/// The extents that a slice touches, found byte row by byte row.
fn touched(headers: &[Header], slices: &Slices) -> HashSet<(usize, u64)> {
    let mut touched = HashSet::new();
    for (number, header) in headers.iter().enumerate() {
        let mut add = |range: Range<u64>| {
            if !range.is_empty() {
                touched.extend(
                    (range.start / EXTENT_BYTES..=(range.end - 1) / EXTENT_BYTES).map(|extent| (number, extent)),
                );
            }
        };
        add(0..header.data_start);
        for tensor in &header.tensors {
            let (begin, row) = (tensor.range.start, 2 * tensor.shape[1] as u64);
            match slices.of(&tensor.name) {
                Slice::Whole => add(tensor.range.clone()),
                Slice::Rows(rows) => add(begin + row * rows.start as u64..begin + row * rows.end as u64),
                Slice::Columns(columns) => (0..tensor.shape[0] as u64)
                    .map(|index| begin + row * index)
                    .for_each(|at| add(at + 2 * columns.start as u64..at + 2 * columns.end as u64)),
                Slice::Skip => {}
            }
        }
    }
    touched
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn exactly_what_is_touched_and_not_had_is_fetched_once((shapes, fetch_bytes, together_bytes, seed) in models()) {
        let (headers, order, slices) = build(&shapes, seed);
        let files: Vec<PlanFile<'_>> = headers.iter().map(file).collect();
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        let have = |file: usize, extent: u64| (seed >> ((file as u64 * 7 + extent) % 64)) & 7 == 7;
        let options = PlanOptions { fetch_bytes, together_bytes, every_byte: false };
        let plan = make(&files, &order, &slices, &have, &options).expect("slices fit");

        let fetched = extents_in_order(&plan);
        let once: HashSet<_> = fetched.iter().copied().collect();
        prop_assert_eq!(once.len(), fetched.len(), "no extent twice");
        let touched = touched(&headers, &slices);
        let expected: HashSet<_> = touched.iter().copied().filter(|&(file, extent)| !have(file, extent)).collect();
        prop_assert_eq!(once, expected);

        let bytes = |&(file, extent): &(usize, u64)| EXTENT_BYTES.min(files[file].bytes - extent * EXTENT_BYTES);
        prop_assert_eq!(plan.fetched_bytes, fetched.iter().map(bytes).sum::<u64>());
        prop_assert_eq!(plan.touched_bytes, touched.iter().map(bytes).sum::<u64>());
        prop_assert!(plan.amplification() >= 1.0);

        let length_max = fetch_bytes.max(EXTENT_BYTES) / EXTENT_BYTES;
        for fetch in &plan.fetches {
            prop_assert!((1..=length_max).contains(&(fetch.extents.end - fetch.extents.start)));
        }
        prop_assert!(plan.fetches.is_sorted_by_key(|fetch| fetch.first_tensor), "in execution order");
        for tensor in &plan.tensors {
            prop_assert!(tensor.ready_after <= plan.fetches.len());
        }
    }

    #[test]
    fn nobody_is_overtaken_by_more_than_the_reach((shapes, fetch_bytes, together_bytes, seed) in models()) {
        let (headers, order, _) = build(&shapes, seed);
        let files: Vec<PlanFile<'_>> = headers.iter().map(file).collect();
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        let with = |fetch_bytes, together_bytes| PlanOptions { fetch_bytes, together_bytes, every_byte: false };
        let strict = make(&files, &order, &Slices::default(), NOTHING_HAD, &with(EXTENT_BYTES, 0)).expect("fits");
        let options = with(fetch_bytes, together_bytes);
        let merged = make(&files, &order, &Slices::default(), NOTHING_HAD, &options).expect("fits");
        let strict = extents_in_order(&strict);
        let place = |at: &(usize, u64)| strict.iter().position(|other| other == at).expect("the same extents");
        let places: Vec<usize> = extents_in_order(&merged).iter().map(place).collect();
        for (index, &late) in places.iter().enumerate() {
            let overtaken_by = places[..index].iter().filter(|&&other| other > late).count() as u64;
            prop_assert!(overtaken_by * EXTENT_BYTES <= together_bytes);
        }
    }
}
