//! See `fuzz::embedding_files`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::embedding_files(data));
