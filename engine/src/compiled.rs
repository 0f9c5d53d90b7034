//! Native code that this node made of the module: found beside it, or waited for.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use podwasm_engine::artifact::{self, HEAD_BYTES, NotLoadable};
use podwasm_engine::settings::Settings;
use thiserror::Error;
use wasmedge_sdk::Module;
use wasmedge_sdk::config::Config;
use wasmedge_sdk::error::WasmEdgeError;

/// How often it is looked for while it is waited for. Somebody may be waiting for the container, and a look is three system calls.
const INTERVAL: Duration = Duration::from_millis(5);

/// Why native code is there and not used.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error("WasmEdge does not take it")]
    Load(#[from] Box<WasmEdgeError>),
    #[error(transparent)]
    NotLoadable(#[from] NotLoadable),
    #[error("it cannot be read")]
    Read(#[from] io::Error),
}

/// The best file of native code in a module's folder, after a wait if the settings ask for one. `None` if none came.
pub fn find(folder: &Path, settings: &Settings) -> Option<PathBuf> {
    let build = settings.compiled.as_deref()?;
    let candidates = artifact::candidates(build).map(|name| folder.join(name));
    let failed = folder.join(artifact::failed(build));
    let deadline = Instant::now().checked_add(settings.wait);
    loop {
        if let Some(found) = candidates.iter().find(|path| path.exists()) {
            return Some(found.clone());
        }
        if failed.exists() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return None;
        }
        thread::sleep(INTERVAL);
    }
}

/// Loads it: from here on, what this node compiled runs as it is. Only it can write to the folder.
pub fn load(path: &Path, config: &Config) -> Result<Module, LoadError> {
    let file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    artifact::check_whole(&head, file_bytes)?;
    Ok(Module::from_file(Some(config), path)?)
}
