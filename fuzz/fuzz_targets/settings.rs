//! `podwasm_engine::fuzzing::settings` says what is promised.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podwasm_engine::fuzzing::settings(input));
