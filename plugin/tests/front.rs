//! The daemon's two processes under faults, between a fake runtime and a containerd that never answers. Needs neither root nor a node.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nri::api::{Container, PodSandbox, SynchronizeRequest, SynchronizeResponse};
use nri::testing::{FakeConnection, FakeRuntime};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::net::UnixListener;
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(30);
/// containerd waits for 2 s.
const IN_GOOD_TIME: Duration = Duration::from_millis(1900);

/// A daemon of this build, and what it talks to.
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
    fake: FakeRuntime,
    silent_containerd: tokio::task::JoinHandle<()>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.silent_containerd.abort();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start() -> Self {
        Self::start_with(|_, _| {})
    }

    fn start_with(change: impl FnOnce(&Path, &mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for part in ["engine", "launch", "lib", "module"] {
            fs::create_dir_all(at("bundle").join(part)).unwrap();
        }
        fs::write(at("bundle/VERSION"), "fake\n").unwrap();
        let fake = FakeRuntime::listen(at("nri.sock")).unwrap();
        let listener = UnixListener::bind(at("containerd.sock")).unwrap();
        let silent_containerd = tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.push(connection);
            }
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_podwasm"));
        command
            .args(["run", "--http", "127.0.0.1:0"])
            .arg("--nri-socket")
            .arg(at("nri.sock"))
            .arg("--containerd-socket")
            .arg(at("containerd.sock"))
            .arg("--engine")
            .arg(at("bundle"))
            .arg("--compiler")
            .arg(at("none"))
            .arg("--state")
            .arg(at("state"))
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stderr(File::create(at("log")).unwrap());
        change(dir.path(), &mut command);
        Self {
            child: command.spawn().unwrap(),
            dir,
            fake,
            silent_containerd,
        }
    }

    async fn admit(&self) -> FakeConnection {
        let admitted = self.fake.admit(Vec::new(), Vec::new()).await;
        admitted.unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    async fn wait_log(&self, text: &str, times: usize) {
        self.wait(&format!("{times} × {text}"), || {
            self.log().matches(text).count() >= times
        })
        .await;
    }

    async fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < PATIENCE, "{what}: not so\n{}", self.log());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// The workers, the one at work first.
    fn workers(&self) -> Vec<Pid> {
        children(self.child.id())
    }

    /// Waits until one is at work that is not `but`, and another waits.
    async fn two_workers(&self, but: Option<Pid>) -> Vec<Pid> {
        self.wait("two workers", || {
            let workers = self.workers();
            workers.len() == 2 && !workers.iter().any(|worker| Some(*worker) == but)
        })
        .await;
        self.workers()
    }

    fn get(&self, path: &str) -> String {
        let log = self.log();
        let (_, rest) = log.split_once("address=").expect("it serves");
        let address: String = rest
            .chars()
            .take_while(|character| !character.is_whitespace())
            .collect();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn metric(&self, sample: &str) -> u64 {
        let text = self.get("/metrics");
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.trim().parse().ok());
        value.unwrap_or(0)
    }
}

fn children(parent: u32) -> Vec<Pid> {
    let mut found: Vec<(u64, Pid)> = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let Some(stat) = fs::read_to_string(entry.path().join("stat")).ok() else {
            continue;
        };
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .collect();
        let is_child = fields.get(1).and_then(|ppid| ppid.parse().ok()) == Some(parent);
        if is_child && fields.first() != Some(&"Z") {
            let began = fields[19].parse().unwrap();
            found.push((began, Pid::from_raw(pid).unwrap()));
        }
    }
    found.sort_by_key(|(began, pid)| (*began, pid.as_raw_nonzero()));
    found.into_iter().map(|(_, pid)| pid).collect()
}

fn container(program: &str) -> Container {
    Container {
        id: "c1".to_owned(),
        name: "c".to_owned(),
        args: vec![program.to_owned()],
        ..Container::default()
    }
}

fn pod(annotations: &[(&str, &str)]) -> PodSandbox {
    PodSandbox {
        id: "p1".to_owned(),
        annotations: annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..PodSandbox::default()
    }
}

/// Has containers created while workers are killed as often as that takes two of them, and returns what was answered.
async fn while_workers_die(
    daemon: &Daemon,
    runtime: &FakeConnection,
    pod: PodSandbox,
    program: &str,
) -> Result<bool, String> {
    daemon.two_workers(None).await;
    let create = runtime.create_container(pod, container(program));
    let kill = async {
        for _ in 0..2 {
            sleep(Duration::from_millis(40)).await;
            if let Some(worker) = daemon.workers().first() {
                kill_process(*worker, Signal::KILL).unwrap();
            }
        }
    };
    let started = Instant::now();
    let (answer, ()) = tokio::join!(create, kill);
    assert!(started.elapsed() < IN_GOOD_TIME, "{:?}", started.elapsed());
    answer
        .map(|answer| answer.adjust.is_some())
        .map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_workers_die_native_containers_start_and_wasm_is_refused() {
    let daemon = Daemon::start();
    let runtime = daemon.admit().await;
    assert_eq!(
        while_workers_die(&daemon, &runtime, pod(&[]), "/bin/sh").await,
        Ok(false)
    );
    daemon.wait_log("started without having been looked at", 1).await;
    for (annotations, program) in [
        (&[][..], "/app.wasm"),
        (&[("wasm.noderesource.dev/pod", "handler: engine")], "/bin/sh"),
    ] {
        let refused = while_workers_die(&daemon, &runtime, pod(annotations), program).await;
        let error = refused.unwrap_err();
        assert!(
            error.contains("worker has ended while it looked at it, though"),
            "{error}"
        );
    }
    let native = while_workers_die(
        &daemon,
        &runtime,
        pod(&[("wasm.noderesource.dev/pod", "handler: none")]),
        "/app.wasm",
    );
    assert_eq!(native.await, Ok(false));
    assert!(daemon.metric("podwasm_workers_total") >= 5);
    assert_eq!(
        daemon.metric("podwasm_unanswered_total{answer=\"error\",why=\"died\"}"),
        2
    );
    assert_eq!(
        daemon.metric("podwasm_decisions_total{outcome=\"unobserved\"}"),
        2
    );
    assert_eq!(
        daemon.metric("podwasm_nri_connections_total"),
        1,
        "it stays connected"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_under_way_is_taken_over_by_the_next_worker() {
    let daemon = Daemon::start();
    let runtime = daemon.admit().await;
    let worker = daemon.two_workers(None).await[0];
    let create = runtime.create_container(pod(&[]), container("/app.wasm"));
    let kill = async {
        sleep(Duration::from_millis(20)).await;
        kill_process(worker, Signal::KILL).unwrap();
    };
    let (answer, ()) = tokio::join!(create, kill);
    // containerd never answers, so a worker has to say in the end that it could not look.
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("though its entrypoint is named"), "{error}");
    assert_eq!(daemon.metric("podwasm_decisions_total{outcome=\"refused\"}"), 1);
    assert_eq!(daemon.metric("podwasm_refusals_total{reason=\"unreadable\"}"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_hangs_is_late_and_then_replaced() {
    let daemon = Daemon::start();
    let runtime = daemon.admit().await;
    let worker = daemon.two_workers(None).await[0];
    kill_process(worker, Signal::STOP).unwrap();
    let started = Instant::now();
    let native = runtime.create_container(pod(&[]), container("/bin/sh")).await;
    assert!(native.unwrap().adjust.is_none());
    let wasm = runtime.create_container(pod(&[]), container("/app.wasm")).await;
    let error = wasm.unwrap_err().to_string();
    assert!(error.contains("did not answer in time, though"), "{error}");
    assert!(started.elapsed() < IN_GOOD_TIME * 2, "{:?}", started.elapsed());
    daemon.two_workers(Some(worker)).await;
    daemon.wait_log("the worker hangs; it is replaced", 1).await;
}

/// The scheduling policy of a process's first thread, as proc(5) numbers it.
fn scheduling_policy(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(38).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_front_comes_before_all_else_and_its_workers_do_not() {
    const REAL_TIME: u32 = 2;
    let daemon = Daemon::start_with(|_, command| _ = command.env("RUST_LOG", "debug"));
    let _runtime = daemon.admit().await;
    // Whoever runs this may not be allowed to, which is said.
    let was_refused = daemon.log().contains("answers may come late");
    let is_first = scheduling_policy(daemon.child.id()) == REAL_TIME;
    assert!(is_first != was_refused, "{}", daemon.log());
    for worker in daemon.two_workers(None).await {
        let worker = u32::try_from(worker.as_raw_nonzero().get()).unwrap();
        assert_eq!(scheduling_policy(worker), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_does_not_hold_up_the_front() {
    let daemon = Daemon::start();
    let runtime = daemon.admit().await;
    let until = Instant::now() + Duration::from_secs(4);
    let kill = async {
        while Instant::now() < until {
            for worker in daemon.workers() {
                let _ = kill_process(worker, Signal::KILL); // it may have ended by itself
            }
            sleep(Duration::from_millis(15)).await;
        }
    };
    let create = async {
        let (mut count, mut longest) = (0, Duration::ZERO);
        while Instant::now() < until {
            let started = Instant::now();
            let native = runtime.create_container(pod(&[]), container("/bin/sh")).await;
            native.unwrap();
            longest = longest.max(started.elapsed());
            count += 1;
        }
        (count, longest)
    };
    let ((), (count, longest)) = tokio::join!(kill, create);
    assert!(
        count > 4 && longest < IN_GOOD_TIME,
        "{count} creates, {longest:?}"
    );
    let workers = daemon.log().matches("worker has ended").count()
        + daemon.log().matches("worker that waited has ended").count();
    assert!(
        (10..60).contains(&workers),
        "{workers} workers in 4 s\n{}",
        daemon.log()
    );
    // And all is well again.
    daemon.two_workers(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronize_of_a_thousand_pods_is_answered_at_once() {
    let daemon = Daemon::start();
    let part = |number: usize| {
        let pod = PodSandbox {
            id: format!("pod-{number}"),
            name: "x".repeat(4000),
            ..PodSandbox::default()
        };
        let container = Container {
            id: format!("c-{number}"),
            pod_sandbox_id: pod.id.clone(),
            env: vec![format!("BIG={}", "y".repeat(4000))],
            ..Container::default()
        };
        (pod, container)
    };
    let runtime = daemon.fake.accept().await.unwrap();
    runtime.register().await.unwrap();
    runtime.configure().await.unwrap();
    let started = Instant::now();
    for message in 0..4 {
        let (pods, containers) = (message * 250..(message + 1) * 250).map(part).unzip();
        let request = SynchronizeRequest {
            pods,
            containers,
            more: message < 3,
        };
        let answer: SynchronizeResponse = runtime.call("Synchronize", &request).await.unwrap();
        assert_eq!(answer.more, message < 3);
    }
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    daemon.wait_log("pods=1000 containers=1000", 1).await;
    let native = runtime.create_container(pod(&[]), container("/bin/sh")).await;
    native.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_worker_outlives_the_front() {
    for signal in [Signal::TERM, Signal::KILL] {
        let mut daemon = Daemon::start();
        let _runtime = daemon.admit().await;
        let workers = daemon.two_workers(None).await;
        let front = Pid::from_raw(i32::try_from(daemon.child.id()).unwrap()).unwrap();
        kill_process(front, signal).unwrap();
        let status = daemon.child.wait().unwrap();
        assert_eq!(status.success(), signal == Signal::TERM, "{}", daemon.log());
        daemon
            .wait("no worker is left", || {
                workers.iter().all(|worker| !is_alive(*worker))
            })
            .await;
    }
}

fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(PathBuf::from(format!("/proc/{}/stat", pid.as_raw_nonzero())));
    test_kill_process(pid).is_ok() && stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether a process has handlers for SIGTERM and SIGINT.
fn heeds_signals(process: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
    [Signal::TERM, Signal::INT]
        .iter()
        .all(|signal| caught & (1 << (signal.as_raw() - 1)) != 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_to_all_processes_is_left_to_the_front() {
    let daemon = Daemon::start();
    let runtime = daemon.admit().await;
    let workers = daemon.two_workers(None).await;
    // A signal that comes before a process has said what it does with it ends any process.
    daemon
        .wait("both heed signals", || {
            workers.iter().all(|worker| heeds_signals(*worker))
        })
        .await;
    for worker in &workers {
        kill_process(*worker, Signal::TERM).unwrap();
        kill_process(*worker, Signal::INT).unwrap();
    }
    let native = runtime.create_container(pod(&[]), container("/bin/sh")).await;
    native.unwrap();
    assert_eq!(daemon.workers(), workers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_has_gone_bad_does_not_hold_up_the_next_worker() {
    let daemon = Daemon::start_with(|dir, command| {
        fs::write(dir.join("policy.yaml"), "sockets: false").unwrap();
        command.arg("--config").arg(dir.join("policy.yaml"));
    });
    let _runtime = daemon.admit().await;
    let workers = daemon.two_workers(None).await;
    fs::write(daemon.dir.path().join("policy.yaml"), "sockets: perhaps").unwrap();
    kill_process(workers[0], Signal::KILL).unwrap();
    daemon.wait_log("a worker is at work", 2).await;
    daemon.wait_log("the old one stays in force", 1).await;
    daemon.two_workers(Some(workers[0])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_worker_that_cannot_begin_ends_the_daemon() {
    let mut daemon = Daemon::start_with(|dir, command| {
        fs::write(dir.join("policy.yaml"), "sockets: perhaps").unwrap();
        command.arg("--config").arg(dir.join("policy.yaml"));
    });
    let status = daemon.child.wait().unwrap();
    assert!(!status.success());
    let log = daemon.log();
    assert!(
        log.contains("policy.yaml") && log.contains("the worker could not begin its work"),
        "{log}"
    );
}
