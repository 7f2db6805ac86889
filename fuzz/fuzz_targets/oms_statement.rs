//! See `fuzz::oms_statement`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::oms_statement(data));
