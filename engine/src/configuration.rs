//! WasmEdge's configuration.
//!
//! The SDK can switch on only some of the proposals, and keeps its configurations to itself. The last thing that it does with a new one is
//! to set the memory's limit; the function that it calls for that is the one here, which also switches on what the guest may use.

use std::mem;
use std::sync::OnceLock;

use podwasm_engine::proposal::Proposal;
use podwasm_engine::settings::Settings;
use wasmedge_sdk::WasmEdgeResult;
use wasmedge_sdk::config::{CommonConfigOptions, Config, ConfigBuilder, RuntimeConfigOptions};
use wasmedge_sys::ffi;

use crate::proposals;

static PROPOSALS: OnceLock<Vec<Proposal>> = OnceLock::new();

/// What the settings say. With the interpreter only, WasmEdge ignores native code in a section of the module.
pub fn of(settings: &Settings, interpreter_only: bool) -> WasmEdgeResult<Config> {
    PROPOSALS.get_or_init(|| settings.proposals.clone());
    let pages = RuntimeConfigOptions::new().max_memory_pages(settings.memory_pages);
    ConfigBuilder::new(CommonConfigOptions::new().interpreter_mode(interpreter_only))
        .with_runtime_config(pages)
        .build()
}

type SetPages = unsafe extern "C" fn(*mut ffi::WasmEdge_ConfigureContext, u32);

/// WasmEdge's, for the SDK: the linker finds the program's first.
// SAFETY: it has the signature of the function that it stands in for, and passes on what it is given.
#[unsafe(no_mangle)]
unsafe extern "C" fn WasmEdge_ConfigureSetMaxMemoryPage(
    configuration: *mut ffi::WasmEdge_ConfigureContext,
    pages: u32,
) {
    // SAFETY: the symbol is a function of this type in libwasmedge, which is linked after the program.
    unsafe {
        let next = libc::dlsym(libc::RTLD_NEXT, c"WasmEdge_ConfigureSetMaxMemoryPage".as_ptr());
        let set_pages = mem::transmute::<*mut libc::c_void, Option<SetPages>>(next);
        set_pages.expect("libwasmedge has it")(configuration, pages);
        for proposal in PROPOSALS.get().into_iter().flatten() {
            ffi::WasmEdge_ConfigureAddProposal(configuration, proposals::number(*proposal));
        }
    }
}
