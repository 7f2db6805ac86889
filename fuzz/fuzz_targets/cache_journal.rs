//! See `fuzz::cache_journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::cache_journal(data));
