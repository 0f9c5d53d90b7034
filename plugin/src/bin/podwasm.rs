//! The node's daemon and the project's command line: all of it is in the library.

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    podwasm::run()
}
