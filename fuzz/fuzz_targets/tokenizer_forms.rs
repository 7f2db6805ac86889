//! See `fuzz::tokenizer_forms`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tokenizer_forms(data));
