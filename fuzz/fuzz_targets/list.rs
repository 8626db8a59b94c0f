#![no_main]

#[path = "../../tests/support/bytes.rs"]
mod bytes;
#[path = "../../tests/support/recency.rs"]
mod recency;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recency::list(bytes));
