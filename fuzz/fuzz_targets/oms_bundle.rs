//! See `fuzz::oms_bundle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::oms_bundle(data));
