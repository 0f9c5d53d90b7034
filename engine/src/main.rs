//! Runs the module in `/.podwasm/module` as the first process of a container.
//!
//! The plugin mounts this program over the container's entrypoint, so its arguments, environment, working
//! directory, user and open files are the guest's. It does not use Rust's own start-up code: that would open
//! `/dev/null` for a standard stream that is closed, and end the process where there is none.
#![no_main]
#![allow(
    unsafe_code,
    reason = "signals, file descriptors and WasmEdge's C functions; each use says why"
)]

mod compiled;
mod configuration;
mod faults;
mod folders;
mod guest;
mod heap;
mod names;
mod plugins;
mod process;
mod proposals;
mod quiet;
mod signals;
mod sockets;
mod streams;
mod wasi;

use std::ffi::{c_char, c_int};

use podwasm_engine::environment;
use podwasm_engine::line::line;
use podwasm_engine::outcome::Outcome;

use process::Process;

/// Where the plugin mounts the module's folder.
const FOLDER: &str = "/.podwasm/module";

// SAFETY: the C library calls the one `main` of the program, and no library here defines another.
#[unsafe(no_mangle)]
extern "C" fn main(_: c_int, arguments: *const *const c_char, variables: *const *const c_char) -> c_int {
    streams::occupy_closed();
    // SAFETY: these are the pointers that the C library was given by the kernel; nothing here changes
    // the arguments or the environment.
    let process = unsafe { Process::new(arguments, variables) };
    let outcome = run(&process).unwrap_or_else(Outcome::CannotStart);
    if let Some(message) = outcome.message(process.program()) {
        streams::write_stderr(line(&message).as_bytes());
    }
    process::leave(outcome.exit_code().into())
}

fn run(process: &Process) -> Result<Outcome, String> {
    let settings = environment::settings(process.variables()).map_err(|error| error.to_string())?;
    signals::end_on_request(settings.drain)
        .map_err(|error| format!("there can be no thread to wait for signals: {error}"))?;
    names::use_files_and_dns();
    Ok(guest::run(FOLDER.as_ref(), process, &settings))
}
