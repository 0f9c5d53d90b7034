//! How a run ends: the exit code, and what is said about it.
//!
//! The codes are those a shell or container runtime gives to a native program: 126 for a file that cannot be
//! executed, 134 (128 + SIGABRT) for a program that the machine stopped, 128 + n for one ended by signal n.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use crate::line::quoted;

/// The module was not started.
pub const CANNOT_START: u8 = 126;
/// The guest trapped.
pub const TRAPPED: u8 = 134;

/// The end of a run.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The module was not started, and why.
    CannotStart(String),
    /// The guest ended itself; WASI's exit code.
    Exited(u32),
    /// The guest was stopped, and by what.
    Trapped(String),
}

impl Outcome {
    /// The exit code of the process. WASI's is a `u32`, of which a process can hand on the low byte.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::CannotStart(_) => CANNOT_START,
            Self::Exited(code) => code.to_le_bytes()[0],
            Self::Trapped(_) => TRAPPED,
        }
    }

    /// What to say on stderr, given the guest's `args[0]`.
    pub fn message(&self, program: &[u8]) -> Option<String> {
        match self {
            Self::CannotStart(why) => Some(format!("cannot start {}: {why}", quoted(program))),
            Self::Exited(_) => None,
            Self::Trapped(what) => Some(format!("trap: {what} in {}", quoted(program))),
        }
    }
}

/// The exit code after a signal that ends the container.
pub fn signal_exit_code(signal: i32) -> i32 {
    128 + signal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(outcome: &Outcome, code: u8, message: Option<&str>) {
        assert_eq!(outcome.exit_code(), code);
        assert_eq!(outcome.message(b"/app.wasm").as_deref(), message);
    }

    #[test]
    fn each_end_has_its_code_and_its_words() {
        check(&Outcome::Exited(0), 0, None);
        check(&Outcome::Exited(42), 42, None);
        check(&Outcome::Exited(0x1ff), 255, None);
        check(
            &Outcome::Trapped("unreachable executed".into()),
            134,
            Some(r#"trap: unreachable executed in "/app.wasm""#),
        );
        check(
            &Outcome::CannotStart("it is empty".into()),
            126,
            Some(r#"cannot start "/app.wasm": it is empty"#),
        );
    }

    #[test]
    fn signals_count_from_128() {
        assert_eq!(signal_exit_code(15), 143);
        assert_eq!(signal_exit_code(2), 130);
    }
}
