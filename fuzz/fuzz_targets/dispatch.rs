//! `nri::fuzzing::dispatch` says what is promised.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nri::fuzzing::dispatch(input));
