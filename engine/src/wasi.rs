//! The WASI host module: what the guest gets of this process.

use std::ffi::{CStr, CString, c_char};

use podwasm_engine::settings::Settings;
use podwasm_engine::{environment, resolver};
use wasmedge_sdk::{AsInstance as _, wasi::WasiModule};
use wasmedge_sys::ffi;

use crate::folders::{self, FolderError};
use crate::process::Process;
use crate::{heap, names};

/// Gives the module the process' arguments, environment and file system.
pub fn initialise(
    module: &mut WasiModule,
    process: &Process,
    settings: &Settings,
    needs_dns_server: bool,
) -> Result<(), FolderError> {
    let preopens = folders::preopens(settings)?;
    let variables = variables(process, needs_dns_server);
    heap::in_order(preopens.len(), || {
        initialise_with(module, &process.arguments, &variables, &preopens);
    });
    Ok(())
}

fn variables(process: &Process, needs_dns_server: bool) -> Vec<CString> {
    let given = environment::guest_environment(process.variables());
    let names_server = resolver::names_server(given.iter().copied());
    let dns_server = (needs_dns_server && !names_server).then(names::server).flatten();
    let added = dns_server.map(|server| format!("{}={server}", resolver::VARIABLE).into_bytes());
    let variables = given.into_iter().map(<[u8]>::to_vec).chain(added);
    variables
        .map(|variable| CString::new(variable).expect("it was a C string"))
        .collect()
}

/// As `WasiModule::init_wasi`, which takes UTF-8 only.
fn initialise_with(
    module: &mut WasiModule,
    arguments: &[&CStr],
    variables: &[CString],
    preopens: &[CString],
) {
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
