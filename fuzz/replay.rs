//! What is kept of fuzzing, run again. The tests of the crates whose promises are fuzzed take this file in by its path.

use std::fs;
use std::path::Path;

/// What is fuzzed: takes any bytes, and panics where a promise is broken.
pub type Target = fn(&[u8]);

/// Gives each target nothing, and then all that `fuzz/corpus` has for its name.
///
/// # Panics
///
/// Where nothing is kept for a target, and where one does.
pub fn replay(targets: &[(&str, Target)]) {
    for (name, target) in targets {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(name);
        let inputs: Vec<_> = fs::read_dir(&corpus).expect(name).collect();
        assert!(!inputs.is_empty(), "nothing is kept for {name}");
        target(b"");
        for input in inputs {
            target(&fs::read(input.unwrap().path()).unwrap());
        }
    }
}
