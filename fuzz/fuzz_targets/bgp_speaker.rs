#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tuntap_fuzz::bgp_speaker::check(data));
