//! Looks at podwasm's own parts, and tries engine and compiler.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser as _;
use rustix::fs::{StatVfsMountFlags, statvfs};
use sha2::{Digest as _, Sha256};

use super::modules::{SAYS, TRAPS};
use super::process::{self, Process};
use super::trial::{self, Subject};
use super::{in_thread, kernel};
use crate::cache::files::{Files, sha256_of};
use crate::compile::child::{Program, Run as Compilation};
use crate::compile::limits::limits;
use crate::compiled::Tier;
use crate::doctor::facts::{
    Compiler, Daemon, Engine, Learnt, PolicyFile, PolicyProblem, State, StateFolder, Trial,
};
use crate::flags::{Command, Flags, Run};
use crate::policy::Policy;
use crate::{compile, daemon, policy_file};

/// How long an endpoint on this machine may take.
const HTTP_PATIENCE: Duration = Duration::from_secs(3);
const MAX_HTTP_BYTES: u64 = 1 << 20;
/// How long is spent on reading the cache.
const READING: Duration = Duration::from_secs(10);
/// The user that the compiler is tried as; no node has it otherwise, and the daemon's begin below.
const TRIAL_USER: u32 = 2_000_070_000;
/// Links in a bundle are made by nobody; deeper than this it is no bundle.
const MAX_DEPTH: usize = 8;

/// The running daemons, with the flags that they were started with.
pub fn running(processes: &[Process]) -> Vec<(Process, Run)> {
    let is_daemon =
        |process: &&Process| process.program() == "podwasm" && process.args.iter().any(|arg| arg == "run");
    let daemons: Vec<_> = processes.iter().filter(is_daemon).collect();
    let is_child = |process: &Process| daemons.iter().any(|other| other.pid == process.parent);
    let first = daemons.iter().filter(|process| !is_child(process));
    first
        .filter_map(|process| Some(((*process).clone(), flags(process)?)))
        .collect()
}

/// A daemon of another version may have flags that this one does not know: then the usual ones are taken.
fn flags(process: &Process) -> Option<Run> {
    let parse = |args: &[String]| match Flags::try_parse_from(args).ok()?.command {
        Command::Run(run) => Some(run),
        _ => None,
    };
    parse(&process.args).or_else(|| parse(&["podwasm", "run"].map(str::to_owned)))
}

/// Asks one daemon.
pub fn ask(process: &Process, http: SocketAddr) -> Daemon {
    let mut daemon = Daemon {
        http: http.to_string(),
        pid: process.pid,
        ..Daemon::default()
    };
    daemon.ready = get(&process.network(), http, "/readyz");
    let metrics = get(&process.network(), http, "/metrics").and_then(Result::ok);
    let metrics = metrics.unwrap_or_default();
    let info = metrics
        .lines()
        .find(|line| line.starts_with("podwasm_build_info{"))
        .unwrap_or_default();
    daemon.version = label(info, "version");
    daemon.engine = label(info, "engine");
    let unobserved = "podwasm_decisions_total{outcome=\"unobserved\"} ";
    let unobserved = metrics
        .lines()
        .find_map(|line| line.strip_prefix(unobserved)?.trim().parse().ok());
    daemon.unobserved = unobserved.unwrap_or(0);
    daemon
}

fn label(line: &str, name: &str) -> String {
    let value = line
        .split_once(&format!("{name}=\""))
        .and_then(|(_, rest)| rest.split_once('"'));
    value.map(|(value, _)| value.to_owned()).unwrap_or_default()
}

/// The body of an answer, whatever its status, from an address in a network namespace; `None` where that cannot be entered.
pub fn get(network: &Path, address: SocketAddr, path: &str) -> Option<Learnt<String>> {
    let (network, path) = (network.to_owned(), path.to_owned());
    // The thread ends here, and with it its stay in that namespace.
    let thread = std::thread::spawn(move || {
        let is_own = fs::read_link("/proc/thread-self/ns/net").ok() == fs::read_link(&network).ok();
        if !is_own {
            kernel::enter_network(&network).ok()?;
        }
        // What listens on all addresses is asked on this one.
        let address = if address.ip().is_unspecified() {
            SocketAddr::from(([127, 0, 0, 1], address.port()))
        } else {
            address
        };
        Some(ask_http(address, &path).map_err(|error| error.to_string()))
    });
    let panicked = |_| Some(Err("the thread that asked has panicked".to_owned()));
    thread.join().unwrap_or_else(panicked)
}

fn ask_http(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, HTTP_PATIENCE)?;
    stream.set_read_timeout(Some(HTTP_PATIENCE))?;
    stream.set_write_timeout(Some(HTTP_PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(MAX_HTTP_BYTES).read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| io::Error::other("what answers there does not speak HTTP"))
}

/// The engine and the compiler, looked at and tried.
pub async fn engine_and_compiler(bundle: &Path, compiler: &Path) -> (Engine, Compiler) {
    let version = match daemon::missing_part(bundle) {
        Some(part) => Err(format!("{} is missing", part.display())),
        None => daemon::engine_version(bundle).map_err(|error| format!("{error:#}")),
    };
    let (compiler, native) = try_compiler(compiler, version.as_deref().unwrap_or_default()).await;
    let mut engine = Engine {
        folder: bundle.to_owned(),
        is_whole: None,
        noexec: has_flag(bundle, StatVfsMountFlags::NOEXEC),
        ran: not_tried(),
        trapped: not_tried(),
        native: not_tried(),
        version,
    };
    if let Ok(version) = &engine.version {
        let (folder, version) = (bundle.to_owned(), version.clone());
        engine.is_whole = in_thread(move || is_whole(&folder, &version))
            .await
            .ok()
            .and_then(Result::ok);
        try_engine(&mut engine, native).await;
    }
    (engine, compiler)
}

fn not_tried() -> Trial {
    Trial::NotTried("it was not tried".to_owned())
}

async fn try_engine(engine: &mut Engine, native: Option<Native>) {
    let subject = |module, native| Subject {
        bundle: engine.folder.clone(),
        module,
        native,
    };
    let run = async |subject: Subject| {
        // Removed out here: from where it runs there is no way back to it.
        let folder = match tempfile::Builder::new().prefix("podwasm-doctor-").tempdir() {
            Ok(folder) => folder,
            Err(error) => {
                return Trial::NotTried(format!("there is no room for a temporary folder: {error}"));
            }
        };
        let root = folder.path().to_owned();
        let ran = in_thread(move || trial::run(&root, &subject)).await;
        ran.unwrap_or_else(Trial::Unstartable)
    };
    engine.ran = run(subject(SAYS, None)).await;
    engine.trapped = run(subject(TRAPS, None)).await;
    if let Some(native) = native {
        engine.native = run(subject(SAYS, Some((native.file.path().to_owned(), native.build)))).await;
    }
}

fn has_flag(folder: &Path, flag: StatVfsMountFlags) -> bool {
    statvfs(folder).is_ok_and(|about| about.f_flag.contains(flag))
}

/// Whether a bundle's files are those that its version was made of (`engine/bundle/assemble.sh`). Copying may have changed what may be
/// executed, so their permissions as they were built count as well.
fn is_whole(bundle: &Path, version: &str) -> io::Result<bool> {
    let mut files = Vec::new();
    list(bundle, bundle, 0, &mut files)?;
    files.sort();
    let mut sums = String::new();
    for name in &files {
        let sum = sha256_of(&File::open(bundle.join(name))?)?;
        sums.extend([sum.as_str(), "  ./", name, "\n"]);
    }
    let actual = |name: &str| Ok(fs::metadata(bundle.join(name))?.permissions().mode() & 0o7777);
    let built = |name: &str| Ok(built_mode(name));
    for mode in [&built as &dyn Fn(&str) -> io::Result<u32>, &actual] {
        let mut text = String::new();
        for name in &files {
            let mode = format!("{:o}", mode(name)?);
            text.extend([mode.as_str(), " ./", name, "\n"]);
        }
        let hash = format!("{:x}", Sha256::digest(text + &sums));
        if hash.starts_with(version) && !version.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn built_mode(name: &str) -> u32 {
    let file = name.rsplit('/').next().unwrap_or(name);
    if file.contains(".so") && !file.starts_with("ld-linux") {
        0o644
    } else {
        0o755
    }
}

/// The names of all files but the version's, which was written last.
fn list(root: &Path, folder: &Path, depth: usize, files: &mut Vec<String>) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("the bundle is too deep"));
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            list(root, &path, depth + 1, files)?;
        } else {
            let name = path.strip_prefix(root).map_err(io::Error::other)?;
            files.push(name.to_string_lossy().into_owned());
        }
    }
    files.retain(|name| name != "VERSION");
    Ok(())
}

/// Native code that was made here; its file is gone with it.
struct Native {
    build: String,
    file: tempfile::NamedTempFile,
}

async fn try_compiler(folder: &Path, engine: &str) -> (Compiler, Option<Native>) {
    let mut compiler = Compiler {
        folder: folder.to_owned(),
        build: Err(String::new()),
        compiled: Err("it was not tried".to_owned()),
    };
    let program = match compile::find(folder, engine).await {
        Ok((program, build)) => {
            compiler.build = Ok(build);
            program
        }
        Err(why) => {
            compiler.build = Err(why);
            return (compiler, None);
        }
    };
    let tried = in_thread(move || compile_one(&program))
        .await
        .and_then(|done| done);
    let Ok((file, said)) = tried else {
        compiler.compiled = tried.map(|(_, said)| said);
        return (compiler, None);
    };
    compiler.compiled = Ok(said);
    let build = compiler.build.clone().unwrap_or_default();
    (compiler, Some(Native { build, file }))
}

/// Has a module compiled in the confinement that strangers' modules get.
fn compile_one(program: &Program) -> Learnt<(tempfile::NamedTempFile, String)> {
    let failed = |error: io::Error| format!("there is no room to try it: {error}");
    let folder = tempfile::Builder::new()
        .prefix("podwasm-doctor-")
        .tempdir()
        .map_err(failed)?;
    let module = folder.path().join("module.wasm");
    fs::write(&module, SAYS).map_err(failed)?;
    let run = Compilation {
        folder: &folder.path().join("compiling"),
        limits: limits(&crate::policy::Compile::default(), Tier::Fast, SAYS.len() as u64),
        module: File::open(&module).map_err(failed)?,
        program,
        proposals: &[],
        tier: Tier::Fast,
        user: rustix::process::geteuid().is_root().then_some(TRIAL_USER),
    };
    let mut output = run.run().map_err(|error| with_cause(&error))?;
    let mut file = tempfile::Builder::new()
        .prefix("podwasm-doctor-")
        .tempfile()
        .map_err(failed)?;
    io::copy(&mut output.file, file.as_file_mut()).map_err(failed)?;
    Ok((file, output.said))
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The state folder, and whether what is in the cache is what was put there.
pub async fn state(folder: &Path) -> State {
    let found = {
        let folder = folder.to_owned();
        in_thread(move || look(&folder)).await
    };
    let found = match found {
        Ok(Ok(found)) => Some(Ok(found)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Ok(Err(error)) => Some(Err(error.to_string())),
        Err(why) => Some(Err(why)),
    };
    State {
        folder: folder.to_owned(),
        found,
    }
}

fn look(folder: &Path) -> io::Result<StateFolder> {
    let about = fs::metadata(folder)?;
    let disk = statvfs(folder)?;
    let mut found = StateFolder {
        owner: about.uid(),
        mode: about.permissions().mode() & 0o7777,
        noexec: disk.f_flag.contains(StatVfsMountFlags::NOEXEC),
        free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        ..StateFolder::default()
    };
    if rustix::process::geteuid().is_root() {
        // A file without a name: nothing stays, whatever happens to this process.
        let written = tempfile::tempfile_in(folder).and_then(|mut file| file.write_all(&[0; 4096]));
        found.write = Some(written.map_err(|error| error.to_string()));
    }
    read_cache(folder, &mut found)?;
    Ok(found)
}

fn read_cache(folder: &Path, found: &mut StateFolder) -> io::Result<()> {
    let files = Files::at(folder);
    if !folder.join("modules").exists() {
        return Ok(());
    }
    let deadline = Instant::now() + READING;
    for shelf in files.shelves()? {
        found.modules += 1;
        found.used_bytes += shelf.bytes();
        let short = &shelf.digest[..12];
        if Instant::now() >= deadline {
            found.unread += 1 + shelf.natives.len();
            continue;
        }
        let module = File::open(files.module(&shelf.digest));
        if module.is_ok_and(|module| sha256_of(&module).is_ok_and(|sum| sum != shelf.digest)) {
            found.damaged.push(format!("module {short}"));
        }
        for native in &shelf.natives {
            // What is removed meanwhile is not damaged.
            if matches!(files.is_genuine(&shelf.digest, native), Ok(false)) && native.path.exists() {
                found
                    .damaged
                    .push(format!("{} native code of module {short}", native.tier));
            }
        }
    }
    Ok(())
}

/// The policy that the daemon follows, or would.
pub fn policy(named: Option<PathBuf>, idx: &str, name: &str) -> PolicyFile {
    let path = policy_file::find(named, idx, name);
    let policy = match &path {
        None => Ok(Policy::default()),
        Some(path) => match fs::read_to_string(path) {
            Err(error) => Err(PolicyProblem::Missing(format!("{}: {error}", path.display()))),
            Ok(text) => Policy::parse(&text).map_err(|error| {
                let said = with_cause(&error);
                PolicyProblem::Invalid(format!("{}: {said}", path.display()))
            }),
        },
    };
    PolicyFile { path, policy }
}

/// What the exporter says of itself, if it runs.
pub fn exporter(processes: &[Process]) -> Option<Learnt<String>> {
    let exporter = processes
        .iter()
        .find(|process| process.program() == "podwasm-exporter")?;
    let http = exporter
        .flag(&["--http"])
        .unwrap_or_else(|| "127.0.0.1:9466".to_owned());
    match http.parse() {
        Ok(address) => get(&exporter.network(), address, "/readyz"),
        Err(_) => Some(Err(format!("it listens at {http:?}, which is no address"))),
    }
}

/// All processes, for those that look for some of them.
pub fn processes() -> Learnt<Vec<Process>> {
    process::all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(args: &[&str], pid: u32, parent: u32) -> Process {
        Process {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            pid,
            parent,
        }
    }

    #[test]
    fn daemons_are_found_with_their_flags_and_without_their_children() {
        let processes = [
            process(
                &["/opt/podwasm/bin/podwasm", "run", "--http", "127.0.0.1:1"],
                10,
                1,
            ),
            process(&["/opt/podwasm/bin/podwasm", "run", "--state", "/s"], 11, 10),
            process(&["podwasm", "doctor"], 12, 1),
            process(&["podwasm", "run", "--flag-of-another-version"], 14, 1),
            process(&["podwasm-exporter", "run"], 13, 1),
        ];
        let found = running(&processes);
        let ports: Vec<_> = found
            .iter()
            .map(|(process, run)| (process.pid, run.http.port()))
            .collect();
        assert_eq!(ports, [(10, 1), (14, 9465)]);
    }

    #[test]
    fn a_bundle_is_whole_until_a_file_changes() {
        let bundle = tempfile::tempdir().unwrap();
        fs::create_dir(bundle.path().join("lib")).unwrap();
        for (name, mode) in [("engine", 0o755), ("lib/libc.so.6", 0o644)] {
            fs::write(bundle.path().join(name), name).unwrap();
            fs::set_permissions(bundle.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let sum = |text: &str| format!("{:x}", Sha256::digest(text));
        let text = format!(
            "755 ./engine\n644 ./lib/libc.so.6\n{}  ./engine\n{}  ./lib/libc.so.6\n",
            sum("engine"),
            sum("lib/libc.so.6")
        );
        let version = &sum(&text)[..32];
        fs::write(bundle.path().join("VERSION"), version).unwrap();
        assert!(is_whole(bundle.path(), version).unwrap());
        // As a copy under another umask has it.
        fs::set_permissions(bundle.path().join("engine"), fs::Permissions::from_mode(0o555)).unwrap();
        assert!(is_whole(bundle.path(), version).unwrap());
        fs::write(bundle.path().join("lib/libc.so.6"), "cut").unwrap();
        assert!(!is_whole(bundle.path(), version).unwrap());
        assert!(!is_whole(bundle.path(), "").unwrap());
    }

    #[test]
    fn metrics_name_versions() {
        let line = "podwasm_build_info{version=\"0.1.0\",engine=\"e1\"} 1";
        assert_eq!(
            (label(line, "version"), label(line, "engine")),
            ("0.1.0".to_owned(), "e1".to_owned())
        );
        assert_eq!(label("", "version"), "");
    }

    #[test]
    fn policies_are_read_with_what_is_wrong_with_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "\nsocket: true\n").unwrap();
        let found = policy(Some(file.path().to_owned()), "10", "podwasm");
        let Err(PolicyProblem::Invalid(why)) = found.policy else {
            panic!("{:?}", found.policy)
        };
        assert!(
            why.contains("socket") && why.contains(&*file.path().to_string_lossy()),
            "{why}"
        );
        let missing = policy(Some("/no/such/file".into()), "10", "podwasm");
        assert!(matches!(missing.policy, Err(PolicyProblem::Missing(_))));
    }
}
