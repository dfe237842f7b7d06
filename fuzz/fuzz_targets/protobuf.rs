//! `cargo +nightly fuzz run protobuf`; what it does is in `src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::protobuf(bytes));
