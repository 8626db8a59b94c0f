#![no_main]

use atomic_db_test_support::reference_model;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reference_model::fuzz_database(bytes));
