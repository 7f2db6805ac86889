//! See `fuzz::fleet_members`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::fleet_members(data));
