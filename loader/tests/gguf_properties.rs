//! Claims that hold for every GGUF header, found by random search: what is written is read as it was meant,
//! what is damaged is parsed or refused, nothing panics.

#[path = "claims/gguf.rs"]
mod claims;
#[path = "claims/damage.rs"]
mod damage;

use claims::{check, parse};
use damage::damage;
use loader::gguf::{self, GgufError, Value};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tensor::Format;
use testkit::gguf::{GgufFile, Meta};

/// Some formats and the numbers that files have for them.
const FORMATS: [(u32, Format); 5] =
    [(0, Format::F32), (1, Format::F16), (30, Format::Bf16), (8, Format::Q8_0), (12, Format::Q4K)];

fn meta() -> impl Strategy<Value = Meta> {
    prop_oneof![
        any::<u32>().prop_map(Meta::U32),
        any::<i32>().prop_map(Meta::I32),
        any::<f32>().prop_map(Meta::F32),
        any::<bool>().prop_map(Meta::Bool),
        "[a-zé ]{0,9}".prop_map(Meta::Text),
        vec(any::<i32>(), 0..5).prop_map(Meta::I32s),
        vec(-1e9_f32..1e9, 0..5).prop_map(Meta::F32s),
        vec("[a-zé ]{0,9}".prop_map(String::from), 0..5).prop_map(Meta::Texts),
    ]
}

fn file() -> impl Strategy<Value = GgufFile> {
    let tensor = (0..FORMATS.len(), 1_usize..3, vec(1_u64..4, 0..3));
    (btree_map("[a-z._]{1,12}", meta(), 0..6), btree_map("[a-z.0-9]{1,12}", tensor, 1..6)).prop_map(
        |(metadata, tensors)| {
            let mut file = GgufFile { metadata: metadata.into_iter().collect(), tensors: Vec::new() };
            for (name, (kind, blocks, mut shape)) in tensors {
                let (id, format) = FORMATS[kind];
                let row = blocks * format.block().numbers;
                shape.push(row as u64);
                let rows: u64 = shape[..shape.len() - 1].iter().product();
                let bytes = format.row_bytes(row).expect("whole blocks") * rows;
                file.tensor(&name, &shape, id, vec![0x5a; bytes as usize]);
            }
            file
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_meant(file in file()) {
        let bytes = file.bytes();
        let gguf = parse(&bytes).expect("a valid file");
        check(&bytes);
        prop_assert_eq!(gguf.metadata.len(), file.metadata.len());
        for (key, meta) in &file.metadata {
            let found = &gguf.metadata[key];
            let same = match meta {
                Meta::U32(number) => found.as_u64() == Some((*number).into()),
                Meta::I32(number) => found.as_i64() == Some((*number).into()),
                Meta::F32(number) => found.as_f64().map(|found| (found as f32).to_bits() & 0x7fff_ffff)
                    .is_some_and(|bits| bits == number.to_bits() & 0x7fff_ffff || number.is_nan()),
                Meta::Bool(flag) => found.as_bool() == Some(*flag),
                Meta::Text(text) => found.as_str() == Some(text),
                Meta::I32s(numbers) => found.as_list().is_some_and(|found| {
                    found.iter().map(Value::as_i64).eq(numbers.iter().map(|number| Some(i64::from(*number))))
                }),
                Meta::F32s(numbers) => found.as_list().is_some_and(|found| {
                    let found = found.iter().map(|value| value.as_f64().map(|number| (number as f32).to_bits()));
                    found.eq(numbers.iter().map(|number| Some(number.to_bits())))
                }),
                Meta::Texts(texts) => found.as_list().is_some_and(|found| {
                    found.iter().map(Value::as_str).eq(texts.iter().map(|text| Some(text.as_str())))
                }),
            };
            prop_assert!(same, "{}: {:?} became {:?}", key, meta, found);
        }
        prop_assert!(gguf.tensors.iter().map(|tensor| &tensor.name).eq(file.tensors.iter().map(|tensor| &tensor.name)));
        for (found, written) in gguf.tensors.iter().zip(&file.tensors) {
            prop_assert!(found.shape.iter().map(|size| *size as u64).eq(written.shape.iter().copied()));
            prop_assert_eq!(&bytes[found.range.start as usize..found.range.end as usize], &written.bytes[..]);
        }
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(mut bytes in vec(any::<u8>(), 0..200), version in 1_u32..5) {
        check(&bytes);
        for (place, byte) in b"GGUF".iter().chain(&version.to_le_bytes()).enumerate().take(bytes.len()) {
            bytes[place] = *byte;
        }
        // Small counts, or nothing behind them would ever be reached.
        for place in [9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23] {
            bytes.get_mut(place).into_iter().for_each(|byte| *byte = 0);
        }
        check(&bytes);
    }

    #[test]
    fn mutated_files_are_parsed_or_refused(file in file(), damage in damage()) {
        check(&damage.to(file.bytes()));
    }

    #[test]
    fn reading_what_is_asked_for_ends_at_the_whole_header(file in file()) {
        let bytes = file.bytes();
        let whole = parse(&bytes).expect("a valid file");
        let mut prefix = 0;
        for _ in 0..bytes.len() {
            match gguf::parse(&bytes[..prefix], bytes.len() as u64) {
                Ok(_) => break,
                Err(GgufError::PrefixTooShort { needed_bytes, .. }) => {
                    prop_assert!(needed_bytes as usize > prefix && needed_bytes <= whole.data_start);
                    prefix = needed_bytes as usize;
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
        prop_assert_eq!(prefix as u64, whole.data_start);
    }
}
