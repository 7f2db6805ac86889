//! See `fuzz::model_text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::model_text(data));
