//! Name resolution, which WasmEdge's sockets do with the C library.

use std::ffi::{CStr, c_char, c_int};
use std::fs::OpenOptions;
use std::io::Read as _;
use std::mem;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;

use podwasm_engine::{resolver, services};

/// What the C library looks up in which way, with what is built into it: in files and by DNS.
const WAYS: [(&CStr, &CStr); 2] = [(c"hosts", c"files dns"), (c"services", c"files")];

/// Far more than the three servers that the C library takes from it.
const MAX_RESOLV_CONF_BYTES: u64 = 64 << 10;

type Lookup = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const libc::addrinfo,
    *mut *mut libc::addrinfo,
) -> c_int;

unsafe extern "C" {
    /// glibc's: overrides a line of `/etc/nsswitch.conf`.
    fn __nss_configure_lookup(database: *const c_char, ways: *const c_char) -> c_int;
}

/// The image's `/etc/nsswitch.conf` may name ways that only a library in the image knows, and that is
/// not loaded into the engine. Without that file, glibc would not ask for more than these either.
pub fn use_files_and_dns() {
    for (database, ways) in WAYS {
        // SAFETY: both are C strings; there is no other thread yet that could be looking up a name.
        unsafe { __nss_configure_lookup(database.as_ptr(), ways.as_ptr()) };
    }
}

/// The container's first name server. Without one there is nothing to say: the guest may never look up a name.
pub fn server() -> Option<SocketAddr> {
    // The file may be anything, a pipe that nobody writes to included.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/etc/resolv.conf")
        .ok()?;
    let mut text = Vec::new();
    file.take(MAX_RESOLV_CONF_BYTES).read_to_end(&mut text).ok()?;
    resolver::first_server(&String::from_utf8_lossy(&text))
}

/// The C library's, for libwasmedge: the dynamic linker finds the program's first. It adds services that the image
/// has no file for.
// SAFETY: it has the signature and the results of the function that it stands in for.
#[unsafe(no_mangle)]
unsafe extern "C" fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    result: *mut *mut libc::addrinfo,
) -> c_int {
    // SAFETY: the symbol is a function of this type in the C library, which is linked after the program.
    let lookup = unsafe {
        let next = libc::dlsym(libc::RTLD_NEXT, c"getaddrinfo".as_ptr());
        mem::transmute::<*mut libc::c_void, Option<Lookup>>(next)
    };
    let Some(lookup) = lookup else {
        return libc::EAI_FAIL;
    };
    // SAFETY: the arguments are passed on as they came.
    let code = unsafe { lookup(node, service, hints, result) };
    if code != libc::EAI_SERVICE || service.is_null() {
        return code;
    }
    // SAFETY: a service that is not null is a C string.
    let name = unsafe { CStr::from_ptr(service) };
    match services::port(name.to_bytes()) {
        // SAFETY: as above, with another C string.
        Some(port) => unsafe { lookup(node, port.as_ptr(), hints, result) },
        None => code,
    }
}
