//! The WASI host module: what the guest gets of this process.

use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};
use std::{env, fs};

use podwasm_engine::environment;
use podwasm_engine::preopens::{self, RootFolder};
use wasmedge_sdk::error::WasmEdgeError;
use wasmedge_sdk::{AsInstance as _, WasmEdgeResult, wasi::WasiModule};
use wasmedge_sys::ffi;

use crate::process::Process;

/// The host module with the process' arguments, environment and file system.
pub fn module(process: &Process) -> WasmEdgeResult<WasiModule> {
    let mut module = WasiModule::create(None, None, None)?;
    let variables = process.variables.iter().map(|variable| variable.to_bytes());
    let variables: Vec<CString> = environment::guest_environment(variables)
        .into_iter()
        .map(|variable| CString::new(variable).map_err(WasmEdgeError::from))
        .collect::<Result<_, _>>()?;
    initialise(&mut module, &process.arguments, &variables, &preopens());
    Ok(module)
}

fn preopens() -> Vec<CString> {
    // Where the working directory cannot be named (it was deleted, say), `/` is better than nothing.
    let working_directory = env::current_dir().unwrap_or_else(|_| "/".into());
    let folders = if working_directory == Path::new("/") {
        Vec::new()
    } else {
        root_folders()
    };
    preopens::plan(&working_directory, &folders)
}

fn root_folders() -> Vec<RootFolder> {
    let entries = fs::read_dir("/").into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries.filter_map(|entry| root_folder(entry.path())).collect();
    folders.sort_by(|a, b| a.path.cmp(&b.path));
    folders
}

fn root_folder(path: PathBuf) -> Option<RootFolder> {
    let real = path.canonicalize().ok()?;
    real.is_dir().then_some(RootFolder { path, real })
}

/// As `WasiModule::init_wasi`, which takes UTF-8 only.
fn initialise(module: &mut WasiModule, arguments: &[&CStr], variables: &[CString], preopens: &[CString]) {
    let arguments = pointers(arguments);
    let variables = pointers(variables);
    let preopens = pointers(preopens);
    // SAFETY: the context belongs to `module`, which is borrowed mutably. Each array holds as many C strings as is
    // said, and WasmEdge copies them.
    unsafe {
        ffi::WasmEdge_ModuleInstanceInitWASI(
            module.as_ptr().cast_mut(),
            arguments.as_ptr(),
            count(&arguments),
            variables.as_ptr(),
            count(&variables),
            preopens.as_ptr(),
            count(&preopens),
        );
    }
}

fn pointers(strings: &[impl AsRef<CStr>]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ref().as_ptr()).collect()
}

fn count(pointers: &[*const c_char]) -> u32 {
    u32::try_from(pointers.len()).expect("the kernel allows far fewer arguments and variables")
}
