//! See `fuzz::model_list`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::model_list(data));
