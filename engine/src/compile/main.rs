//! Makes native code of a WebAssembly module: `module.so` in the working directory, of the module on stdin.
//!
//! Its input comes from strangers, and LLVM was not made for that: before it reads a byte it gives up all that compiling does not
//! need (`sandbox.rs`). Whoever starts it limits its time and memory. It has a bundle of its own, with LLVM
//! in it, that no container sees.
#![allow(
    unsafe_code,
    reason = "WasmEdge's and LLVM's C functions, and system calls; each use says why"
)]

mod llvm;
mod native;
#[path = "../proposals.rs"]
mod proposals;
mod sandbox;

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::{env, fs};

use podwasm_engine::compiling::{Request, Task};
use podwasm_engine::line::{one_line, with_causes};
use podwasm_engine::source::{self, Source, SourceError};
use thiserror::Error;

/// What is written, in the working directory. WasmEdge makes names absolute, and the way from the root down to where the daemon
/// has compilers work is closed to their user; through this link there is none to walk.
const OUTPUT: &str = "/proc/self/cwd/module.so";

/// The most that is read. WasmEdge counts the bytes of a module in 32 bits, and nothing near this can be compiled in a
/// node's memory.
const MAX_MODULE_BYTES: u64 = 1 << 30;

/// Why there is no native code.
#[derive(Debug, Error)]
enum CompileError {
    #[error(transparent)]
    Arguments(#[from] podwasm_engine::compiling::UsageError),
    #[error("the module cannot be read")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Sandbox(#[from] sandbox::SandboxError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the module has more than {MAX_MODULE_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    WasmEdge(#[from] native::NativeError),
    #[error("the native code cannot be written")]
    Write(#[source] io::Error),
}

fn main() -> ExitCode {
    match run(env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), CompileError> {
    match Request::parse(arguments)? {
        Request::Compile(task) => compile(&task),
        Request::Cpu => print(&llvm::processor()),
        Request::Version => print(&native::version()),
    }
}

fn compile(task: &Task) -> Result<(), CompileError> {
    if let Some(missing) = sandbox::enter()? {
        say(missing);
    }
    let source = read(task)?;
    llvm::prepare(task.tier, source.outline);
    native::compile(&source.module, &task.proposals, OUTPUT.as_ref())?;
    // WasmEdge does not say whether it could write it.
    match fs::metadata(OUTPUT) {
        Ok(written) if written.len() > 0 => Ok(()),
        Ok(_) => Err(CompileError::Write(io::ErrorKind::WriteZero.into())),
        Err(error) => Err(CompileError::Write(error)),
    }
}

fn read(task: &Task) -> Result<Source, CompileError> {
    let mut bytes = Vec::new();
    let mut input = io::stdin().lock().take(MAX_MODULE_BYTES + 1);
    input.read_to_end(&mut bytes).map_err(CompileError::Read)?;
    if bytes.len() as u64 > MAX_MODULE_BYTES {
        return Err(CompileError::TooLarge);
    }
    Ok(source::prepare(&bytes, &task.proposals)?)
}

fn print(text: &str) -> Result<(), CompileError> {
    writeln!(io::stdout(), "{text}").map_err(CompileError::Write)
}

/// One line on stderr; whether it arrives is not for us to handle.
fn say(message: &str) {
    let _ = io::stderr().write_all(one_line("podwasm-compile", message).as_bytes());
}
