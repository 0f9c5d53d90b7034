//! A node by hand: start one, look around in it, run pods on it.

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use podwasm_integration::cri::ContainerBuilder;
use podwasm_integration::image::{Artifact, native_architecture};
use podwasm_integration::node::{Flavor, Node, Runtime};
use podwasm_integration::prelude::{Image, PodHandle};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Throw-away containerd nodes, in namespaces of their own below target/nodes.
#[derive(Parser)]
#[command(name = "podwasm-node")]
struct Arguments {
    /// The node's name.
    #[arg(long, global = true, default_value = "dev")]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run a program, or a shell, in a running node.
    Enter {
        /// The program and its arguments.
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Run a pod with one container on a running node, and print what it prints.
    Run {
        /// An image in the node's registry.
        #[arg(long, conflicts_with = "wasm")]
        image: Option<String>,
        /// A module on this machine, put in an image of its own as its entrypoint.
        #[arg(long)]
        wasm: Option<PathBuf>,
        /// The form of that image.
        #[arg(long, value_enum, default_value_t = Form::Linux, requires = "wasm")]
        form: Form,
        /// A runtime handler other than the node's default.
        #[arg(long, default_value = "")]
        handler: String,
        /// Annotations of the pod, as KEY=VALUE.
        #[arg(long)]
        annotation: Vec<String>,
        /// Arguments for the container's entrypoint.
        #[arg(trailing_var_arg = true)]
        args: Vec<String>,
    },
    /// Start a node and keep it until the shell in it ends, or until it is stopped.
    Start {
        /// Whose containerd.
        #[arg(long, value_enum, default_value_t = Flavor::Trixie)]
        containerd: Flavor,
        /// The runtime of pods that choose none.
        #[arg(long, value_enum, default_value_t = Runtime::Runc)]
        runtime: Runtime,
        /// Start the podwasm plugin of this build in it.
        #[arg(long)]
        podwasm: bool,
        /// Keep it without a shell.
        #[arg(long)]
        no_shell: bool,
    },
    /// Stop a running node.
    Stop,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Form {
    /// An OCI Wasm artifact.
    Artifact,
    /// A scratch image for this machine's platform.
    Linux,
    /// A single manifest for wasi/wasm.
    Wasi,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let Arguments { name, action } = Arguments::parse();
    match action {
        Action::Enter { command } => enter(&Node::attach(&name)?, &command).await,
        Action::Run {
            image,
            wasm,
            form,
            handler,
            annotation,
            args,
        } => {
            let node = Node::attach(&name)?;
            let image = match wasm {
                None => image.unwrap_or_else(|| node.busybox().to_owned()),
                Some(path) => push(&node, &path, form).await?,
            };
            // An artifact has no entrypoint of its own.
            let command = if matches!(form, Form::Artifact) {
                vec!["/app.wasm"]
            } else {
                Vec::new()
            };
            run(&node, &handler, &annotation, |pod| {
                pod.container("run").image(&image).command(command).args(args)
            })
            .await
        }
        Action::Start {
            containerd,
            runtime,
            podwasm,
            no_shell,
        } => {
            let node = Node::start_named(&name, containerd, runtime).await?;
            start(node, podwasm, no_shell).await
        }
        Action::Stop => {
            Node::attach(&name)?.stop().await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn start(node: Node, podwasm: bool, no_shell: bool) -> Result<ExitCode> {
    eprintln!(
        "{}: {}, {} by default",
        node.name(),
        node.cri().version().await?,
        node.runtime()
    );
    eprintln!("logs: {}", node.logs().display());
    let _plugin = if podwasm {
        Some(node.start_podwasm().await?)
    } else {
        None
    };
    if !no_shell && std::io::stdin().is_terminal() {
        eprintln!("the node ends with this shell; `podwasm-node run` runs a pod from outside");
        return enter(&node, &[]).await;
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        () = node.ended() => {}
        _ = terminate.recv() => {}
        interrupt = tokio::signal::ctrl_c() => interrupt?,
    }
    node.stop().await?;
    Ok(ExitCode::SUCCESS)
}

async fn enter(node: &Node, words: &[String]) -> Result<ExitCode> {
    let mut command = Command::new(words.first().map_or("bash", String::as_str));
    command
        .args(words.iter().skip(1))
        .env("TERM", std::env::var("TERM").unwrap_or_default());
    let mut child = node.attach_terminal(command)?;
    let status = tokio::task::spawn_blocking(move || child.wait()).await??;
    Ok(exit_code(status.code().unwrap_or(1)))
}

async fn push(node: &Node, path: &Path, form: Form) -> Result<String> {
    let module = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let name = path
        .file_stem()
        .context("a module has a name")?
        .to_string_lossy()
        .to_lowercase();
    let image = |os, architecture| {
        Image::platform(os, architecture)
            .program("/app.wasm", module.clone())
            .entrypoint(["/app.wasm"])
    };
    match form {
        Form::Artifact => node.push(&name, &Artifact::wasm(module)).await,
        Form::Linux => node.push(&name, &image("linux", native_architecture())).await,
        Form::Wasi => node.push(&name, &image("wasi", "wasm")).await,
    }
}

async fn run<'a>(
    node: &'a Node,
    handler: &str,
    annotations: &[String],
    container: impl FnOnce(&PodHandle<'a>) -> ContainerBuilder<'a>,
) -> Result<ExitCode> {
    let mut pod = node.pod("run").runtime_handler(handler);
    for annotation in annotations {
        let (key, value) = annotation.split_once('=').context("an annotation is KEY=VALUE")?;
        pod = pod.annotation(key, value);
    }
    let pod = pod.run().await?;
    let code = finish(container(&pod)).await;
    pod.remove().await?;
    Ok(exit_code(code?))
}

async fn finish(container: ContainerBuilder<'_>) -> Result<i32> {
    let container = container.start().await?;
    let code = container.wait_exit().await?;
    let logs = container.logs()?;
    print!("{}", logs.stdout);
    eprint!("{}", logs.stderr);
    Ok(code)
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
