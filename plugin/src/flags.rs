//! What is typed on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use podwasm_daemon::logging::LogFormat;

use crate::compiled::Tier;
use crate::image_command;
use crate::quantity::Quantity;

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
    /// Shows and tends the modules and their native code on this node.
    ///
    /// It works beside the daemon, which notices what has changed.
    #[command(args_override_self = true, after_help = CACHE_EXIT_CODES)]
    Cache(CacheFlags),
    /// Compiles the module of an image, an archive or a file, as the daemon does by itself when an image arrives.
    ///
    /// The native code goes to this node's cache, where containers find it. Without a cache, which only root has, it is tried and thrown
    /// away.
    #[command(args_override_self = true, after_help = COMPILE_EXIT_CODES)]
    Compile(Compile),
    /// Makes OCI images from modules and pushes them, without Docker and without a Dockerfile.
    #[command(args_override_self = true, arg_required_else_help = true, after_help = image_command::flags::EXIT_CODES)]
    Image(image_command::flags::ImageFlags),
    /// Looks at this node from top to bottom, and says what is wrong, what that means and what to do.
    ///
    /// Nothing on the node is changed. Where things are, a running daemon's flags say, unless those here say otherwise. Without root it looks at
    /// what it may, and says what it could not.
    #[command(args_override_self = true, after_help = DOCTOR_EXIT_CODES)]
    Doctor(Doctor),
    /// Says what an image, an archive or a file is, and what podwasm would do with it.
    ///
    /// Nothing is run, pulled or changed. The rules are the daemon's own, with the policy and annotations given here.
    #[command(args_override_self = true, after_help = INSPECT_EXIT_CODES)]
    Inspect(Inspect),
    /// Brings the engine's bundle to where the container runtime mounts it from, and removes versions that nobody uses.
    ///
    /// Every version has a folder of its own, which appears whole; versions that containers run with, or that a daemon hands out, stay.
    #[command(args_override_self = true)]
    Install(Install),
    /// Switches NRI on in a containerd 1.7 that has it off, and back.
    ///
    /// containerd 2 has it on, and is left alone. One import is added to the configuration, checked by containerd itself, and
    /// containerd is restarted; running pods do not notice. If it does not come up, all goes back to what it was.
    #[command(args_override_self = true)]
    Nri(NriFlags),
    /// Runs the node's daemon: an NRI plugin that routes Wasm containers to the engine.
    ///
    /// It needs containerd with NRI switched on (the default since 2.0), root, and the engine's bundle.
    /// Containers that hold no Wasm are never changed. It runs until SIGTERM or SIGINT.
    #[command(args_override_self = true)]
    Run(Run),
    /// Removes all that podwasm has put on this node, but for what running containers use.
    ///
    /// It waits until no daemon runs any more, says what stays and why, and may be run again.
    #[command(args_override_self = true)]
    Uninstall(Uninstall),
    /// The part of the daemon that does the work. `podwasm run` starts it.
    #[command(hide = true, args_override_self = true)]
    Worker(Run),
}

const INSPECT_EXIT_CODES: &str = "\
Exit codes:
  0  a container of it would run, natively or as Wasm
  1  it would not: refused, not pulled, no command, or it would start and fail
  2  it cannot be inspected: not there, unreadable, malformed, or the flags are wrong";

const DOCTOR_EXIT_CODES: &str = "\
Exit codes:
  0  nothing is broken; there may be warnings, and things that could not be looked at
  1  something does not work
  2  what was asked about is not there, or the flags are wrong";

const CACHE_EXIT_CODES: &str = "\
Exit codes:
  0  all is well
  1  verify: something was not what was put there, and was dropped
  2  the cache cannot be used: not there, not readable, or the flags are wrong";

const COMPILE_EXIT_CODES: &str = "\
Exit codes:
  0  the native code is there
  1  the module cannot be compiled
  2  there is nothing to compile: not there, unreadable, no module, no compiler, or the flags are wrong";

/// Flags of `podwasm cache`.
#[derive(Args, Debug)]
pub struct CacheFlags {
    /// What to do.
    #[command(subcommand)]
    pub command: CacheCommand,
    /// Where modules are kept.
    #[arg(long, global = true, default_value = "/var/lib/podwasm")]
    pub state: PathBuf,
    /// containerd's socket; it knows what is in use.
    #[arg(long, global = true, default_value = "/run/containerd/containerd.sock")]
    pub containerd_socket: PathBuf,
}

/// What can be done with the cache.
#[derive(Clone, Debug, Subcommand)]
pub enum CacheCommand {
    /// Removes modules that no container uses, those that were not used for longest first, until the rest fits.
    Gc {
        /// How much may stay, such as 500Mi; 0 removes all that is not in use. Without it, the policy says.
        #[arg(long, value_name = "QUANTITY")]
        budget: Option<Quantity>,
        /// The node's policy, a YAML file. Without it, the daemon's own is used, or the defaults hold.
        #[arg(long, value_name = "POLICY")]
        config: Option<PathBuf>,
    },
    /// Lists modules: their native code, when they were last used, and what cannot be compiled.
    Ls {
        /// Prints one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Reads everything, and drops what is not what was put there.
    Verify,
}

/// Flags of `podwasm compile`.
#[derive(Args, Debug)]
pub struct Compile {
    /// A file, an OCI image layout (folder or archive), or the name of an image in containerd.
    pub target: String,
    /// What the target is, instead of what it looks like.
    #[arg(long, value_enum, value_name = "KIND")]
    pub r#as: Option<TargetKind>,
    /// The pod's command, instead of the image's entrypoint.
    #[arg(long, num_args = 1.., value_name = "WORD", action = clap::ArgAction::Set)]
    pub command: Vec<String>,
    /// Which image of a layout that holds several, by its name or digest.
    #[arg(long, value_name = "NAME")]
    pub r#ref: Option<String>,
    /// Only this tier.
    #[arg(long, value_enum)]
    pub tier: Option<Tier>,
    /// Tries again what has failed, and makes again what is there.
    #[arg(long)]
    pub again: bool,
    /// Where modules are kept.
    #[arg(long, default_value = "/var/lib/podwasm")]
    pub state: PathBuf,
    /// containerd's socket.
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    pub containerd_socket: PathBuf,
    /// The node's policy, a YAML file. Without it, the daemon's own is used, or the defaults hold.
    #[arg(long, value_name = "POLICY")]
    pub config: Option<PathBuf>,
    /// The engine's bundle on this node.
    #[arg(long, default_value = "/opt/podwasm/engine")]
    pub engine: PathBuf,
    /// The compiler's bundle on this node.
    #[arg(long, default_value = "/opt/podwasm/compiler")]
    pub compiler: PathBuf,
}

/// Flags of `podwasm doctor`.
#[derive(Args, Debug)]
pub struct Doctor {
    /// Lists all complaints and checks by name.
    #[arg(long, conflicts_with = "explain")]
    pub list: bool,
    /// Explains a complaint or a check, without looking at the node.
    #[arg(long, value_name = "NAME")]
    pub explain: Option<String>,
    /// Prints one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Also says what became of a pod's containers, or of one container.
    #[arg(long, value_name = "NAMESPACE/POD|CONTAINER-ID")]
    pub pod: Option<String>,
    /// Also says what an image in containerd is, and whether Kubernetes pulls it.
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,
    /// containerd's socket. Without it, the daemon's or the first of the usual ones that is there.
    #[arg(long)]
    pub containerd_socket: Option<PathBuf>,
    /// NRI's socket.
    #[arg(long)]
    pub nri_socket: Option<PathBuf>,
    /// The node's policy, a YAML file.
    #[arg(long, value_name = "POLICY")]
    pub config: Option<PathBuf>,
    /// The engine's bundle on this node.
    #[arg(long)]
    pub engine: Option<PathBuf>,
    /// The compiler's bundle on this node.
    #[arg(long)]
    pub compiler: Option<PathBuf>,
    /// Where modules are kept on this node.
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Where the daemon serves /metrics and /readyz.
    #[arg(long)]
    pub http: Option<SocketAddr>,
}

/// Flags of `podwasm inspect`.
#[derive(Args, Debug)]
pub struct Inspect {
    /// A file, an OCI image layout (folder or archive), or the name of an image in containerd.
    pub target: String,
    /// What the target is, instead of what it looks like.
    #[arg(long, value_enum, value_name = "KIND")]
    pub r#as: Option<TargetKind>,
    /// Prints one JSON object.
    #[arg(long)]
    pub json: bool,
    /// The pod's command, instead of the image's entrypoint.
    #[arg(long, num_args = 1.., value_name = "WORD", action = clap::ArgAction::Set)]
    pub command: Vec<String>,
    /// Which image of a layout that holds several, by its name or digest.
    #[arg(long, value_name = "NAME")]
    pub r#ref: Option<String>,
    /// An annotation of the pod. May be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value, action = clap::ArgAction::Append)]
    pub annotation: Vec<(String, String)>,
    /// The container's name, for annotations that name one.
    #[arg(long, default_value = "app")]
    pub container: String,
    /// The pod's namespace in Kubernetes.
    #[arg(long, default_value = "default")]
    pub namespace: String,
    /// What runs the pod: the program of an OCI runtime, or the name of a containerd shim.
    #[arg(long, default_value = "runc")]
    pub runtime: String,
    /// containerd's socket.
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    pub containerd_socket: PathBuf,
    /// The node's policy, a YAML file. Without it, the daemon's own is used, or the defaults hold.
    #[arg(long, value_name = "POLICY")]
    pub config: Option<PathBuf>,
    /// The engine's bundle on this node.
    #[arg(long, default_value = "/opt/podwasm/engine")]
    pub engine: PathBuf,
    /// The plugins on this node.
    #[arg(long, default_value = "/opt/podwasm/plugins")]
    pub plugins: PathBuf,
    /// The compiler's bundle on this node.
    #[arg(long, default_value = "/opt/podwasm/compiler")]
    pub compiler: PathBuf,
    /// Where modules are kept on this node.
    #[arg(long, default_value = "/var/lib/podwasm")]
    pub state: PathBuf,
}

/// Flags of `podwasm install`.
#[derive(Args, Debug)]
pub struct Install {
    /// The folder that holds the bundles, `engine` and `compiler`.
    #[arg(long, default_value = "/usr/lib/podwasm")]
    pub from: PathBuf,
    /// The folder on the node to install them in.
    #[arg(long, default_value = "/opt/podwasm")]
    pub to: PathBuf,
    /// Installs the compiler's bundle too. A daemon that has one in its own image needs none on the node.
    #[arg(long)]
    pub compiler: bool,
    /// containerd's socket; it knows what is in use.
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    pub containerd_socket: PathBuf,
}

/// Flags of `podwasm nri`.
#[derive(Args, Debug)]
pub struct NriFlags {
    /// What to do.
    #[command(subcommand)]
    pub command: NriCommand,
    /// The node's root, as this process sees it. It is entered first, so all other paths are the node's.
    #[arg(long, global = true, value_name = "FOLDER")]
    pub host: Option<PathBuf>,
    /// containerd's configuration.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "/etc/containerd/config.toml"
    )]
    pub config: PathBuf,
    /// containerd's socket.
    #[arg(long, global = true, default_value = "/run/containerd/containerd.sock")]
    pub containerd_socket: PathBuf,
    /// A word of the command that restarts containerd; given once for each word.
    #[arg(
        long, global = true, value_name = "WORD", action = clap::ArgAction::Append,
        default_values = ["systemctl", "restart", "containerd"]
    )]
    pub restart: Vec<String>,
    /// How long containerd may take to come up.
    #[arg(long, global = true, default_value = "30s", value_parser = humantime::parse_duration)]
    pub patience: Duration,
}

/// What can be done about NRI.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum NriCommand {
    /// Switches NRI on, unless it is.
    Enable,
    /// Puts containerd's configuration back to what it was, to the byte.
    Restore,
}

/// Flags of `podwasm uninstall`.
#[derive(Args, Debug)]
pub struct Uninstall {
    /// The folder on the node that bundles were installed in.
    #[arg(long, default_value = "/opt/podwasm")]
    pub from: PathBuf,
    /// Where modules are kept.
    #[arg(long, default_value = "/var/lib/podwasm")]
    pub state: PathBuf,
    /// containerd's socket; it knows what is in use.
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    pub containerd_socket: PathBuf,
    /// How long to wait for daemons, or nodes, to be done.
    #[arg(long, default_value = "1m", value_parser = humantime::parse_duration)]
    pub patience: Duration,
    /// When all is removed, goes on and says so at this address, until SIGTERM or SIGINT.
    #[arg(long, value_name = "ADDRESS")]
    pub then_serve: Option<SocketAddr>,
    /// Removes nothing; waits until all nodes behind a Service's name say that they are done.
    #[arg(long, value_name = "NAME:PORT", conflicts_with = "then_serve")]
    pub r#await: Option<String>,
}

/// What can be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TargetKind {
    /// An OCI image layout, as a folder or an archive.
    Archive,
    /// A module, component, program or any other file.
    File,
    /// An image in containerd.
    Image,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("it is not KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
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
    /// The compiler's bundle. Without one, modules are interpreted.
    #[arg(long, default_value = "/opt/podwasm/compiler")]
    pub compiler: PathBuf,
    /// The plugins that the policy may allow, a folder for each. It is mounted too, so this is a path on the host.
    #[arg(long, default_value = "/opt/podwasm/plugins")]
    pub plugins: PathBuf,
    /// Where modules are kept. The container runtime mounts them, so this is a path on the host.
    #[arg(long, default_value = "/var/lib/podwasm")]
    pub state: PathBuf,
    /// Where to serve /metrics, /healthz and /readyz.
    #[arg(long, default_value = "127.0.0.1:9465")]
    pub http: SocketAddr,
    /// Has the container runtime ask once more when all plugins have adjusted a container, and rejects a Wasm container that would start
    /// without podwasm's adjustments. Needs containerd 2.2 or later; others are not asked for it.
    #[arg(long)]
    pub validate: bool,
    /// Makes an event on the pod of each Wasm container that was created without podwasm, by the Kubernetes API.
    #[arg(long)]
    pub events: bool,
    /// Evicts such pods, so that their controllers make them anew; disruption budgets hold. Pods without a controller stay.
    #[arg(long)]
    pub evict: bool,
    /// Where the Kubernetes API is, instead of where Kubernetes tells its pods that it is.
    #[arg(long, value_name = "URL")]
    pub kubernetes_server: Option<String>,
    /// The folder of the service account that may do so: its `token`, and `ca.crt`, whom the API server's certificate is by.
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount"
    )]
    pub kubernetes_account: PathBuf,
    /// How to write log lines. `RUST_LOG` says which: info by default, debug shows every container.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl Run {
    /// Whether it asks the Kubernetes API for anything.
    pub fn asks_kubernetes(&self) -> bool {
        self.events || self.evict
    }
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
        let Command::Run(run) = Flags::parse_from(flags).command else {
            panic!("it is another command")
        };
        assert_eq!(
            (run.name.as_str(), run.idx.as_str(), run.log_format),
            ("a", "05", LogFormat::Json)
        );
    }

    #[test]
    fn what_is_inspected_and_how() {
        let flags = [
            "podwasm",
            "inspect",
            "--command",
            "/app.wasm",
            "serve",
            "--annotation",
            "a=b=c",
            "--annotation",
            "d=",
            "--as",
            "archive",
            "x.tar",
        ];
        let Command::Inspect(inspect) = Flags::parse_from(flags).command else {
            panic!("it is another command")
        };
        assert_eq!(inspect.command, ["/app.wasm", "serve"]);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(inspect.annotation, [pair("a", "b=c"), pair("d", "")]);
        assert_eq!(
            (inspect.r#as, inspect.target.as_str()),
            (Some(TargetKind::Archive), "x.tar")
        );
        assert!(Flags::try_parse_from(["podwasm", "inspect", "x", "--annotation", "a"]).is_err());
    }
}
