//! Runs a module as a container would: in namespaces of its own and an empty root, with the bundle mounted over its entrypoint.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use podwasm_engine::settings::{Settings, VARIABLE};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change, mount_remount,
};

use super::kernel;
use crate::doctor::facts::Trial;

/// How long the module may take; it takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);
const ENTRYPOINT: &str = "app.wasm";
/// Of what it says, so much is kept.
const MAX_OUTPUT_BYTES: u64 = 4096;

/// What to run.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The engine's bundle.
    pub bundle: PathBuf,
    /// The module.
    pub module: &'static [u8],
    /// Its native code and what that is named by.
    pub native: Option<(PathBuf, String)>,
}

/// Runs it below an empty folder. The calling thread has to end afterwards: it is in other namespaces by then, in which all that is
/// mounted goes with it and the module.
pub fn run(root: &Path, subject: &Subject) -> Trial {
    if !rustix::process::geteuid().is_root() {
        return Trial::NotTried("it needs root".to_owned());
    }
    if let Err(error) = kernel::leave_namespaces() {
        return Trial::NotTried(format!("namespaces cannot be made here: {error}"));
    }
    let outcome = prepare(root, subject)
        .and_then(|()| start(root, subject))
        .and_then(wait);
    outcome.unwrap_or_else(|error| Trial::Unstartable(error.to_string()))
}

fn prepare(root: &Path, subject: &Subject) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount(
        "podwasm-doctor",
        root,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        None,
    )?;
    let module = root.join("module");
    DirBuilder::new().mode(0o755).create(&module)?;
    fs::write(module.join("module.wasm"), subject.module)?;
    if let Some((native, build)) = &subject.native {
        fs::copy(native, module.join(format!("{build}-fast.so")))?;
    }
    let container = root.join("root");
    fs::create_dir_all(container.join(".podwasm"))?;
    fs::write(container.join(ENTRYPOINT), subject.module)?;
    fs::set_permissions(container.join(ENTRYPOINT), fs::Permissions::from_mode(0o755))?;
    read_only(&subject.bundle, &container.join(".podwasm"))?;
    read_only(&module, &container.join(".podwasm/module"))?;
    read_only(&subject.bundle.join("engine"), &container.join(ENTRYPOINT))
}

fn read_only(from: &Path, to: &Path) -> io::Result<()> {
    let failed =
        |error: rustix::io::Errno| io::Error::other(format!("cannot mount {}: {error}", from.display()));
    mount_bind_recursive(from, to).map_err(failed)?;
    mount_remount(to, MountFlags::BIND | MountFlags::RDONLY, c"").map_err(failed)
}

fn start(root: &Path, subject: &Subject) -> io::Result<Child> {
    let settings = Settings {
        compiled: subject.native.as_ref().map(|(_, build)| build.clone()),
        ..Settings::default()
    };
    // Opened out here: in there is no /dev.
    let nothing = File::open("/dev/null")?;
    rustix::process::chroot(root.join("root"))?;
    rustix::process::chdir("/")?;
    let mut command = Command::new(format!("/{ENTRYPOINT}"));
    command
        .arg0(format!("/{ENTRYPOINT}"))
        .env_clear()
        .env(VARIABLE, settings.to_string())
        .stdin(nothing)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = |error| {
        io::Error::new(
            io::Error::kind(&error),
            format!("the engine cannot be started: {error}"),
        )
    };
    command.spawn().map_err(start)
}

fn wait(mut child: Child) -> io::Result<Trial> {
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(Trial::Unstartable(format!("it had not ended after {PATIENCE:?}")));
        }
        std::thread::sleep(PAUSE);
    };
    let mut said = [String::new(), String::new()];
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_OUTPUT_BYTES).read_to_string(&mut said[0])?;
    }
    if let Some(stderr) = child.stderr.take() {
        stderr.take(MAX_OUTPUT_BYTES).read_to_string(&mut said[1])?;
    }
    let [stdout, stderr] = said;
    Ok(Trial::Ended {
        code: status.code(),
        stdout,
        stderr,
    })
}
