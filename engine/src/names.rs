//! Name resolution, which WasmEdge's sockets do with the C library.

use std::ffi::{CStr, c_char, c_int};

/// What the C library looks up in which way, with what is built into it: in files and by DNS.
const WAYS: [(&CStr, &CStr); 2] = [(c"hosts", c"files dns"), (c"services", c"files")];

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
