#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tuntap_fuzz::trunk::check(data));
