//! What compilers do to the node, shown with stand-ins: shell scripts where a bundle has its loader.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::child::{Error, Output, Program, Run};
use super::job::{Done, Workshop, user};
use super::limits::Limits;
use super::queue::{Key, Need};
use super::{Compiler, build};
use crate::cache::Cache;
use crate::compiled::{Compiled, Tier};
use crate::metrics::Recorder;
use crate::policy::Policy;
use crate::store::{Kept, Module, Store};

const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const BUILD: &str = "0123456789abcdef";
/// The header of a library for this CPU, and some more.
#[cfg(target_arch = "x86_64")]
const LIBRARY: &str =
    r"printf '\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\3\0\76\0' > module.so; head -c 100 /dev/zero >> module.so";
#[cfg(target_arch = "aarch64")]
const LIBRARY: &str =
    r"printf '\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\3\0\267\0' > module.so; head -c 100 /dev/zero >> module.so";

/// A bundle in a folder that compilers' users can reach.
struct Bench {
    folder: tempfile::TempDir,
    program: Program,
}

impl Bench {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let bundle = folder.path().join("compiler");
        fs::create_dir_all(bundle.join("lib")).unwrap();
        for file in ["compile", "VERSION"] {
            fs::write(bundle.join(file), "1\n").unwrap();
        }
        let bench = Self {
            folder,
            program: Program { folder: bundle },
        };
        bench.becomes(script);
        bench
    }

    /// Replaces the compiler. Its first arguments are the loader's, so the tier is the sixth.
    fn becomes(&self, script: &str) {
        let loader = self.program.command().get_program().to_owned();
        fs::write(&loader, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&loader, Permissions::from_mode(0o755)).unwrap();
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn run(&self, change: impl FnOnce(&mut Limits)) -> Result<Output, Error> {
        let mut limits = Limits {
            address_space_bytes: 1 << 30,
            cpu_seconds: 20,
            idle: true,
            nice: 7,
            output_bytes: 1 << 20,
            wall: Duration::from_secs(20),
        };
        change(&mut limits);
        let module = self.folder.path().join("module.wasm");
        fs::write(&module, MODULE).unwrap();
        let work = self.work();
        let _ = fs::remove_dir_all(&work);
        let run = Run {
            folder: &work,
            limits,
            module: fs::File::open(module).unwrap(),
            program: &self.program,
            proposals: &[],
            tier: Tier::Fast,
            user: user(),
        };
        run.run()
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn workshop(&self) -> Workshop {
        Workshop {
            cache: Cache::open(&self.state(), Some(BUILD.to_owned())).unwrap(),
            program: self.program.clone(),
        }
    }

    fn compiler(&self, policy: Policy) -> (Compiler, Store) {
        let cache = self.workshop().cache;
        let store = Store::new(cache.clone(), 1 << 20);
        let policy = Arc::new(watch::Sender::new(Arc::new(policy)));
        let recorder = Recorder::new(drop);
        (
            Compiler::new(cache, Ok(self.program.clone()), policy, recorder),
            store,
        )
    }
}

fn keep(store: &Store, bytes: &[u8]) -> Module {
    match store.keep(bytes).unwrap() {
        Kept::Module(module) => module,
        Kept::NotAModule(kind) => panic!("{kind:?}"),
    }
}

/// A module of another hash for each name.
fn named(name: &str) -> Vec<u8> {
    let mut module = MODULE.to_vec();
    module.extend([
        0,
        u8::try_from(name.len() + 1).unwrap(),
        u8::try_from(name.len()).unwrap(),
    ]);
    module.extend(name.as_bytes());
    module
}

/// What the compiler says as it refuses.
fn said(script: &str) -> String {
    match Bench::new(&format!("{script}; exit 1")).run(|_| ()) {
        Err(Error::Refused(said)) => said,
        other => panic!("{other:?}"),
    }
}

#[test]
fn native_code_is_taken() {
    let bench = Bench::new(&format!(r#"[ "$*" ] && [ "$(wc -c)" = 8 ] && {LIBRARY}"#));
    let output = bench.run(|_| ()).unwrap();
    assert_eq!(output.file.metadata().unwrap().len(), 120);
    assert!(output.peak_bytes > 100_000, "{}", output.peak_bytes);
}

#[test]
fn a_compiler_has_nothing_but_what_it_needs() {
    let arguments = said("echo $4 $5 $6 $7 >&2");
    assert!(arguments.ends_with("/compile --tier fast"), "{arguments}");
    // The shell sets some itself.
    assert_eq!(said("env | grep -c -v -E '^(PWD|SHLVL|_|OLDPWD)=' >&2"), "0");
    let inherited = fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
    let (opened_by_ls, streams) = (3, "0 1 2");
    assert_eq!(
        said("echo $(ls /proc/self/fd) >&2"),
        format!("{streams} {opened_by_ls}")
    );
    assert_eq!(said("echo $(ls -A | wc -l) $(stat -c %a .) >&2"), "0 700");
    // What is started nicely by itself is seven steps nicer, as far as the kernel's steps go.
    let nice = (rustix::process::getpriority_process(None).unwrap() + 7).min(19);
    assert_eq!(
        said("echo $(ulimit -v) $(ulimit -t) $(ulimit -f) $(ulimit -c) $(ulimit -n) $(nice) >&2"),
        format!("1048576 20 2048 0 64 {nice}")
    );
    assert_eq!(said("grep NoNewPrivs /proc/self/status >&2"), "NoNewPrivs:1");
    assert_eq!(
        said("cut -d' ' -f6 /proc/$$/stat | grep -qx $$ && echo own session >&2"),
        "own session"
    );
}

#[test]
fn a_compiler_of_root_is_nobody_else() {
    if !rustix::process::geteuid().is_root() {
        return assert_eq!(user(), None, "there is nobody else to be");
    }
    let ids = said("echo $(id -u) $(id -g) $(id -G) >&2");
    let ids: Vec<u32> = ids.split(' ').map(|id| id.parse().unwrap()).collect();
    assert!(
        ids[0] >= 2_000_000_000 && ids.len() == 3 && ids.iter().all(|id| *id == ids[0]),
        "{ids:?}"
    );
    assert_eq!(
        said("grep CapEff /proc/self/status >&2"),
        "CapEff:0000000000000000"
    );
    assert_eq!(said("cat /etc/shadow 2>/dev/null || echo denied >&2"), "denied");
    assert_eq!(said("sleep 0.3; echo $(cat /proc/$$/oom_score_adj) >&2"), "1000");
    let once = said("id -u >&2");
    assert_ne!(once, said("id -u >&2"), "each is somebody else");
}

#[test]
fn what_does_not_end_is_ended_with_all_it_started() {
    let bench = Bench::new("sleep 1000 & echo $! > pid; wait");
    let started = Instant::now();
    let ended = bench.run(|limits| limits.wall = Duration::from_millis(500));
    assert!(matches!(ended, Err(Error::Hung(_))), "{ended:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
    let pid = fs::read_to_string(bench.work().join("pid")).unwrap();
    let status = || fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
    while !(status().is_empty() || status().contains("State:\tZ")) {
        assert!(started.elapsed() < Duration::from_secs(10), "{}", status());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn crashes_and_limits_are_told_apart() {
    let check = |script: &str, change: fn(&mut Limits), expected: &str| {
        let error = Bench::new(script).run(change).unwrap_err();
        assert_eq!(error.to_string(), expected, "{script}");
        assert_eq!(
            error.is_lasting(),
            expected != "the compiler was killed",
            "{script}"
        );
    };
    check("kill -SEGV $$", |_| (), "the compiler crashed with signal 11");
    check("kill -KILL $$", |_| (), "the compiler was killed");
    check(
        "while :; do :; done",
        |limits| limits.cpu_seconds = 1,
        "the compiler took more than 1 s of CPU time",
    );
    check("exit 3", |_| (), "the compiler ended with exit code 3");
    check(
        "echo >&2; echo 'too deep' >&2; echo more >&2; exit 1",
        |_| (),
        "too deep",
    );
    check("printf 'a\\033[31mb\\n' >&2; exit 1", |_| (), "a[31mb");
    check("exec 2>&-; exit 4", |_| (), "the compiler ended with exit code 4");
    check("yes | head -c 10000000 >&2; exit 1", |_| (), "y");
    let endless = "exec head -c 3000000 /dev/zero > module.so";
    check(
        endless,
        |_| (),
        "the compiler left a file larger than it may write",
    );
}

#[test]
fn what_is_no_native_code_is_not_taken() {
    let check = |script: &str, expected: &str| {
        let error = Bench::new(script).run(|_| ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the compiler left {expected}"),
            "{script}"
        );
        assert!(error.is_lasting());
    };
    let odd = "something that is no regular file of its own";
    check(":", "nothing");
    check("ln -s /etc/passwd module.so", "a link");
    check("ln -s module.so module.so", "a link");
    check("mkfifo module.so", odd);
    check("mkdir module.so", odd);
    check(&format!("{LIBRARY}; ln module.so other.so"), odd);
    check(": > module.so", "a file that is cut off");
    check(
        "head -c 100 /dev/zero > module.so",
        "a file that is no library for this CPU",
    );
    check(
        "head -c 5000 /bin/sh > module.so; printf '\\2' | dd of=module.so bs=1 seek=16 conv=notrunc status=none",
        "a file that is no library for this CPU",
    );
}

#[test]
fn a_sparse_file_is_not_taken_for_a_small_one() {
    let bench = Bench::new(&format!("{LIBRARY}; truncate -s 1000000 module.so"));
    assert!(bench.run(|_| ()).is_ok());
    let error = bench.run(|limits| limits.output_bytes = 900_000).unwrap_err();
    assert!(error.is_lasting(), "{error}");
}

fn key(module: &Module, tier: Tier) -> Key {
    Key {
        digest: module.digest.clone(),
        tier,
    }
}

fn work(workshop: &Workshop, module: &Module, tier: Tier) -> Done {
    workshop.work(&key(module, tier), &Policy::default())
}

fn native(module: &Module, tier: Tier) -> PathBuf {
    module.folder.join(format!("{BUILD}-{tier}.so"))
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn native_code_lies_beside_its_module() {
    let bench = Bench::new(LIBRARY);
    let workshop = bench.workshop();
    let module = keep(&Store::new(workshop.cache.clone(), 100), MODULE);
    let done = work(&workshop, &module, Tier::Fast);
    assert!(matches!(done, Done::Compiled { bytes: 120, .. }), "{done:?}");
    let file = fs::metadata(native(&module, Tier::Fast)).unwrap();
    assert_eq!((file.len(), file.permissions().mode() & 0o777), (120, 0o444));
    assert!(is_empty(&bench.state().join("compiling")) && is_empty(&bench.state().join("incoming")));
    let record = workshop
        .cache
        .files()
        .attempt(&module.digest, BUILD, Tier::Fast)
        .unwrap();
    let text = serde_json::to_string(&record).unwrap();
    assert!(
        text.contains(r#""outcome":"compiled""#) && text.contains(r#""bytes":120"#),
        "{text}"
    );
    assert!(matches!(work(&workshop, &module, Tier::Fast), Done::Already));
    assert!(!native(&module, Tier::Optimised).exists());
}

#[test]
fn a_failure_is_remembered_and_can_be_forgotten() {
    let bench = Bench::new("echo no such luck >&2; exit 1");
    let workshop = bench.workshop();
    let module = keep(&Store::new(workshop.cache.clone(), 100), MODULE);
    assert!(matches!(
        work(&workshop, &module, Tier::Fast),
        Done::Failed { is_lasting: true, .. }
    ));
    let marker = module.folder.join(format!("{BUILD}-failed"));
    assert!(marker.exists(), "engines that wait are told");
    assert_eq!(workshop.cache.missing(&module.digest).0, []);

    let again = bench.workshop().cache;
    again.sync().unwrap();
    let why = "no such luck".to_owned();
    assert_eq!(again.hand_out(&module.digest, ""), Compiled::Failed { why });
    again.files().forget(&module.digest, BUILD, Tier::Fast).unwrap();
    again.sync().unwrap();
    assert_eq!(again.missing(&module.digest).0, Tier::ALL);
    assert!(!marker.exists());
}

#[test]
fn what_the_node_cannot_do_now_is_not_remembered() {
    let bench = Bench::new(LIBRARY);
    let workshop = bench.workshop();
    let module = keep(&Store::new(workshop.cache.clone(), 100), MODULE);
    fs::remove_file(workshop.program.command().get_program()).unwrap();
    let done = work(&workshop, &module, Tier::Fast);
    let Done::Failed {
        is_lasting: false,
        reason,
        ..
    } = done
    else {
        panic!("{done:?}")
    };
    assert!(
        reason.starts_with("cannot start the compiler: No such file"),
        "{reason}"
    );
    assert!(matches!(
        workshop.cache.hand_out(&module.digest, ""),
        Compiled::Failed { .. }
    ));
    assert!(
        workshop
            .cache
            .files()
            .attempt(&module.digest, BUILD, Tier::Fast)
            .is_none()
    );
    assert!(!module.folder.join(format!("{BUILD}-failed")).exists());
}

#[test]
fn a_module_that_changed_is_not_compiled() {
    let bench = Bench::new(LIBRARY);
    let workshop = bench.workshop();
    let module = keep(&Store::new(workshop.cache.clone(), 100), MODULE);
    let file = module.folder.join("module.wasm");
    fs::remove_file(&file).unwrap();
    fs::write(&file, b"\0asm\x01\0\0\x01").unwrap();
    assert!(matches!(work(&workshop, &module, Tier::Fast), Done::Gone));
    assert!(!module.is_there(), "so that it is copied again");
    assert_eq!(workshop.cache.hand_out(&module.digest, ""), Compiled::Evicted);
    assert!(matches!(work(&workshop, &module, Tier::Fast), Done::Gone));
}

#[test]
fn two_processes_do_not_compile_the_same() {
    let bench = Bench::new(LIBRARY);
    let workshop = bench.workshop();
    let module = keep(&Store::new(workshop.cache.clone(), 100), MODULE);
    let lock = workshop
        .cache
        .files()
        .try_lock(&module.digest, Tier::Fast)
        .unwrap();
    assert!(lock.is_some());
    assert!(matches!(work(&workshop, &module, Tier::Fast), Done::Elsewhere));
    assert!(matches!(
        work(&workshop, &module, Tier::Optimised),
        Done::Compiled { .. }
    ));
    drop(lock);
    assert!(matches!(
        work(&workshop, &module, Tier::Fast),
        Done::Compiled { .. }
    ));
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: still not");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_is_wanted_is_made_and_handed_out() {
    let bench = Bench::new(LIBRARY);
    let (compiler, store) = bench.compiler(Policy::default());
    tokio::spawn(compiler.clone().work());
    let module = keep(&store, MODULE);
    let build = BUILD.to_owned();
    assert_eq!(compiler.hand_out(&module, "an/image"), Compiled::Coming { build });
    compiler.want(&module, Need::Waiting);
    let is = |tier| move |compiled| matches!(compiled, Compiled::Ready { tier: found, bytes: 120, .. } if found == tier);
    until("optimised", || {
        is(Tier::Optimised)(compiler.hand_out(&module, "an/image"))
    })
    .await;
    assert!(native(&module, Tier::Fast).exists());
    compiler.want(&module, Need::Waiting);
    assert_eq!(
        compiler.queue().waiting(Tier::Fast),
        0,
        "there is nothing left to be made"
    );
}

#[tokio::test]
async fn all_are_fast_before_any_is_optimised() {
    let bench = Bench::new(LIBRARY);
    let order = bench.folder.path().join("order");
    fs::write(&order, "").unwrap();
    fs::set_permissions(&order, Permissions::from_mode(0o666)).unwrap();
    bench.becomes(&format!("echo $6 >> {}; {LIBRARY}", order.display()));
    let (compiler, store) = bench.compiler(Policy::default());
    let modules: Vec<_> = ["a", "b", "c"].map(|name| keep(&store, &named(name))).into();
    for module in &modules {
        compiler.want(module, Need::Arrived);
    }
    tokio::spawn(compiler.clone().work());
    let is_best = |module| {
        matches!(
            compiler.hand_out(module, ""),
            Compiled::Ready {
                tier: Tier::Optimised,
                ..
            }
        )
    };
    until("all", || modules.iter().all(is_best)).await;
    assert_eq!(
        fs::read_to_string(&order).unwrap(),
        "fast\nfast\nfast\noptimised\noptimised\noptimised\n"
    );
}

#[tokio::test]
async fn a_tier_can_be_left_out_and_so_can_both() {
    let bench = Bench::new(LIBRARY);
    let policy = |text| Policy::parse(text).unwrap();
    let (compiler, store) = bench.compiler(policy("compile: {optimised: {at_once: 0}}"));
    tokio::spawn(compiler.clone().work());
    let module = keep(&store, MODULE);
    compiler.want(&module, Need::Arrived);
    until("fast", || native(&module, Tier::Fast).exists()).await;
    assert_eq!(compiler.queue().waiting(Tier::Optimised), 0);

    let (compiler, store) = bench.compiler(policy("compile: {fast: {at_once: 0}, optimised: {at_once: 0}}"));
    let other = keep(&store, &named("other"));
    compiler.want(&other, Need::Waiting);
    let why = "this node's policy says that modules are not compiled".to_owned();
    assert_eq!(compiler.hand_out(&other, ""), Compiled::Off { why });
}

#[tokio::test]
async fn a_build_is_named_by_all_that_its_code_depends_on() {
    let bench = Bench::new("echo some-cpu +sse2");
    let name = async |engine| build(&bench.program, engine).await.unwrap();
    let first = name("engine 1").await;
    assert!(first.len() == 16 && first.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(first, name("engine 1").await);
    assert_ne!(first, name("engine 2").await);
    bench.becomes("echo some-cpu +avx2");
    assert_ne!(first, name("engine 1").await);
    bench.becomes("echo some-cpu +sse2");
    fs::write(bench.program.folder.join("VERSION"), "2\n").unwrap();
    assert_ne!(first, name("engine 1").await);

    let problem = async || format!("{:#}", build(&bench.program, "e").await.unwrap_err());
    bench.becomes("echo not on this machine >&2; exit 1");
    assert!(
        problem()
            .await
            .contains("cannot tell the CPU: exit status: 1: not on this machine"),
        "{}",
        problem().await
    );
    fs::remove_file(bench.program.folder.join("compile")).unwrap();
    assert!(problem().await.ends_with("compile is missing"));
}
