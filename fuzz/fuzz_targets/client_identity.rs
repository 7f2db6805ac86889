//! See `fuzz::client_identity`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::client_identity(data));
