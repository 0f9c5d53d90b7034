//! podwasm runs Wasm containers on an untouched Kubernetes node.
//!
//! `podwasm run` is an NRI plugin. For each container that is about to be created it looks at what
//! would be executed ([`observe`]), decides from that alone ([`decide`]), and changes the container so
//! that the engine runs it ([`adjust`]); [`plugin`] ties these together.
//!
//! It is a library so that other programs can be made of its parts; all that it offers is [`run`].

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
mod entrypoint;
mod facts;
mod flags;
mod image;
mod inspect;
mod install;
mod layers;
mod metrics;
mod module;
mod observe;
mod plan;
mod plugin;
mod policy;
mod policy_file;
mod quantity;
mod store;
mod verdicts;

use std::process::ExitCode;

use clap::Parser as _;

use flags::{Command, Flags};

/// Does what the command line asks for: all of the program `podwasm`.
pub async fn run() -> anyhow::Result<ExitCode> {
    match Flags::parse().command {
        Command::Cache(flags) => Ok(cache_command::run(flags).await),
        Command::Compile(flags) => Ok(compile_command::run(flags).await),
        Command::Inspect(flags) => Ok(inspect::run(flags).await),
        Command::Install(flags) => Ok(install::run(flags).await),
        Command::Nri(flags) => Ok(install::nri::run(flags).await),
        Command::Run(flags) => daemon::run(flags).await.map(|()| ExitCode::SUCCESS),
        Command::Uninstall(flags) => Ok(install::uninstall::run(flags).await),
    }
}
