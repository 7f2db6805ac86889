//! See `fuzz::hub_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::hub_request(data));
