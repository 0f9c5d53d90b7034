//! What is typed on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs Wasm containers on an untouched Kubernetes node.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, args_override_self = true)]
pub struct Flags {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the node's daemon: an NRI plugin that routes Wasm containers to the engine.
    ///
    /// It needs containerd with NRI switched on (the default since 2.0), root, and the engine's bundle.
    /// Containers that hold no Wasm are never changed. It runs until SIGTERM or SIGINT.
    #[command(args_override_self = true)]
    Run(Run),
}

/// Flags of `podwasm run`.
#[derive(Args, Debug)]
pub struct Run {
    /// The plugin's name, as NRI knows it.
    #[arg(long, default_value = "podwasm")]
    pub name: String,
    /// The plugin's index, two digits: plugins are called in ascending order.
    #[arg(long, default_value = "10")]
    pub idx: String,
    /// NRI's socket.
    #[arg(long, default_value = nri::DEFAULT_SOCKET)]
    pub nri_socket: PathBuf,
    /// containerd's socket.
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    pub containerd_socket: PathBuf,
    /// The node's policy, a YAML file. Without it, the defaults hold.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The engine's bundle. The container runtime mounts it, so this is a path on the host.
    #[arg(long, default_value = "/opt/podwasm/engine")]
    pub engine: PathBuf,
    /// The plugins that the policy may allow, a folder for each. It is mounted too, so this is a path on the host.
    #[arg(long, default_value = "/opt/podwasm/plugins")]
    pub plugins: PathBuf,
    /// Where modules are kept. The container runtime mounts them, so this is a path on the host.
    #[arg(long, default_value = "/var/lib/podwasm")]
    pub state: PathBuf,
    /// Where to serve /metrics, /healthz and /readyz.
    #[arg(long, default_value = "127.0.0.1:9465")]
    pub http: SocketAddr,
    /// How to write log lines. `RUST_LOG` says which: info by default, debug shows every container.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn flags_are_named_as_nri_plugins_name_them() {
        let flags = [
            "podwasm",
            "run",
            "--name",
            "a",
            "--idx",
            "05",
            "--nri-socket",
            "/n",
            "--log-format",
            "json",
        ];
        let Command::Run(run) = Flags::parse_from(flags).command;
        assert_eq!(
            (run.name.as_str(), run.idx.as_str(), run.log_format),
            ("a", "05", LogFormat::Json)
        );
    }
}
