//! Programs in empty root folders, without a container around them: what the engine itself costs.

use crate::compiler::{self, Tier};
use anyhow::{Context as _, Result, bail, ensure};
use podwasm_integration::node::target;
use serde::Serialize;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
const LIBWASMEDGE: &str = "/lib/x86_64-linux-gnu/libwasmedge.so.0";

/// The name of the build under which compiled modules are put before the engine.
const BUILD: &str = "0123456789abcdef";

/// A way to run a program.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The kernel: a static program.
    Native,
    /// podwasm's engine.
    Podwasm(Run),
    /// `WasmEdge` as crun loads it, without crun.
    Peer,
}

/// How the engine runs a module.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Run {
    Compiled(Tier),
    Interpreted,
}

impl Way {
    pub const OPTIMISED: Self = Self::Podwasm(Run::Compiled(Tier::Optimised));
    pub const FAST: Self = Self::Podwasm(Run::Compiled(Tier::Fast));
    pub const INTERPRETED: Self = Self::Podwasm(Run::Interpreted);

    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::OPTIMISED => "podwasm, optimised",
            Self::FAST => "podwasm, fast tier",
            Self::INTERPRETED => "podwasm, interpreted",
            Self::Peer => "crun's WasmEdge",
        }
    }
}

/// Where all root folders of a run are. They go when it is dropped.
#[derive(Debug)]
pub struct Bench {
    folder: PathBuf,
}

impl Bench {
    pub fn new() -> Result<Self> {
        let all = target().join("bench");
        sweep(&all);
        let folder = all.join(std::process::id().to_string());
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let bench = Self { folder };
        install(&target().join("engine/bundle"), &bench.bundle())?;
        Ok(bench)
    }

    fn bundle(&self) -> PathBuf {
        self.folder.join("bundle")
    }

    /// A root folder for a program: `native`, or a module where the way is another.
    pub fn root(&self, way: Way, native: &Path, module: &Path) -> Result<Root> {
        let count = fs::read_dir(&self.folder)?.count();
        let root = Root {
            way,
            folder: self.folder.join(count.to_string()),
        };
        fs::create_dir(&root.folder)?;
        root.fill(&self.bundle(), native, module)
            .with_context(|| format!("make a root folder for {}", way.name()))?;
        Ok(root)
    }
}

/// Removes what runs left that were killed.
fn sweep(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_pid = name.parse::<u32>().is_ok();
        if is_pid && !Path::new("/proc").join(&name).exists() {
            let _ = fs::remove_dir_all(entry.path()); // another run may do the same
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder); // what is left is in `target`
    }
}

/// A root folder with what runs in it.
#[derive(Debug)]
pub struct Root {
    pub way: Way,
    folder: PathBuf,
}

/// What was measured of one process from its start to its end.
#[derive(Debug)]
pub struct Measured {
    pub took: Duration,
    pub cpu: Duration,
    pub stdout: String,
}

impl Measured {
    /// `spawn` adds a line to the program's output. None where the program failed.
    fn parse(output: &[u8]) -> Option<Self> {
        let output = String::from_utf8_lossy(output);
        let (stdout, line) = output.rsplit_once("\nspawn: ")?;
        let numbers: Vec<u64> = line
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        let [took, cpu, 0] = numbers[..] else { return None };
        Some(Self {
            took: Duration::from_nanos(took),
            cpu: Duration::from_nanos(cpu),
            stdout: stdout.to_owned(),
        })
    }
}

impl Root {
    fn fill(&self, engine: &Path, native: &Path, module: &Path) -> Result<()> {
        match self.way {
            Way::Native => copy(native, &self.folder.join("app")),
            Way::Podwasm(run) => {
                for_tree(engine, &self.folder.join(".podwasm"), copy)?;
                copy(&engine.join("engine"), &self.folder.join("app"))?;
                let folder = self.folder.join(".podwasm/module");
                copy(module, &folder.join("module.wasm"))?;
                if let Run::Compiled(tier) = run {
                    let compiled = compiler::compile(module, tier)?;
                    copy(&compiled, &folder.join(format!("{BUILD}-{tier}.so")))?;
                }
                Ok(())
            }
            Way::Peer => {
                copy(module, &self.folder.join("app.wasm"))?;
                copy(&guest("peer")?, &self.folder.join("peer"))?;
                self.copy_libwasmedge()
            }
        }
    }

    /// Debian's library and all that it needs, as on a node.
    fn copy_libwasmedge(&self) -> Result<()> {
        let root = target().join("roots/trixie");
        let listing = Command::new("chroot")
            .arg(&root)
            .args([LOADER, "--list", LIBWASMEDGE])
            .output()?;
        let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
        let libraries = listing.split_whitespace().filter(|word| word.starts_with('/'));
        for path in libraries.chain([LIBWASMEDGE, "/etc/ld.so.cache"]) {
            let path = path.trim_start_matches('/');
            let to = self.folder.join(path);
            fs::create_dir_all(to.parent().context("a file in a folder")?)?;
            copy(&root.join(path), &to)?;
        }
        Ok(())
    }

    fn variable(&self) -> String {
        match self.way {
            Way::Podwasm(Run::Compiled(_)) => format!("PODWASM_SETTINGS=compiled={BUILD}"),
            _ => String::new(),
        }
    }

    fn words(&self) -> &'static [&'static str] {
        match self.way {
            Way::Native | Way::Podwasm(_) => &["/app"],
            Way::Peer => &["/peer", "/app.wasm"],
        }
    }

    /// Runs it to its end, which has to be a good one. Others get their turn before, not meanwhile.
    pub async fn run(&self, arguments: &[&str]) -> Result<Measured> {
        tokio::task::yield_now().await;
        let output = Command::new(guest("spawn")?)
            .arg(&self.folder)
            .arg(self.variable())
            .args(self.words())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("start spawn")?;
        let measured = Measured::parse(&output.stdout);
        let fell_back = matches!(self.way, Way::Podwasm(_)) && output.stderr.starts_with(b"podwasm: ");
        match measured {
            Some(measured) if !fell_back => Ok(measured),
            _ => bail!("{} {arguments:?}: {output:?}", self.way.name()),
        }
    }

    /// Starts it, with a pipe for each standard stream. The process is the program itself.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        let variable = self.variable();
        let variables: &[String] = if variable.is_empty() { &[] } else { &[variable] };
        let words = self.words();
        let process = Command::new(guest("contain")?)
            .arg(&self.folder)
            .args(["/", "0", &variables.len().to_string()])
            .args(variables)
            .arg(words[0])
            .args(words)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start contain")?;
        Ok(Running(process))
    }
}

/// A program that runs until it is dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Its folder in `/proc`.
    pub fn process(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.0.id()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

/// A file that `integration/guests/build.sh` has made.
pub fn guest(name: &str) -> Result<PathBuf> {
    let path = target().join("guests").join(name);
    ensure!(path.exists(), "no {}: run `make guests`", path.display());
    Ok(path)
}

/// The same file under another name, as a mount of it is; a copy of it where that cannot be.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let from = from
        .canonicalize()
        .with_context(|| format!("no {}", from.display()))?;
    if fs::hard_link(&from, to).is_err() {
        fs::copy(&from, to).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(())
}

/// A copy as `podwasm install` makes it: written as it will be read, and on disk. How many faults a process takes depends on how its
/// files came into memory, and those that a linker has written cost some 0.2 ms more at each start.
fn install(from: &Path, to: &Path) -> Result<()> {
    for_tree(from, to, |from, to| {
        let mut file = File::create(to)?;
        file.write_all(&fs::read(from)?)?;
        file.set_permissions(fs::metadata(from)?.permissions())?;
        Ok(file.sync_all()?)
    })
}

fn for_tree(from: &Path, to: &Path, take: fn(&Path, &Path) -> Result<()>) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            for_tree(&entry.path(), &to, take)?;
        } else {
            take(&entry.path(), &to).with_context(|| format!("copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_the_output() {
        let measured = Measured::parse(b"hello\nspawn: 2000 1000 0\n").unwrap();
        assert_eq!(measured.took, Duration::from_micros(2));
        assert_eq!(measured.cpu, Duration::from_micros(1));
        assert_eq!(measured.stdout, "hello");
    }

    #[test]
    fn a_failed_program_has_no_figures() {
        for output in [
            &b"hello\nspawn: 2000 1000 256\n"[..],
            b"hello\n",
            b"\nspawn: 2000\n",
        ] {
            assert!(Measured::parse(output).is_none());
        }
    }
}
