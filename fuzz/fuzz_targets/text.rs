#![no_main]

use atomic_db_test_support::reference_model::text;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| text::fuzz_text(bytes));
