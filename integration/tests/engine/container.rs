//! A container without a container runtime: an empty root folder, the mounts that the plugin would ask for, own mount
//! and process namespaces, and the engine as the first process in them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use crate::compiler;

/// The entrypoint, as `args[0]` unless a test says otherwise.
pub const ENTRYPOINT: &str = "/app.wasm";

/// Runs in new namespaces: puts the mounts in place and goes into the root folder.
const SCRIPT: &str = r#"
    root=$1 bundle=$2 entry=$3 module=$4 plugins=$5 over=$6 mode=$7 limits=$8 redirect=$9
    shift 9
    mount --bind "$root" "$root"
    mount --bind "$bundle" "$root/.podwasm"
    mount -o remount,bind,ro "$root/.podwasm"
    mount --bind "$module" "$root/.podwasm/module"
    mount --bind "$plugins" "$root/.podwasm/plugins"
    mount --bind "$root/.podwasm/$entry" "$over"
    while [ "$1" != -- ]; do
        mount --bind "$root$1" "$root$1"
        mount -o remount,bind,ro "$root$1"
        shift
    done
    shift
    mount -o "remount,bind,$mode" "$root"
    ulimit $limits
    eval "exec \"\$@\" $redirect"
"#;

/// Whose native code the engine is told to use.
pub const BUILD: &str = "0123456789abcdef";

/// What is yet to be started.
pub struct Container {
    root: TempDir,
    module: TempDir,
    arguments: Vec<OsString>,
    directory: String,
    entry: &'static str,
    executable: String,
    limits: &'static str,
    mode: &'static str,
    plugins: TempDir,
    read_only: Vec<String>,
    redirect: &'static str,
    settings: Vec<String>,
    user: u32,
    variables: Vec<OsString>,
}

/// A container that runs.
pub struct Running {
    process: Child,
    _root: TempDir,
    module: TempDir,
    _plugins: TempDir,
}

/// How a container ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Container {
    /// With this guest as the module.
    pub fn new(guest: &str) -> Self {
        assert!(
            geteuid().is_root(),
            "these tests make namespaces and mounts: run them as root"
        );
        let container = Self {
            root: temporary(),
            module: temporary(),
            arguments: vec![ENTRYPOINT.into()],
            directory: "/".into(),
            entry: "engine",
            executable: ENTRYPOINT.into(),
            limits: "-c 0",
            mode: "rw",
            plugins: temporary(),
            read_only: Vec::new(),
            redirect: "",
            settings: Vec::new(),
            user: 0,
            variables: Vec::new(),
        };
        fs::create_dir(container.path("/.podwasm")).expect("a folder in the root folder");
        fs::copy(guest_file(guest), container.module.path().join("module.wasm"))
            .expect("the guests are built by integration/guests/build.sh");
        container.file(ENTRYPOINT, "the image's own file, under the mount")
    }

    /// What follows `args[0]`.
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Another `args[0]`, with the same file executed.
    pub fn arg0(mut self, argument: impl AsRef<OsStr>) -> Self {
        argument.as_ref().clone_into(&mut self.arguments[0]);
        self
    }

    pub fn directory(mut self, path: &str) -> Self {
        fs::create_dir_all(self.path(path)).expect("a folder in the root folder");
        path.clone_into(&mut self.directory);
        self
    }

    /// `NAME=value`, in this order.
    pub fn env(mut self, variable: impl AsRef<OsStr>) -> Self {
        self.variables.push(variable.as_ref().to_owned());
        self
    }

    pub fn file(self, path: &str, text: &str) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a path in the root folder"))
            .expect("a folder in the root folder");
        fs::write(&path, text).expect("a file in the root folder");
        self
    }

    /// One of the files that the guests are built with.
    pub fn guest_file(self, path: &str, guest: &str) -> Self {
        let this = self.file(path, "");
        fs::copy(guest_file(guest), this.path(path)).expect("a file in the root folder");
        this
    }

    pub fn folder(self, path: &str, mode: u32) -> Self {
        let path = self.path(path);
        fs::create_dir_all(&path).expect("a folder in the root folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode for a folder");
        self
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        symlink(target, self.path(path)).expect("a link in the root folder");
        self
    }

    /// As the plugin does it where the container's environment holds variables for the loader.
    pub fn through_launch(mut self) -> Self {
        self.entry = "launch";
        self
    }

    pub fn read_only(mut self) -> Self {
        self.mode = "ro";
        self
    }

    /// A file or folder of the container as a read-only mount.
    pub fn read_only_mount(mut self, path: &str) -> Self {
        self.read_only.push(path.to_owned());
        self
    }

    /// A line of the settings that the plugin passes.
    pub fn setting(mut self, line: &str) -> Self {
        self.settings.push(line.to_owned());
        self
    }

    /// A folder of plugins for the engine, with one of the files that the guests are built with.
    pub fn plugin(self, name: &str, guest: &str) -> Self {
        let folder = self.plugins.path().join(name);
        fs::create_dir_all(&folder).expect("a folder for a plugin");
        fs::copy(guest_file(guest), folder.join(guest)).expect("the guests are built");
        self
    }

    /// A redirection in the shell's words.
    pub fn redirect(mut self, redirection: &'static str) -> Self {
        self.redirect = redirection;
        self
    }

    /// An option of the shell's `ulimit`.
    pub fn limits(mut self, limits: &'static str) -> Self {
        self.limits = limits;
        self
    }

    pub fn user(mut self, user: u32) -> Self {
        self.user = user;
        self
    }

    /// These bytes as the module.
    pub fn module(self, bytes: &[u8]) -> Self {
        fs::write(self.module.path().join("module.wasm"), bytes).expect("a file in the module's folder");
        self
    }

    /// With native code of the module beside it, which the engine is told to use.
    pub fn compiled(self, tier: &str) -> Self {
        self.compiled_with(tier, &[])
    }

    /// The same, where the module needs these proposals.
    pub fn compiled_with(self, tier: &str, proposals: &[&str]) -> Self {
        let module = fs::read(self.module.path().join("module.wasm")).expect("the module is there");
        let code = compiler::compile_with(tier, proposals, &module);
        self.beside(&format!("{BUILD}-{tier}.so"), &code)
            .setting(&format!("compiled={BUILD}"))
    }

    /// A file in the module's folder.
    pub fn beside(self, name: &str, bytes: &[u8]) -> Self {
        let mut file = File::create(self.module.path().join(name)).expect("a file in the module's folder");
        file.write_all(bytes).expect("there is room for it");
        // What is mapped of a file counts as the process' own until it is on the disk.
        file.sync_all().expect("there is room for it");
        self
    }

    /// Removes the module, so that there is nothing to run.
    pub fn without_module(self) -> Self {
        fs::remove_file(self.module.path().join("module.wasm")).expect("the module is there");
        self
    }

    pub fn start(self) -> Running {
        let mut command = self.command();
        let process = command.spawn().expect("unshare is part of util-linux");
        Running {
            process,
            _root: self.root,
            module: self.module,
            _plugins: self.plugins,
        }
    }

    /// Runs it to its end, with nothing on stdin.
    pub fn run(self) -> Ended {
        self.run_with_input(b"")
    }

    pub fn run_with_input(self, input: &[u8]) -> Ended {
        let mut running = self.start();
        let mut stdin = running.process.stdin.take().expect("stdin is a pipe");
        let input = input.to_vec();
        let writer = thread::spawn(move || stdin.write_all(&input));
        let output = running
            .process
            .wait_with_output()
            .expect("the container was started");
        // A guest that does not read its input is no error.
        let _ = writer.join().expect("writing does not panic");
        Ended::new(&output)
    }

    fn command(&self) -> Command {
        let mut variables = self.variables.clone();
        if !self.settings.is_empty() {
            variables.push(format!("PODWASM_SETTINGS={}", self.settings.join("\n")).into());
        }
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--propagation",
                "private",
                "sh",
                "-euc",
            ])
            .args([SCRIPT, "container"])
            .arg(self.root.path())
            .arg(bundle())
            .arg(self.entry)
            .args([self.module.path(), self.plugins.path()])
            .arg(self.path(&self.executable))
            .args([self.mode, self.limits, self.redirect])
            .args(&self.read_only)
            .arg("--")
            .arg(guest_file("contain"))
            .arg(self.root.path())
            .arg(&self.directory)
            .args([self.user.to_string(), variables.len().to_string()])
            .args(&variables)
            .arg(&self.executable)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }
}

impl Running {
    /// A file that comes into the module's folder, whole.
    pub fn receives(&self, name: &str, bytes: &[u8]) {
        let folder = self.module.path();
        fs::write(folder.join("coming"), bytes).expect("a file in the module's folder");
        fs::rename(folder.join("coming"), folder.join(name)).expect("a new name for it");
    }

    /// Waits for its end.
    pub fn ends(self) -> Ended {
        Ended::new(
            &self
                .process
                .wait_with_output()
                .expect("the container was started"),
        )
    }

    /// Waits until the guest has said this on stdout.
    pub fn says(&mut self, expected: &str) {
        use std::io::Read as _;
        let mut said = vec![0; expected.len()];
        let stdout = self.process.stdout.as_mut().expect("stdout is a pipe");
        stdout.read_exact(&mut said).expect("the guest says something");
        assert_eq!(String::from_utf8_lossy(&said), expected);
    }

    /// The first process' entry in `/proc`.
    pub fn entry(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.first_process()))
    }

    /// Sends a signal to the first process in the container, and says how that ended and how soon.
    pub fn signal(self, signal: Signal) -> (ExitStatus, Duration) {
        self.signal_by_number(signal as i32)
    }

    /// The same for a signal that has no name, as real-time signals have none.
    pub fn signal_by_number(mut self, number: i32) -> (ExitStatus, Duration) {
        self.send(number);
        let sent = Instant::now();
        let status = self.process.wait().expect("the container was started");
        (status, sent.elapsed())
    }

    /// Sends a signal and leaves it at that.
    pub fn send(&mut self, number: i32) {
        let sent = Command::new("kill")
            .args([format!("-{number}"), self.first_process().to_string()])
            .status();
        assert!(
            sent.expect("kill is there").success(),
            "the process can be sent signals"
        );
    }

    /// Waits until the engine has a handler for a signal: before, the first process of a container ignores it.
    pub fn handles(&self, signal: Signal) {
        let bit = 1 << (signal as u32 - 1);
        let deadline = Instant::now() + Duration::from_secs(30);
        let handles = || {
            let children = self.children();
            let status = fs::read_to_string(format!("/proc/{}/status", children.trim())).unwrap_or_default();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & bit != 0))
                && status.starts_with("Name:\tapp.wasm\n")
        };
        while !handles() {
            assert!(Instant::now() < deadline, "the engine handles no {signal}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until no signal is pending: of several that are, the kernel hands out the one with the lowest number first.
    pub fn has_taken_signals(&self) {
        let status = format!("/proc/{}/status", self.first_process());
        let deadline = Instant::now() + Duration::from_secs(10);
        let pending = || {
            let status = fs::read_to_string(&status).expect("the process is there");
            let masks = status.lines().filter_map(|line| line.strip_prefix("ShdPnd:"));
            masks
                .map(str::trim)
                .any(|mask| mask.contains(|digit| digit != '0'))
        };
        while pending() {
            assert!(Instant::now() < deadline, "the signals are still pending");
            std::thread::yield_now();
        }
    }

    /// `unshare` has one child.
    fn first_process(&self) -> Pid {
        Pid::from_raw(self.children().trim().parse().expect("one process"))
    }

    fn children(&self) -> String {
        let unshare = self.process.id();
        let path = format!("/proc/{unshare}/task/{unshare}/children");
        fs::read_to_string(path).expect("the process is there")
    }
}

impl Ended {
    fn new(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts code, stdout and stderr.
    #[track_caller]
    pub fn expect(&self, code: i32, stdout: &str, stderr: &str) {
        assert_eq!(
            (self.code, &*self.stdout, &*self.stderr),
            (Some(code), stdout, stderr)
        );
    }

    /// Asserts that the module was not started, for this reason among others.
    #[track_caller]
    pub fn expect_cannot_start(&self, why: &str) {
        assert_eq!((self.code, &*self.stdout), (Some(126), ""), "{}", self.stderr);
        assert!(self.stderr.contains(why), "{}", self.stderr);
    }

    /// Asserts a success that said this on stdout and nothing on stderr.
    #[track_caller]
    pub fn expect_stdout(&self, stdout: &str) {
        self.expect(0, stdout, "");
    }
}

/// What a test writes in bytes that are not UTF-8.
pub fn bytes(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

pub fn temporary() -> TempDir {
    let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755)).expect("a mode for a folder");
    temporary
}

fn bundle() -> PathBuf {
    let bundle = target().join("engine/bundle");
    assert!(
        bundle.join("VERSION").exists(),
        "the engine's bundle is built by engine/bundle/build.sh"
    );
    bundle
}

pub fn guest_file(name: &str) -> PathBuf {
    target().join("guests").join(name)
}

pub fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target")
        .canonicalize()
        .expect("the target folder")
}
