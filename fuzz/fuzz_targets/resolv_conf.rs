//! `cargo +nightly fuzz run resolv_conf`; what it does is in `src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::resolv_conf(bytes));
