//! Native code that this node made of the module: found beside it, or waited for.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{slice, thread};

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

/// Loads it: from here on, what this node compiled runs as it is. Only it can write to the folder. Also returns the module's bytes, which the file has but
/// for its functions.
pub fn load(path: &Path, config: &Config) -> Result<(Module, &'static [u8]), LoadError> {
    let file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    artifact::check_whole(&head, file_bytes)?;
    let module = Module::from_file(Some(config), path)?;
    Ok((module, embedded(path).unwrap_or_default()))
}

/// What WasmEdge's compiler puts into a library beside the code, once that is loaded.
fn embedded(path: &Path) -> Option<&'static [u8]> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: the path is a C string. The library is not loaded anew, and is never unloaded: the handle is not closed. What its symbols stand for is mapped as long, `wasm.size` is
    // 4 bytes, and `wasm.code` as many as it says; WasmEdge has read them, too.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if library.is_null() {
            return None;
        }
        let size = libc::dlsym(library, c"wasm.size".as_ptr()).cast::<u32>();
        let code = libc::dlsym(library, c"wasm.code".as_ptr()).cast::<u8>();
        if size.is_null() || code.is_null() {
            return None;
        }
        Some(slice::from_raw_parts(code, size.read_unaligned() as usize))
    }
}
