//! See `fuzz::chat_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::chat_request(data));
