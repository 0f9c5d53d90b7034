//! `podwasm run`: start order, and the end.

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use nri::{Identity, Preinstalled, Runner};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::adjust::Bundle;
use crate::admin::Admin;
use crate::arrivals::Arrivals;
use crate::cache::Cache;
use crate::catalog::Catalog;
use crate::compile::child::Program;
use crate::compile::tend::Tender;
use crate::compile::{self, Compiler};
use crate::containerd::Containerd;
use crate::flags::{LogFormat, Run};
use crate::install;
use crate::metrics::Metrics;
use crate::observe::Observer;
use crate::plugin::Podwasm;
use crate::policy_file;
use crate::store::Store;

/// Runs the daemon until it is told to end.
pub async fn run(flags: Run) -> anyhow::Result<()> {
    start_logging(flags.log_format);
    let preinstalled = Preinstalled::from_env()?;
    let identity = match &preinstalled {
        Some(preinstalled) => preinstalled.identity().clone(),
        None => Identity::new(flags.name.clone(), flags.idx.clone())?,
    };
    let policy_path = policy_file::find(flags.config.clone(), identity.index(), identity.name());
    let policy = Arc::new(policy_file::read(policy_path.as_deref())?);
    let bundle = find_bundle(&flags)?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        engine = bundle.version,
        "podwasm"
    );

    let catalog = Arc::new(Catalog::default());
    let containerd = Containerd::at(&flags.containerd_socket);
    let metrics = Arc::new(Metrics::new(&bundle.version));
    let (program, build) = find_compiler(&flags, &bundle).await.unzip();
    let cache = Cache::open(&flags.state, build)
        .with_context(|| format!("cannot use the state folder {}", flags.state.display()))?;
    let store = Store::new(cache.clone(), policy.borrow().max_module_size.to_units());
    let store = Arc::new(store);
    let no_compiler = || format!("there is no compiler at {}", flags.compiler.display());
    let compiler = Compiler::new(
        cache.clone(),
        program.ok_or_else(no_compiler),
        policy.clone(),
        metrics.clone(),
    );
    let tender = Tender {
        cache: cache.clone(),
        compiler: compiler.clone(),
        containerd: containerd.clone(),
        metrics: metrics.clone(),
        policy: policy.clone(),
    };
    let arrivals = Arrivals {
        catalog: catalog.clone(),
        compiler: compiler.clone(),
        containerd: containerd.clone(),
        store: store.clone(),
    };
    let plugin = Podwasm::new(
        Arc::new(Observer::new(containerd.clone(), store, catalog)),
        bundle,
        compiler.clone(),
        metrics.clone(),
        policy.clone(),
    );
    let runner = match preinstalled {
        Some(preinstalled) => Runner::preinstalled(plugin, preinstalled),
        None => Runner::external(plugin, identity).socket(flags.nri_socket),
    };

    let admin = Admin {
        containerd,
        metrics,
        nri: runner.runtime(),
    };
    let listener = TcpListener::bind(flags.http)
        .await
        .with_context(|| format!("cannot listen on {}", flags.http))?;
    info!(address = %listener.local_addr()?, "serving /metrics, /healthz and /readyz");
    tokio::spawn(async { axum::serve(listener, admin.routes()).await });

    tokio::spawn(compiler.work());
    tokio::spawn(tender.tend());
    tokio::spawn(arrivals.watch());
    if let Some(path) = policy_path {
        tokio::spawn(policy_file::follow(path, policy));
    }
    runner.run(told_to_end()?).await?;
    cache.write_down();
    info!("ended");
    Ok(())
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
        LogFormat::Text => subscriber.init(),
    }
}

/// A bundle that is not whole is found now, and not by the first container.
fn find_bundle(flags: &Run) -> anyhow::Result<Bundle> {
    let folder = &flags.engine;
    ensure!(
        folder.is_absolute(),
        "the engine's bundle {} has to be an absolute path",
        folder.display()
    );
    if let Some(part) = missing_part(folder) {
        bail!("the engine's bundle is not whole: {} is missing", part.display());
    }
    let folder = &install::settle(folder).context("cannot use the engine's bundle")?;
    Ok(Bundle {
        folder: folder.clone(),
        plugins: flags.plugins.clone(),
        version: engine_version(folder)?,
    })
}

/// One line that names an engine's build.
pub fn engine_version(bundle: &Path) -> anyhow::Result<String> {
    let version = fs::read_to_string(bundle.join("VERSION")).context("cannot read the engine's version")?;
    Ok(version.trim().to_owned())
}

/// A node without a compiler runs all the same. It is said here, once.
async fn find_compiler(flags: &Run, bundle: &Bundle) -> Option<(Program, String)> {
    match compile::find(&flags.compiler, &bundle.version).await {
        Ok((program, build)) => {
            if !rustix::process::geteuid().is_root() {
                warn!("without root, compilers run as this process's own user");
            }
            info!(folder = %flags.compiler.display(), build, "compiling modules");
            Some((program, build))
        }
        Err(problem) => {
            warn!(problem, "modules are interpreted");
            None
        }
    }
}

/// What a bundle lacks, if anything.
pub fn missing_part(bundle: &Path) -> Option<PathBuf> {
    let parts = ["engine", "launch", "lib", "module", "VERSION"].map(|part| bundle.join(part));
    parts.into_iter().find(|part| !part.exists())
}

/// Waits for SIGTERM or SIGINT.
pub fn told_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
