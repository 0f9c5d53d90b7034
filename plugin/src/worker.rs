//! A worker: the process that looks at images, asks containerd, and reads what tenants write.
//!
//! The [`crate::front`] starts it with a socket for its standard input. It gets ready, waits until it is needed, and works until the
//! front closes the socket. It may end at any moment: all that it knows, it can find out again.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread::Builder;

use anyhow::{Context as _, ensure};
use futures_util::FutureExt as _;
use nri::api::SynchronizeRequest;
use podwasm_daemon::logging::start_logging;
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tracing::{debug, error, info, warn};

use crate::adjust::Bundle;
use crate::arrivals::Arrivals;
use crate::cache::Cache;
use crate::catalog::Catalog;
use crate::compile::child::Program;
use crate::compile::tend::Tender;
use crate::compile::{self, Compiler};
use crate::containerd::Containerd;
use crate::daemon;
use crate::flags::Run;
use crate::hop::socket::{self, BlockingInbox, Outbox};
use crate::hop::{
    Answer, Call, Entrypoint, FromWorker, Order, PolicyText, READY, Report, Start, ToWorker, clock,
};
use crate::kubernetes::Kubernetes;
use crate::metrics::{Recorder, Sample, What};
use crate::observe::Observer;
use crate::page_cache;
use crate::plugin::Podwasm;
use crate::policy::Policy;
use crate::policy_file::{self, Current};
use crate::priority;
use crate::store::Store;

/// NRI's call by which it tells of all containers.
const SURVEY: &str = "Synchronize";

/// Works until the front has no more to be done.
pub async fn run(flags: Run) -> anyhow::Result<()> {
    let _written = start_logging(flags.log_format);
    let front = connect()?;
    let (mut inbox, outbox) = socket::open(front).context("cannot use the socket to the front")?;
    leave_the_end_to_the_front()?;
    let bundle = daemon::find_bundle(&flags)?;
    let compiler = compile::find(&flags.compiler, &bundle.version).await;

    let start = match inbox.next::<ToWorker>().await? {
        None => return Ok(()),
        Some(ToWorker {
            order: Some(Order::Start(start)),
        }) => start,
        Some(_) => anyhow::bail!("the front gave another order before the one to begin"),
    };
    tokio::spawn(outbox.clone().write());
    if !start.is_successor {
        let folder = bundle.folder.clone();
        tokio::task::spawn_blocking(move || read_ahead(&folder));
    }
    let desk = Desk::open(&flags, bundle, compiler, start, &outbox)?;
    report(&outbox, Report::Started(true));
    let cache = desk.cache.clone();
    desk.work(inbox.into_blocking()?, outbox).await?;
    cache.write_down();
    Ok(())
}

/// The socket that the front left for standard input. Programs that this process starts must not keep it open.
fn connect() -> anyhow::Result<UnixStream> {
    let input = std::io::stdin();
    let is_socket = rustix::net::sockopt::socket_domain(&input).is_ok();
    ensure!(is_socket, "a worker is started by `podwasm run`, and not by hand");
    let socket = input.as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    // Whatever the front ends by, this process ends with it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::thread::set_name(c"podwasm-worker")?;
    Ok(socket.into())
}

/// A signal to all processes of the daemon is for the front, which lets calls be answered first.
fn leave_the_end_to_the_front() -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        tokio::spawn(async move { while signals.recv().await.is_some() {} });
    }
    Ok(())
}

/// The first container need not wait for the disk, and none takes more faults than it has to.
fn read_ahead(bundle: &Path) {
    match page_cache::fill(bundle) {
        Ok(bytes) => debug!(bytes, "the engine is in memory"),
        Err(error) => warn!(
            error = &error as &dyn std::error::Error,
            "the engine is read when it is needed"
        ),
    }
}

/// All that a worker works with.
struct Desk {
    cache: Cache,
    containerd: Containerd,
    kubernetes: Option<Kubernetes>,
    plugin: Arc<Podwasm>,
    policy: Arc<Current>,
}

impl Desk {
    fn open(
        flags: &Run,
        bundle: Bundle,
        compiler: Result<(Program, String), String>,
        start: Start,
        outbox: &Outbox,
    ) -> anyhow::Result<Self> {
        let policy_path = policy_file::find(flags.config.clone(), &flags.idx, &flags.name);
        let (seen, policy) = take_policy(policy_path.as_ref(), start.policy, outbox)?;
        let policy = Arc::new(policy);
        let (program, build) = said_of_compiler(flags, compiler, start.is_successor).unzip();
        let recorder = recorder(outbox.clone());
        let catalog = Arc::new(Catalog::default());
        let containerd = Containerd::at(&flags.containerd_socket);
        let cache = Cache::open(&flags.state, build)
            .with_context(|| format!("cannot use the state folder {}", flags.state.display()))?;
        let store = Store::new(cache.clone(), policy.borrow().max_module_size.to_units());
        let store = Arc::new(store);
        let no_compiler = || format!("there is no compiler at {}", flags.compiler.display());
        let compiler = Compiler::new(
            cache.clone(),
            program.ok_or_else(no_compiler),
            policy.clone(),
            recorder.clone(),
        );
        let tender = Tender {
            cache: cache.clone(),
            compiler: compiler.clone(),
            containerd: containerd.clone(),
            policy: policy.clone(),
            recorder: recorder.clone(),
        };
        let tell = tell_of_modules(outbox.clone());
        let observer = Arc::new(Observer::new(
            containerd.clone(),
            store.clone(),
            catalog.clone(),
            tell,
        ));
        for known in start.known {
            observer.remember_module(known.image, known.program);
        }
        let arrivals = Arrivals {
            catalog,
            compiler: compiler.clone(),
            containerd: containerd.clone(),
            observer: observer.clone(),
            store,
        };
        let plugin = Podwasm::new(observer, bundle, compiler.clone(), policy.clone(), recorder);
        tokio::spawn(compiler.work());
        tokio::spawn(tender.tend());
        tokio::spawn(arrivals.watch());
        if let Some(path) = policy_path {
            let outbox = outbox.clone();
            let tell = move |text| report(&outbox, Report::Policy(text));
            tokio::spawn(policy_file::follow(path, seen, policy.clone(), tell));
        }
        Ok(Self {
            cache,
            containerd,
            kubernetes: Kubernetes::open(flags)?,
            plugin: Arc::new(plugin),
            policy,
        })
    }

    /// Reads calls on a thread that does nothing else, and waits until no more come. What a node waits for goes from the socket to the
    /// plugin and back without a change of threads.
    async fn work(self, inbox: BlockingInbox, outbox: Outbox) -> io::Result<()> {
        let runtime = Handle::current();
        let (tell_end, ended) = oneshot::channel();
        let read = move || {
            let _in_runtime = runtime.enter();
            priority::prefer();
            self.read(inbox, &outbox);
            // Should it panic, that is an end, too.
            let _ = tell_end.send(());
        };
        Builder::new().name("podwasm-calls".to_owned()).spawn(read)?;
        let _ = ended.await;
        Ok(())
    }

    fn read(&self, mut inbox: BlockingInbox, outbox: &Outbox) {
        loop {
            match inbox.next::<ToWorker>() {
                Ok(Some(ToWorker { order: Some(order) })) => self.take(order, outbox),
                Ok(Some(ToWorker { order: None })) => {}
                Ok(None) => return,
                Err(error) => {
                    error!(
                        error = &error as &dyn std::error::Error,
                        "the front makes no sense"
                    );
                    return;
                }
            }
        }
    }

    fn take(&self, order: Order, outbox: &Outbox) {
        match order {
            Order::Call(call) if call.method == SURVEY => {
                let (plugin, kubernetes) = (self.plugin.clone(), self.kubernetes.clone());
                tokio::spawn(survey(call, plugin, kubernetes, outbox.clone()));
            }
            Order::Call(call) => {
                let may_take_long = call.method == READY;
                let (plugin, containerd) = (self.plugin.clone(), self.containerd.clone());
                let work = Box::pin(answer(call, plugin, containerd, outbox.clone()));
                if may_take_long {
                    tokio::spawn(work);
                } else {
                    here_or_in_background(work);
                }
            }
            Order::Policy(text) => match Policy::parse(&text) {
                Ok(policy) => _ = self.policy.send_replace(Arc::new(policy)),
                // The front has parsed it before.
                Err(error) => warn!(error = &error as &dyn std::error::Error, "policy refused"),
            },
            Order::Start(_) => warn!("the front gave the order to begin twice"),
        }
    }
}

/// Does what can be done without waiting, which is all there is to a container whose facts are in memory, and leaves the rest to the
/// runtime.
fn here_or_in_background(mut work: Pin<Box<impl Future<Output = ()> + Send + 'static>>) {
    // Whatever it waits for learns whom to wake when the runtime asks it again.
    let mut nobody = Context::from_waker(Waker::noop());
    if work.as_mut().poll(&mut nobody).is_pending() {
        tokio::spawn(work);
    }
}

async fn answer(call: Call, plugin: Arc<Podwasm>, containerd: Containerd, outbox: Outbox) {
    let id = call.id;
    let work = AssertUnwindSafe(do_call(call, plugin, containerd)).catch_unwind();
    let answered = work.await.unwrap_or_else(|panic| Err(said_in_panic(&*panic)));
    if id == 0 {
        return;
    }
    let (result, error) = match answered {
        Ok(result) => (result, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    report(&outbox, Report::Answer(Answer { id, result, error }));
}

/// Nobody waits for this. If it ends the worker, the front does not ask for it for ever.
async fn survey(call: Call, plugin: Arc<Podwasm>, kubernetes: Option<Kubernetes>, outbox: Outbox) {
    match SynchronizeRequest::decode(call.request.as_slice()) {
        Ok(there) => {
            let (surveyed, missed) = plugin.survey(there.pods, there.containers).await;
            info!(
                unadjusted = surveyed.unadjusted,
                unknown = surveyed.unknown,
                "looked at all containers"
            );
            report(&outbox, Report::Surveyed(surveyed));
            if let Some(kubernetes) = kubernetes {
                kubernetes.take_care(&missed).await;
            }
        }
        Err(error) => error!(
            error = &error as &dyn std::error::Error,
            "the containers cannot be decoded"
        ),
    }
}

async fn do_call(call: Call, plugin: Arc<Podwasm>, containerd: Containerd) -> Result<Vec<u8>, String> {
    if call.method == READY {
        let version = containerd.version().await;
        return version.map(|_| Vec::new()).map_err(|error| error.to_string());
    }
    let (arrival, deadline) = (clock::to_instant(call.arrival), clock::to_instant(call.deadline));
    let handed_on = nri::Call::handed_on(&call.method, arrival, deadline, Arc::default());
    let handed_on = handed_on.ok_or_else(|| format!("podwasm: there is no method {}", call.method))?;
    // It is large, and would be moved with all that waits for it.
    Box::pin(nri::answer(plugin, handed_on, call.request))
        .await
        .map_err(|error| error.to_string())
}

/// An explicit error, so that what was to be created is not created otherwise.
fn said_in_panic(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("no message");
    error!(panic = text, "a handler panicked");
    format!("podwasm: the plugin's handler panicked: {text}")
}

fn report(outbox: &Outbox, report: Report) {
    outbox.send(&FromWorker { report: Some(report) });
}

/// What is counted for a call goes with the call's answer, anything else at once.
fn recorder(outbox: Outbox) -> Recorder {
    Recorder::new(move |what| {
        let goes_with_an_answer = matches!(
            what,
            What::Decided(_) | What::Refused(_) | What::RoutedTier(_) | What::Validated(_)
        );
        let sample = FromWorker {
            report: Some(Report::Count(Sample { what: Some(what) })),
        };
        if goes_with_an_answer {
            outbox.push(&sample);
        } else {
            outbox.send(&sample);
        }
    })
}

fn tell_of_modules(outbox: Outbox) -> impl Fn(&str, &str) + Send + Sync + 'static {
    move |image, program| {
        let entrypoint = Entrypoint {
            image: image.to_owned(),
            program: program.to_owned(),
        };
        report(&outbox, Report::Module(entrypoint));
    }
}

/// The policy to begin with, and the text of its file that it is in step with: what was in force, or else the file. That has to be
/// good only the first time.
fn take_policy(
    path: Option<&PathBuf>,
    in_force: Option<PolicyText>,
    outbox: &Outbox,
) -> anyhow::Result<(Option<String>, Current)> {
    if let Some(PolicyText { is_files, text }) = in_force {
        let policy = Policy::parse(&text).context("the policy in force cannot be followed")?;
        let seen = match path {
            Some(_) if is_files => Some(text),
            Some(path) => policy_file::read_bounded(path).ok(),
            None => None,
        };
        return Ok((seen, watch::Sender::new(Arc::new(policy))));
    }
    let Some(path) = path else {
        return Ok((None, watch::Sender::new(Arc::default())));
    };
    let (text, policy) = policy_file::read_text(path)?;
    info!(path = %path.display(), "policy read");
    report(outbox, Report::Policy(text.clone()));
    Ok((Some(text), watch::Sender::new(Arc::new(policy))))
}

/// A node without a compiler runs all the same. It is said by the first worker.
fn said_of_compiler(
    flags: &Run,
    compiler: Result<(Program, String), String>,
    is_successor: bool,
) -> Option<(Program, String)> {
    match compiler {
        Ok((program, build)) => {
            if !is_successor {
                if !rustix::process::geteuid().is_root() {
                    warn!("without root, compilers run as this process's own user");
                }
                info!(folder = %flags.compiler.display(), build, "compiling modules");
            }
            Some((program, build))
        }
        Err(problem) => {
            warn!(problem, "modules are interpreted");
            None
        }
    }
}
