//! Takes the sockets away from a guest that may not have any.

use std::ffi::c_void;

use wasmedge_sdk::AsInstance as _;
use wasmedge_sdk::wasi::WasiModule;
use wasmedge_sys::ffi;

/// WASI's number for "permission denied".
const EACCES: i32 = 2;

/// What the names of all socket functions begin with, name resolution included.
const PREFIX: &str = "sock_";

/// Replaces each socket function by one that returns `EACCES`. So the guest can neither open a socket nor use one that was
/// left open for it, and no name is looked up in its favour, be it in `/etc/hosts`.
pub fn refuse(wasi: &mut WasiModule) {
    let names = wasi.as_ref().func_names().unwrap_or_default();
    for name in names.iter().filter(|name| name.starts_with(PREFIX)) {
        replace(wasi, name);
    }
}

fn replace(wasi: &mut WasiModule, name: &str) {
    let length = u32::try_from(name.len()).expect("the names are WasmEdge's own");
    // SAFETY: the module is borrowed mutably and has a function of this name, whose type is copied. The module takes
    // over the new function. The name is copied where it is kept.
    unsafe {
        let module = wasi.as_ptr().cast_mut();
        let name = ffi::WasmEdge_StringWrap(name.as_ptr().cast(), length);
        let function = ffi::WasmEdge_ModuleInstanceFindFunction(module, name);
        let ty = ffi::WasmEdge_FunctionInstanceGetFunctionType(function);
        let refusal = ffi::WasmEdge_FunctionInstanceCreate(ty, Some(refuse_call), std::ptr::null_mut(), 0);
        ffi::WasmEdge_ModuleInstanceAddFunction(module, name, refusal);
    }
}

/// # Safety
/// There is room for one result, as all of WASI's functions that return have one.
unsafe extern "C" fn refuse_call(
    _: *mut c_void,
    _: *const ffi::WasmEdge_CallingFrameContext,
    _: *const ffi::WasmEdge_Value,
    results: *mut ffi::WasmEdge_Value,
) -> ffi::WasmEdge_Result {
    // SAFETY: as above.
    unsafe { *results = ffi::WasmEdge_ValueGenI32(EACCES) };
    ffi::WasmEdge_Result { Code: 0 }
}
