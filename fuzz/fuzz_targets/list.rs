#![no_main]

use atomic_db_test_support::reference_model::lru;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lru::fuzz_list(bytes));
