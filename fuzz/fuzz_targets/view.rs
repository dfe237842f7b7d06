//! `cargo +nightly fuzz run view`; what it does is in `src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::view(bytes));
