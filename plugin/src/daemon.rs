//! `podwasm run`: start order, and the end. It runs the [`crate::front`], and starts workers with its own flags.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use nri::{Identity, Preinstalled, Runner};
use podwasm_daemon::logging::{WorkerGuard, start_logging};
use podwasm_daemon::privileges::{daemons, keep_only};
use podwasm_daemon::signals::told_to_end;
use tracing::{debug, info};

use crate::adjust::Bundle;
use crate::admin::Admin;
use crate::cache::files::Files;
use crate::flags::Run;
use crate::front::Front;
use crate::front::workers::{Supervisor, Workers};
use crate::install;
use crate::kubernetes::Kubernetes;
use crate::metrics::Metrics;
use crate::priority;

/// What comes before all else, while there is one thread: taking the first place in the kernel's queue, dropping the privileges that neither
/// this process nor any that it starts will need, and logging, which goes on until the guard is dropped.
pub fn begin(flags: &Run) -> anyhow::Result<WorkerGuard> {
    let raised = priority::raise();
    if raised.is_err() {
        priority::prefer();
    }
    // It is the one folder that is written to, so it has to be there. Why it cannot be made is said by the first worker.
    let _ = Files::open(&flags.state);
    let needs = daemons::plugin(&flags.state, flags.asks_kubernetes());
    let kept = keep_only(&needs).context("cannot drop privileges")?;
    let written = start_logging(flags.log_format);
    kept.say();
    if let Err(error) = raised {
        debug!(
            error = &error as &dyn std::error::Error,
            "on a node with too much to do, answers may come late"
        );
    }
    Ok(written)
}

/// Runs the daemon until it is told to end, after [`begin`].
pub async fn run(flags: Run) -> anyhow::Result<()> {
    let preinstalled = Preinstalled::from_env()?;
    let identity = match &preinstalled {
        Some(preinstalled) => preinstalled.identity().clone(),
        None => Identity::new(flags.name.clone(), flags.idx.clone())?,
    };
    let bundle = find_bundle(&flags)?;
    // It is a worker that asks, but what is amiss is said here and now.
    Kubernetes::open(&flags).context("cannot do what --events and --evict ask for")?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        engine = bundle.version,
        "podwasm"
    );
    let metrics = Arc::new(Metrics::new(&bundle.version));
    let workers = Workers::new(metrics.clone());
    let plugin = Front::new(workers.clone(), metrics.clone(), flags.validate);
    let supervisor = Supervisor::new(workers.clone(), worker_arguments(&identity, &bundle));
    let runner = match preinstalled {
        Some(preinstalled) => Runner::preinstalled(plugin, preinstalled),
        None => Runner::external(plugin, identity).socket(flags.nri_socket),
    };

    let admin = Admin {
        metrics,
        nri: runner.runtime(),
        workers: workers.clone(),
    };
    let listener =
        TcpListener::bind(flags.http).with_context(|| format!("cannot listen on {}", flags.http))?;
    info!(address = %listener.local_addr()?, "serving /metrics, /healthz and /readyz");
    admin.serve(listener)?;

    let told_to_end = told_to_end()?;
    let serve = async {
        // Registered without a worker, it could only refuse.
        let mut told_to_end = std::pin::pin!(told_to_end);
        tokio::select! {
            () = workers.begun() => runner.run_here(told_to_end).await?,
            () = told_to_end.as_mut() => {}
        }
        workers.stop();
        anyhow::Ok(())
    };
    let supervise = async { anyhow::Ok(supervisor.run().await?) };
    tokio::try_join!(serve, supervise)?;
    info!("ended");
    Ok(())
}

/// A worker has the daemon's flags, the name that the daemon goes by, and the bundle that it found.
fn worker_arguments(identity: &Identity, bundle: &Bundle) -> Vec<OsString> {
    let flags = std::env::args_os().skip(2);
    let name = ["--name", identity.name(), "--idx", identity.index(), "--engine"].map(OsString::from);
    std::iter::once(OsString::from("worker"))
        .chain(flags)
        .chain(name)
        .chain([bundle.folder.clone().into_os_string()])
        .collect()
}

/// A bundle that is not whole is found now, and not by the first container.
pub fn find_bundle(flags: &Run) -> anyhow::Result<Bundle> {
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

/// What a bundle lacks, if anything.
pub fn missing_part(bundle: &Path) -> Option<PathBuf> {
    let parts = ["engine", "launch", "lib", "module", "VERSION"].map(|part| bundle.join(part));
    parts.into_iter().find(|part| !part.exists())
}
