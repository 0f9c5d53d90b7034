//! `podwasm_metrics_exporter::fuzzing::conversation` says what is promised.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podwasm_metrics_exporter::fuzzing::conversation(input));
