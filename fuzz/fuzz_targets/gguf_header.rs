//! See `fuzz::gguf_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::gguf_header(data));
