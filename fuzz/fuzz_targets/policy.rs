//! `podwasm::fuzzing::policy` says what is promised.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podwasm::fuzzing::policy(input));
