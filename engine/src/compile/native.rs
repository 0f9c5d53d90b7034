//! WasmEdge's compiler.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use podwasm_engine::proposal::Proposal;
use thiserror::Error;
use wasmedge_sys::ffi;

use crate::{llvm, proposals};

/// Why WasmEdge did not compile a module.
#[derive(Debug, Error)]
pub enum NativeError {
    #[error("WasmEdge cannot compile it: {0}")]
    Compile(String),
    #[error("WasmEdge cannot be set up")]
    SetUp,
}

/// The compiler and what it is made of.
pub fn version() -> String {
    // SAFETY: it returns a C string that lives for ever.
    let wasmedge = unsafe { CStr::from_ptr(ffi::WasmEdge_VersionGet()) };
    let (wasmedge, llvm) = (wasmedge.to_string_lossy(), llvm::version());
    format!(
        "podwasm-compile {} (WasmEdge {wasmedge}, LLVM {llvm})",
        env!("CARGO_PKG_VERSION")
    )
}

/// Writes native code for a module to a file.
pub fn compile(module: &[u8], proposals: &[Proposal], output: &Path) -> Result<(), NativeError> {
    let output = CString::new(output.as_os_str().as_bytes()).expect("our own name for it");
    // SAFETY: what was made is not null and is used until it is deleted. The module's bytes and the name live until
    // the call returns, and nothing is written to them.
    unsafe {
        ffi::WasmEdge_LogOff();
        let configuration = configuration(proposals)?;
        let compiler = ffi::WasmEdge_CompilerCreate(configuration);
        ffi::WasmEdge_ConfigureDelete(configuration);
        if compiler.is_null() {
            return Err(NativeError::SetUp);
        }
        let bytes = ffi::WasmEdge_BytesWrap(module.as_ptr(), length(module));
        let result = ffi::WasmEdge_CompilerCompileFromBytes(compiler, bytes, output.as_ptr());
        ffi::WasmEdge_CompilerDelete(compiler);
        if ffi::WasmEdge_ResultOK(result) {
            return Ok(());
        }
        let why = CStr::from_ptr(ffi::WasmEdge_ResultGetMessage(result));
        Err(NativeError::Compile(why.to_string_lossy().into_owned()))
    }
}

fn length(module: &[u8]) -> u32 {
    u32::try_from(module.len()).expect("no more than 1 GiB was read")
}

fn configuration(proposals: &[Proposal]) -> Result<*mut ffi::WasmEdge_ConfigureContext, NativeError> {
    // SAFETY: the configuration is not null when it is used.
    unsafe {
        let configuration = ffi::WasmEdge_ConfigureCreate();
        if configuration.is_null() {
            return Err(NativeError::SetUp);
        }
        for proposal in proposals {
            ffi::WasmEdge_ConfigureAddProposal(configuration, proposals::number(*proposal));
        }
        ffi::WasmEdge_ConfigureCompilerSetOutputFormat(
            configuration,
            ffi::WasmEdge_CompilerOutputFormat_Native,
        );
        Ok(configuration)
    }
}
