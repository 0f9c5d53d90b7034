//! `podwasm compile`: what the daemon does by itself, by hand and with a picture.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Handle;

use crate::cache::Cache;
use crate::compile::job::{Done, Workshop};
use crate::compile::queue::Key;
use crate::compile::{self, limits};
use crate::compiled::Tier;
use crate::flags::{Compile, Inspect};
use crate::inspect::show::{printable, size};
use crate::policy::Policy;
use crate::store::Module;
use crate::{daemon, inspect, policy_file};

/// The exit code of what there is nothing to compile of. Wrong flags have it too.
const NOTHING: u8 = 2;
/// When to look again whether another process has finished.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(200);
const FRAME: Duration = Duration::from_millis(100);

/// Compiles, tells, and says by the exit code how that went.
pub async fn run(flags: Compile) -> ExitCode {
    match try_run(flags).await {
        Ok(code) => code,
        Err(problem) => {
            let _ = writeln!(io::stderr(), "podwasm: {}", printable(&problem));
            ExitCode::from(NOTHING)
        }
    }
}

async fn try_run(flags: Compile) -> Result<ExitCode, String> {
    let engine = daemon::engine_version(&flags.engine);
    let engine = engine.map_err(|error| format!("{}: {error:#}", flags.engine.display()))?;
    let (program, build) = compile::find(&flags.compiler, &engine).await?;
    let (idx, name) = policy_file::USUAL;
    let file = policy_file::find(flags.config.clone(), idx, name);
    let policy = policy_file::read(file.as_deref()).map_err(|error| format!("{error:#}"))?;
    let policy = Policy::clone(&policy.borrow());
    let handle = Handle::current();
    let work = move || -> Result<ExitCode, String> {
        let _entered = handle.enter();
        let (cache, trial) = open_cache(&flags, build)?;
        let workshop = Workshop { cache, program };
        let module = inspect::module(of_target(&flags), handle.clone(), &workshop.cache)?;
        workshop
            .cache
            .sync()
            .map_err(|error| format!("cannot read the cache: {error}"))?;
        println!("module {} ({})", module.digest, size(module.size));
        let is_done = compile(&flags, &policy, &workshop, &module)?;
        if trial.is_some() {
            println!(
                "there is no cache at {}, so nothing was kept",
                flags.state.display()
            );
        }
        Ok(if is_done {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    };
    // Not one of the executor's threads: they end when there is nothing to do, and the compiler with them.
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(tell.send(work())));
    told.await
        .map_err(|_| "the thread that compiles has panicked".to_owned())?
}

/// The node's cache, or one that is gone afterwards.
fn open_cache(flags: &Compile, build: String) -> Result<(Cache, Option<tempfile::TempDir>), String> {
    let cannot = |error: io::Error| format!("cannot use the cache {}: {error}", flags.state.display());
    if flags.state.exists() {
        let cache = Cache::beside(&flags.state, Some(build)).map_err(cannot)?;
        return Ok((cache, None));
    }
    let folder = tempfile::Builder::new()
        .prefix("podwasm-compile-")
        .tempdir()
        .map_err(cannot)?;
    let cache = Cache::beside(folder.path(), Some(build)).map_err(cannot)?;
    Ok((cache, Some(folder)))
}

fn of_target(flags: &Compile) -> Inspect {
    Inspect {
        target: flags.target.clone(),
        r#as: flags.r#as,
        json: false,
        command: flags.command.clone(),
        r#ref: flags.r#ref.clone(),
        annotation: Vec::new(),
        container: String::new(),
        namespace: String::new(),
        runtime: "runc".to_owned(),
        containerd_socket: flags.containerd_socket.clone(),
        config: flags.config.clone(),
        engine: flags.engine.clone(),
        plugins: PathBuf::new(),
        compiler: flags.compiler.clone(),
        state: flags.state.clone(),
    }
}

fn compile(flags: &Compile, policy: &Policy, workshop: &Workshop, module: &Module) -> Result<bool, String> {
    let files = workshop.cache.files();
    let build = workshop.cache.build().unwrap_or_default();
    for tier in Tier::ALL
        .into_iter()
        .filter(|tier| flags.tier.is_none_or(|only| only == *tier))
    {
        let key = Key {
            digest: module.digest.clone(),
            tier,
        };
        if flags.again {
            let forgotten = files.forget(&key.digest, build, tier);
            forgotten.map_err(|error| format!("cannot forget what is there: {error}"))?;
        } else if let Some(failure) = failure(workshop, &key, build) {
            println!(
                "{tier}: it was tried before: {}; --again tries once more",
                printable(&failure)
            );
            return Ok(false);
        }
        if !tell(tier, &watched(workshop, &key, policy, module.size)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn failure(workshop: &Workshop, key: &Key, build: &str) -> Option<String> {
    use crate::cache::record::Outcome;
    match workshop
        .cache
        .files()
        .attempt(&key.digest, build, key.tier)?
        .outcome
    {
        Outcome::Failed { reason } => Some(reason),
        Outcome::Compiled { .. } => None,
    }
}

/// Works, and shows meanwhile that it does. How long it takes depends on the module, so there is only an estimate.
fn watched(workshop: &Workshop, key: &Key, policy: &Policy, module_bytes: u64) -> Done {
    let bar = if io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    let style = ProgressStyle::with_template("{spinner} {prefix}: {msg}, {elapsed} so far");
    bar.set_style(style.expect("the template is a constant"));
    bar.set_prefix(key.tier.as_str());
    let limit = limits::limits(&policy.compile, key.tier, module_bytes).cpu_seconds;
    let usual = estimate(key.tier, module_bytes);
    bar.set_message(format!("compiling, usually {usual:?}, at most {limit} s"));
    bar.enable_steady_tick(FRAME);
    let done = loop {
        match workshop.work(key, policy) {
            Done::Elsewhere => {
                bar.set_message("another process is at it");
                std::thread::sleep(ELSEWHERE_PAUSE);
            }
            done => break done,
        }
    };
    bar.finish_and_clear();
    done
}

/// Measured: 2 and 20 s for each MB of a usual module.
fn estimate(tier: Tier, module_bytes: u64) -> Duration {
    let per_byte = match tier {
        Tier::Fast => Duration::from_micros(2),
        Tier::Optimised => Duration::from_micros(20),
    };
    let whole = per_byte.saturating_mul(u32::try_from(module_bytes).unwrap_or(u32::MAX));
    Duration::from_secs(whole.as_secs().max(1))
}

fn tell(tier: Tier, done: &Done) -> bool {
    match done {
        Done::Already => println!("{tier}: it is there already"),
        Done::Compiled {
            bytes,
            peak_bytes,
            took,
        } => println!(
            "{tier}: {} in {:.1} s, with up to {} of memory",
            size(*bytes),
            took.as_secs_f64(),
            size(*peak_bytes)
        ),
        Done::Elsewhere | Done::Gone => println!("{tier}: the module has left the cache"),
        Done::Failed { reason, took, .. } => {
            println!(
                "{tier}: {} (after {:.1} s)",
                printable(reason),
                took.as_secs_f64()
            );
        }
    }
    matches!(done, Done::Already | Done::Compiled { .. })
}
