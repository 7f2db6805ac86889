//! See `fuzz::channels`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::channels(data));
