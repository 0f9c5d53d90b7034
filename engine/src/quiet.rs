//! WasmEdge's log, which the engine does not have.
//!
//! WasmEdge logs to stdout, which is the guest's, by way of a library that makes its loggers, their patterns and locks when it is
//! loaded. The bundle does without that library (`bundle/assemble.sh`): WasmEdge asks the default logger for its level before
//! each message, and this one has none that lets a message through. What would have it otherwise is not called, and could not be.

use std::ffi::{CStr, c_int, c_void};
use std::mem;

/// spdlog's level at which nothing is logged.
const OFF: u32 = 6;

/// As `spdlog::logger` of spdlog 1.15 up to its level, behind its table of functions, its name and its list of sinks; a message's
/// way leads no further.
#[repr(C, align(8))]
struct Logger {
    functions: usize,
    name: [usize; 4],
    sinks: [usize; 3],
    level: u32,
    /// The rest, of which only the address of the backtracer is taken.
    rest: [u32; 128],
}

static LOGGER: Logger = Logger {
    functions: 0,
    name: [0; 4],
    sinks: [0; 3],
    level: OFF,
    rest: [0; 128],
};

/// `spdlog::default_logger_raw()`.
// SAFETY: the name is that of the Itanium C++ ABI. Callers look at the level, and go no further.
#[unsafe(no_mangle)]
extern "C" fn _ZN6spdlog18default_logger_rawEv() -> *const c_void {
    (&raw const LOGGER).cast()
}

/// `spdlog::details::backtracer::enabled() const`: whether messages are kept that are not logged.
// SAFETY: as above; it returns a `bool`.
#[unsafe(no_mangle)]
extern "C" fn _ZNK6spdlog7details10backtracer7enabledEv(_: *const c_void) -> bool {
    false
}

type SetLevel = unsafe extern "C" fn(c_int);

/// Plugins may bring the library with them.
pub fn silence(plugin: *mut c_void) {
    const SET_LEVEL: &CStr = c"_ZN6spdlog9set_levelENS_5level10level_enumE";
    // SAFETY: it is a handle that `dlopen` gave. In it and what it needs, the name is a function of this type.
    unsafe {
        let found = libc::dlsym(plugin, SET_LEVEL.as_ptr());
        if let Some(set_level) = mem::transmute::<*mut c_void, Option<SetLevel>>(found) {
            set_level(OFF.cast_signed());
        }
    }
}
