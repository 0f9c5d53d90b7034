//! The compiler that ships with the engine, run by hand: what the daemon does when an image arrives.

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::node::target;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How much the compiler does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    Fast,
    Optimised,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast",
            Self::Optimised => "optimised",
        })
    }
}

/// The native code of a module. What an earlier run compiled with the same compiler is taken again.
pub fn compile(module: &Path, tier: Tier) -> Result<PathBuf> {
    let bytes = fs::read(module).with_context(|| format!("read {}", module.display()))?;
    let compiler = target().join("engine/compiler");
    let version = fs::read(compiler.join("VERSION")).context("no compiler: run `make engine`")?;
    let mut hash = Sha256::new();
    hash.update(&version);
    hash.update(&bytes);
    let folder = target().join("bench/compiled");
    let made = folder.join(format!("{:.16}-{tier}.so", format!("{:x}", hash.finalize())));
    if !made.exists() {
        let making = made.with_extension("making");
        fs::create_dir_all(&making)?;
        let name = module.file_name().unwrap_or_default().display();
        eprintln!("compiling {name}, {tier}");
        run(&compiler, module, tier, &making).with_context(|| format!("compile {name}"))?;
        // Pages that are not on disk yet would count as private to whoever maps them.
        File::open(making.join("module.so"))?.sync_all()?;
        fs::rename(making.join("module.so"), &made)?;
        fs::remove_dir_all(&making)?;
    }
    Ok(made)
}

fn run(compiler: &Path, module: &Path, tier: Tier, folder: &Path) -> Result<()> {
    let compiler = compiler.canonicalize()?;
    let libraries = compiler.join("lib");
    let output = Command::new(libraries.join("ld-linux-x86-64.so.2"))
        .args(["--inhibit-cache", "--library-path"])
        .args([&libraries, &compiler.join("compile")])
        .args(["--tier", &tier.to_string()])
        .current_dir(folder)
        .stdin(Stdio::from(File::open(module)?))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the compiler failed: {}", said.trim());
    Ok(())
}
