//! See `fuzz::gguf_model`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::gguf_model(data));
