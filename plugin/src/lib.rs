//! podwasm runs Wasm containers on an untouched Kubernetes node.
//!
//! `podwasm run` is an NRI plugin. For each container that is about to be created it looks at what
//! would be executed (`observe`), decides from that alone (`decide`), and changes the container so
//! that the engine runs it (`adjust`); `plugin` ties these together. That is the work of a `worker`, a process that may crash;
//! the connection with NRI is held by another, the `front`.
//!
//! It is a library so that other programs can be made of its parts; all that it offers is `run`.

mod adjust;
mod admin;
mod annotation;
mod arrivals;
mod cache;
mod cache_command;
mod catalog;
mod compile;
mod compile_command;
mod compiled;
mod containerd;
mod daemon;
mod decide;
mod doctor;
#[cfg(test)]
mod documented;
#[cfg(test)]
#[path = "../../integration/src/documents.rs"]
mod documents;
mod entrypoint;
mod facts;
mod flags;
mod front;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod hop;
mod image;
mod image_command;
mod inspect;
mod install;
mod kubernetes;
mod layers;
mod metrics;
mod module;
mod observe;
mod page_cache;
mod plan;
mod plugin;
mod policy;
mod policy_file;
mod priority;
mod quantity;
mod store;
mod validate;
mod verdicts;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;
use tokio::runtime::Builder;

use flags::{Command, Flags};

/// What waits for the disk has threads of its own, so these do little. One for each processor of a large machine would only take memory: half a megabyte of stack and
/// a heap each.
const THREADS: usize = 2;

/// Does what the command line asks for: all of the program `podwasm`.
pub fn run() -> anyhow::Result<ExitCode> {
    let command = Flags::parse().command;
    // The front answers on one thread, so that a call changes none on its way.
    let mut _written = None;
    let runtime = match &command {
        Command::Run(flags) => {
            _written = Some(daemon::begin(flags)?);
            Builder::new_current_thread().enable_all().build()
        }
        _ => Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build(),
    };
    runtime?.block_on(run_command(command))
}

async fn run_command(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Cache(flags) => Ok(cache_command::run(flags).await),
        Command::Compile(flags) => Ok(compile_command::run(flags).await),
        Command::Doctor(flags) => Ok(doctor::run(flags).await),
        Command::Image(flags) => Ok(image_command::run(flags.command).await),
        Command::Inspect(flags) => Ok(inspect::run(flags).await),
        Command::Install(flags) => Ok(install::run(flags).await),
        Command::Nri(flags) => Ok(install::nri::run(flags).await),
        Command::Run(flags) => daemon::run(flags).await.map(|()| ExitCode::SUCCESS),
        Command::Uninstall(flags) => Ok(install::uninstall::run(flags).await),
        Command::Worker(flags) => worker::run(flags).await.map(|()| ExitCode::SUCCESS),
    }
}
