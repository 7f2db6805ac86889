//! See `fuzz::embeddings_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::embeddings_request(data));
