//! One test for each thing that is refused, and for what is odd but fine.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

use super::*;

/// A file with this header text and `data_bytes` bytes of data.
fn file(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data_bytes, 0xa5);
    file
}

fn parse_file(header: &str, data_bytes: usize) -> Result<Header, HeaderError> {
    let file = file(header, data_bytes);
    parse(&file, file.len() as u64)
}

fn refusal(header: &str, data_bytes: usize) -> HeaderError {
    parse_file(header, data_bytes).expect_err("the header must be refused")
}

/// An entry `"name": {…}` of bytes.
fn entry(name: &str, begin: u64, end: u64) -> String {
    format!(
        r#""{name}": {{"dtype": "U8", "shape": [{}], "data_offsets": [{begin}, {end}]}}"#,
        end.saturating_sub(begin)
    )
}

#[test]
fn ranges_are_of_the_file_and_sorted_by_place() {
    let text = format!(r#"{{"__metadata__": {{"format": "pt"}}, {}, {}}}  "#, entry("b", 3, 8), entry("a", 0, 3));
    let header = parse_file(&text, 8).unwrap();
    let start = 8 + text.len() as u64;
    assert_eq!(header.data_start, start);
    assert_eq!(header.metadata["format"], "pt");
    let places: Vec<_> = header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.range.clone())).collect();
    assert_eq!(places, [("a", start..start + 3), ("b", start + 3..start + 8)]);
}

#[test]
fn scalars_empty_tensors_and_no_tensors_are_fine() {
    assert!(parse_file("{}", 0).unwrap().tensors.is_empty());
    let text = r#"{"s": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "e": {"dtype": "F32", "shape": [0, 7], "data_offsets": [4, 4]}}"#;
    assert_eq!(parse_file(text, 4).unwrap().tensors.len(), 2);
}

#[test]
fn a_tensor_may_begin_at_any_byte() {
    let text = format!(r#"{{{}, "f": {{"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}}}}"#, entry("odd", 0, 1));
    assert_eq!(parse_file(&text, 5).unwrap().tensors[1].format, Format::F32);
}

#[test]
fn the_length_must_be_there_and_within_the_file_and_the_limit() {
    assert!(matches!(parse(b"1234567", 7), Err(HeaderError::FileTooShort { file_len: 7 })));
    assert!(matches!(refusal("", 8), HeaderError::Empty));
    let mut long = file("{}", 0);
    long[..8].copy_from_slice(&(HEADER_BYTES_MAX + 1).to_le_bytes());
    assert!(matches!(parse(&long, u64::MAX), Err(HeaderError::TooLong { header_len: 100_000_001 })));
    long[..8].copy_from_slice(&3_u64.to_le_bytes());
    assert!(matches!(parse(&long, 10), Err(HeaderError::PastEnd { header_len: 3, file_len: 10 })));
}

#[test]
fn a_short_prefix_says_how_much_to_read() {
    let file = file(&format!("{{{}}}", entry("a", 0, 4)), 4);
    let len = file.len() as u64;
    let needed = len - 4;
    assert!(matches!(parse(&file[..5], len), Err(HeaderError::PrefixTooShort { needed_bytes: 8, .. })));
    assert!(matches!(
        parse(&file[..20], len),
        Err(HeaderError::PrefixTooShort { needed_bytes, given_bytes: 20 }) if needed_bytes == needed
    ));
    assert!(parse(&file[..needed as usize], len).is_ok());
}

#[test]
fn only_a_utf8_json_object_padded_with_spaces_is_a_header() {
    assert!(matches!(refusal("[]", 0), HeaderError::NotAnObject));
    assert!(matches!(refusal(" {}", 0), HeaderError::NotAnObject));
    let mut bytes = file(r#"{"?": 1}"#, 0);
    bytes[10] = 0xff;
    assert!(matches!(parse(&bytes, bytes.len() as u64), Err(HeaderError::NotUtf8 { offset: 2 })));
    assert!(matches!(refusal(r#"{"a": "#, 0), HeaderError::Json(_)));
    assert!(parse_file("{}   ", 0).is_ok());
    assert!(matches!(refusal("{} \n", 0), HeaderError::Padding { offset: 3, byte: b'\n' }));
    assert!(matches!(refusal("{}\0", 0), HeaderError::Padding { offset: 2, byte: 0 }));
    assert!(matches!(refusal("{}{}", 0), HeaderError::Padding { offset: 2, byte: b'{' }));
}

#[test]
fn keys_given_twice_are_refused_at_every_level() {
    let twice = format!("{{{}, {}}}", entry("a", 0, 1), entry("\\u0061", 0, 1));
    assert!(matches!(refusal(&twice, 1), HeaderError::DuplicateName { key } if key == "a"));
    let metadata = r#"{"__metadata__": {}, "__metadata__": {}}"#;
    assert!(matches!(refusal(metadata, 0), HeaderError::DuplicateName { key } if key == "__metadata__"));
    let inner = r#"{"__metadata__": {"k": "1", "k": "2"}}"#;
    assert!(matches!(refusal(inner, 0), HeaderError::DuplicateMetadata { key } if key == "k"));
    let field = r#"{"a": {"dtype": "U8", "dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}"#;
    assert!(matches!(refusal(field, 1), HeaderError::DuplicateField { field, .. } if field == "dtype"));
}

#[test]
fn metadata_maps_strings_to_strings() {
    for text in [r#"{"__metadata__": 3}"#, r#"{"__metadata__": null}"#, r#"{"__metadata__": ["pt"]}"#] {
        assert!(matches!(refusal(text, 0), HeaderError::Metadata { key: None }), "{text}");
    }
    let number = r#"{"__metadata__": {"a": "b", "epoch": 3}}"#;
    assert!(matches!(refusal(number, 0), HeaderError::Metadata { key: Some(key) } if key == "epoch"));
}

#[test]
fn a_tensor_has_exactly_its_three_fields() {
    assert!(matches!(refusal(r#"{"a": [1]}"#, 0), HeaderError::NotATensor { tensor } if tensor == "a"));
    let missing = r#"{"a": {"dtype": "U8", "data_offsets": [0, 1]}}"#;
    assert!(matches!(refusal(missing, 1), HeaderError::MissingField { field: "shape", .. }));
    let unknown = r#"{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1], "scale": 2}}"#;
    assert!(matches!(refusal(unknown, 1), HeaderError::UnknownField { field, .. } if field == "scale"));
}

#[test]
fn dtypes_shapes_and_offsets_of_other_kinds_are_refused() {
    let with = |dtype: &str, shape: &str, offsets: &str| {
        refusal(&format!(r#"{{"a": {{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}}}"#), 4)
    };
    for dtype in [r#""Q4_0""#, r#""f32""#, "7", "{}"] {
        assert!(matches!(with(dtype, "[1]", "[0, 4]"), HeaderError::UnknownDtype { .. }), "{dtype}");
    }
    for shape in ["[-1]", "[1.0]", "1", r#"["1"]"#, "[1e3]", "[18446744073709551616]", "[[1]]"] {
        assert!(matches!(with(r#""F32""#, shape, "[0, 4]"), HeaderError::Shape { .. }), "{shape}");
    }
    for offsets in ["[0]", "[0, 4, 8]", "[0, -4]", "[0, 4.0]", "4", "[0, 18446744073709551616]"] {
        assert!(matches!(with(r#""F32""#, "[1]", offsets), HeaderError::Offsets { .. }), "{offsets}");
    }
}

#[test]
fn rank_and_name_length_have_limits() {
    let rank = vec!["1"; RANK_MAX + 1].join(", ");
    let text = format!(r#"{{"a": {{"dtype": "U8", "shape": [{rank}], "data_offsets": [0, 1]}}}}"#);
    assert!(matches!(refusal(&text, 1), HeaderError::Rank { rank: 17, .. }));
    let name = "n".repeat(NAME_BYTES_MAX);
    assert!(parse_file(&format!("{{{}}}", entry(&name, 0, 1)), 1).is_ok());
    let longer = refusal(&format!("{{{}}}", entry(&format!("{name}n"), 0, 1)), 1);
    assert!(matches!(longer, HeaderError::NameTooLong { name_bytes: 1025, .. }));
    assert!(longer.to_string().len() < 300, "a hostile name does not fill the log");
}

#[test]
fn sizes_that_overflow_are_refused() {
    let with =
        |shape: &str| refusal(&format!(r#"{{"a": {{"dtype": "F64", "shape": {shape}, "data_offsets": [0, 8]}}}}"#), 8);
    assert!(matches!(with("[4294967296, 4294967296]"), HeaderError::Overflow { .. }));
    assert!(matches!(with("[1152921504606846976]"), HeaderError::Overflow { .. }), "elements fit, bits do not");
    assert!(matches!(with("[4294967296, 4294967296, 0]"), HeaderError::Overflow { .. }));
}

#[test]
fn sub_byte_tensors_fill_whole_bytes() {
    let with = |dtype: &str, elements: usize, bytes: usize| {
        let entry = format!(r#""a": {{"dtype": "{dtype}", "shape": [{elements}], "data_offsets": [0, {bytes}]}}"#);
        parse_file(&format!("{{{entry}}}"), bytes)
    };
    assert!(with("F4", 4, 2).is_ok());
    assert!(matches!(with("F4", 3, 1), Err(HeaderError::SubByte { bits: 12, .. })));
    assert!(with("F6_E2M3", 4, 3).is_ok());
    assert!(matches!(with("F6_E3M2", 5, 4), Err(HeaderError::SubByte { bits: 30, .. })));
}

#[test]
fn offsets_fit_the_shape_and_run_forward() {
    let with =
        |offsets: &str| refusal(&format!(r#"{{"a": {{"dtype": "F32", "shape": [2], "data_offsets": {offsets}}}}}"#), 8);
    assert!(matches!(with("[8, 0]"), HeaderError::Reversed { begin: 8, end: 0, .. }));
    assert!(matches!(with("[0, 7]"), HeaderError::Size { needed_bytes: 8, given_bytes: 7, .. }));
}

#[test]
fn tensors_cover_the_data_exactly() {
    let pair = |first: (u64, u64), second: (u64, u64), data_bytes| {
        refusal(&format!("{{{}, {}}}", entry("a", first.0, first.1), entry("b", second.0, second.1)), data_bytes)
    };
    assert!(matches!(pair((1, 4), (4, 8), 8), HeaderError::FirstOffset { begin: 1, .. }));
    assert!(matches!(pair((0, 3), (4, 8), 8), HeaderError::Hole { gap_bytes: 1, .. }));
    assert!(matches!(pair((0, 5), (4, 8), 8), HeaderError::Overlap { shared_bytes: 1, .. }));
    assert!(matches!(pair((0, 8), (0, 8), 8), HeaderError::Overlap { shared_bytes: 8, .. }));
    assert!(matches!(pair((0, 4), (4, 8), 7), HeaderError::Truncated { end: 8, data_bytes: 7, .. }));
    assert!(matches!(pair((0, 4), (4, 8), 9), HeaderError::TrailingBytes { extra_bytes: 1 }));
    assert!(matches!(refusal("{}", 1), HeaderError::TrailingBytes { extra_bytes: 1 }));
}

#[test]
fn deep_nesting_is_refused_without_recursion() {
    const DEPTH: usize = 1_000_000;
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let value = format!("{}1{}", open.repeat(DEPTH), close.repeat(DEPTH));
        let field = format!(r#"{{"a": {{"dtype": {value}, "shape": [1], "data_offsets": [0, 1]}}}}"#);
        assert!(matches!(refusal(&field, 1), HeaderError::UnknownDtype { .. }));
        let tensor = format!(r#"{{"a": {value}}}"#);
        assert!(matches!(refusal(&tensor, 1), HeaderError::NotATensor { .. } | HeaderError::UnknownField { .. }));
        assert!(matches!(refusal(&format!(r#"{{"__metadata__": {value}}}"#), 0), HeaderError::Metadata { .. }));
    }
}

#[test]
fn messages_name_the_tensor_and_the_fix() {
    let text = format!("{{{}, {}}}", entry("model.norm.weight", 0, 5), entry("lm_head.weight", 4, 8));
    let message = refusal(&text, 8).to_string();
    assert!(message.contains("model.norm.weight") && message.contains("lm_head.weight"), "{message}");
    assert!(message.contains("write the file again"), "{message}");
}
