//! Claims that hold for every header, found by random search: what the reference library writes is
//! read as it was meant; what we accept, the reference library accepts; nothing panics.

#[path = "claims/header.rs"]
mod claims;
#[path = "claims/damage.rs"]
mod damage;

use loader::header::{self, HeaderError};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};

use claims::{check, parse};
use damage::damage;

/// Every type of the reference library.
const DTYPES: [Dtype; 22] = [
    Dtype::BOOL,
    Dtype::F4,
    Dtype::F6_E2M3,
    Dtype::F6_E3M2,
    Dtype::U8,
    Dtype::I8,
    Dtype::F8_E5M2,
    Dtype::F8_E4M3,
    Dtype::F8_E8M0,
    Dtype::F8_E4M3FNUZ,
    Dtype::F8_E5M2FNUZ,
    Dtype::I16,
    Dtype::U16,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I32,
    Dtype::U32,
    Dtype::F32,
    Dtype::C64,
    Dtype::F64,
    Dtype::I64,
    Dtype::U64,
];

/// A dtype and a shape whose size is whole bytes, also for elements of four and six bits.
fn typed_shape() -> impl Strategy<Value = (Dtype, Vec<usize>)> {
    (0..DTYPES.len(), vec(0_usize..4, 0..4)).prop_map(|(dtype, mut shape)| {
        if DTYPES[dtype].bitsize() < 8 {
            shape.push(4);
        }
        (DTYPES[dtype], shape)
    })
}

fn file_bytes() -> impl Strategy<Value = Vec<u8>> {
    btree_map("[a-z.0-9\"\\\\é]{1,12}", typed_shape(), 0..6).prop_map(|tensors| {
        let data = vec![0x5a; 4 * 64 * 8];
        let views = tensors.iter().map(|(name, (dtype, shape))| {
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (name, TensorView::new(*dtype, shape.clone(), &data[..bytes]).expect("sizes fit"))
        });
        serialize(views, Some([("format".to_owned(), "pt".to_owned())].into())).expect("a valid file")
    })
}

/// One noun for both libraries: every type of theirs is a format of ours, of the same size.
#[test]
fn every_type_of_the_reference_is_a_format() {
    for dtype in DTYPES {
        let format = tensor::Format::of_name(&dtype.to_string()).expect("a format of that name");
        assert_eq!(format.row_bytes(24), Some(24 * dtype.bitsize() as u64 / 8), "{format}");
    }
}

proptest! {
    #[test]
    fn what_the_reference_writes_is_read_as_meant(bytes in file_bytes()) {
        prop_assert!(parse(&bytes).is_ok(), "{:?}", parse(&bytes));
        check(&bytes);
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        check(&bytes);
    }

    #[test]
    fn any_header_text_is_parsed_or_refused(text in r#"\{["a-c:,\[\]{}0-9 \\u_]{0,60}\}"#, data in 0_usize..20) {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        check(&bytes);
    }

    #[test]
    fn mutated_files_are_parsed_or_refused(bytes in file_bytes(), damage in damage()) {
        check(&damage.to(bytes));
    }

    #[test]
    fn any_prefix_asks_for_exactly_what_it_lacks(bytes in file_bytes(), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(bytes.len());
        let whole = parse(&bytes).expect("a valid file");
        match header::parse(&bytes[..cut], bytes.len() as u64) {
            Ok(header) => prop_assert_eq!(header, whole),
            Err(HeaderError::PrefixTooShort { needed_bytes, .. }) => {
                prop_assert!(needed_bytes > cut as u64 && needed_bytes <= whole.data_start);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
