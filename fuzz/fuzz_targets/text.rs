#![no_main]

#[path = "../../tests/support/bytes.rs"]
mod bytes;
#[path = "../../tests/support/text.rs"]
mod text;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| text::text(bytes));
