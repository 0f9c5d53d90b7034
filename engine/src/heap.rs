//! The engine's own memory.
//!
//! WasmEdge's interpreter keeps the guest's call stack in C++ vectors and has no limit for their size: endless
//! recursion would take all the memory there is. The vectors get their memory from `operator new`, which a
//! program may replace, and nothing else that runs with the guest asks for nearly as much in one piece.
//!
//! The same way, the opened folders get their places in memory, and what the instance keeps of data that the guest has is found.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use podwasm_engine::line::line;
use podwasm_engine::outcome::TRAPPED;
use podwasm_engine::segments;
use podwasm_engine::settings::Settings;

use crate::{process, streams};

/// The most that C++ code gets in one piece.
static LIMIT_BYTES: AtomicUsize = AtomicUsize::new(usize::MAX);

/// What WasmEdge 0.14.1 takes for an opened folder: a `VINode` and its reference count.
const NODE_BYTES: usize = 280;

/// The size of the pieces that come from [`NODES`]; 0 while none do. There is no piece of that size.
static NODE_SIZE: AtomicUsize = AtomicUsize::new(0);

/// Addresses of memory that `malloc` gave, the lowest last.
static NODES: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// What is less takes too little to be looked at: it has at most one page of its own.
const LEAST_DATA_BYTES: usize = 2 * PAGE_BYTES;
const PAGE_BYTES: usize = 4096;

/// From which size on a piece is noted in [`PIECES`]; none is while nobody wants to know.
static NOTED_FROM: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Pieces that C++ code has: where, and how large.
static PIECES: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Limits the guest's call stack.
pub fn limit_stack(settings: &Settings) {
    LIMIT_BYTES.store(settings.stack_bytes, Ordering::Relaxed);
}

/// Gives back what loading the module has left over.
pub fn give_back() {
    // SAFETY: it has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// Runs what instantiates a module, and has the kernel take back what of its data nobody can ask for any more.
///
/// WasmEdge copies each segment of data for the instance, then into the guest's memory, and when the segment is dropped it only notes that
/// it is empty. A piece is known to be such a copy by its bytes.
pub fn without_dropped_data<T>(module: &[u8], instantiate: impl FnOnce() -> T) -> T {
    let dropped = segments::dropped(module, LEAST_DATA_BYTES);
    if dropped.is_empty() {
        return instantiate();
    }
    NOTED_FROM.store(LEAST_DATA_BYTES, Ordering::Relaxed);
    let done = instantiate();
    NOTED_FROM.store(usize::MAX, Ordering::Relaxed);
    for (start, bytes) in pieces().drain(..) {
        // SAFETY: it was allocated, and not freed since.
        let holds =
            |data: &[u8]| unsafe { libc::memcmp(start as *const c_void, data.as_ptr().cast(), bytes) == 0 };
        if dropped.iter().any(|data| data.len() == bytes && holds(data)) {
            let (first, end) = (
                start.next_multiple_of(PAGE_BYTES),
                (start + bytes) & !(PAGE_BYTES - 1),
            );
            // SAFETY: the pages are within the piece, and nobody reads it again.
            unsafe { libc::madvise(first as *mut c_void, end - first, libc::MADV_DONTNEED) };
        }
    }
    done
}

fn pieces() -> MutexGuard<'static, Vec<(usize, usize)>> {
    PIECES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs what opens folders for the guest, so many at most, with their nodes in memory one after the other.
///
/// WasmEdge sorts the folders by where their nodes are. What they mean to the guest depends on their order, and where
/// the nodes come to be in used memory is chance.
pub fn in_order(nodes: usize, open: impl FnOnce()) {
    // SAFETY: `malloc` has no preconditions.
    let memory = (0..nodes).map(|_| unsafe { libc::malloc(NODE_BYTES) });
    let mut memory: Vec<_> = memory.collect();
    memory.sort_unstable_by(|a, b| b.cmp(a));
    *nodes_memory() = memory.into_iter().map(|memory| memory as usize).collect();
    NODE_SIZE.store(NODE_BYTES, Ordering::Relaxed);
    open();
    NODE_SIZE.store(0, Ordering::Relaxed);
    for unused in nodes_memory().drain(..) {
        // SAFETY: it comes from `malloc` and was handed out to nobody.
        unsafe { libc::free(unused as *mut c_void) };
    }
}

fn nodes_memory() -> MutexGuard<'static, Vec<usize>> {
    NODES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the kernel gives what WasmEdge asks for: 12 GiB of address space, and in it the memory itself.
pub fn can_map_guest_memory(bytes: u64) -> bool {
    can_map(12 << 30, libc::PROT_NONE, libc::MAP_NORESERVE)
        && usize::try_from(bytes)
            .is_ok_and(|bytes| bytes == 0 || can_map(bytes, libc::PROT_READ | libc::PROT_WRITE, 0))
}

fn can_map(bytes: usize, protection: c_int, flags: c_int) -> bool {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at a place that the kernel chooses, and unmapped as it was mapped.
    unsafe {
        let mapping = libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0);
        mapping != libc::MAP_FAILED && libc::munmap(mapping, bytes) == 0
    }
}

/// `operator new(std::size_t)` for libwasmedge and libstdc++: the dynamic linker finds the program's first.
// SAFETY: the name is that of the Itanium C++ ABI, and what it returns can be freed with `free`, as
// libstdc++'s `operator delete` does.
#[unsafe(no_mangle)]
extern "C" fn _Znwm(size: usize) -> *mut c_void {
    if size > LIMIT_BYTES.load(Ordering::Relaxed) {
        give_up("call stack exhausted");
    }
    if size == NODE_SIZE.load(Ordering::Relaxed)
        && let Some(node) = nodes_memory().pop()
    {
        return node as *mut c_void;
    }
    // SAFETY: it has no preconditions.
    let memory = unsafe { libc::malloc(size.max(1)) };
    if memory.is_null() {
        give_up("out of memory");
    }
    if size >= NOTED_FROM.load(Ordering::Relaxed) {
        pieces().push((memory as usize, size));
    }
    memory
}

/// `operator delete(void*)`.
// SAFETY: as above; what it is given comes from `operator new`, which is `malloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn _ZdlPv(memory: *mut c_void) {
    // SAFETY: it has the same preconditions.
    unsafe { delete(memory) };
}

/// `operator delete(void*, std::size_t)`.
// SAFETY: as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn _ZdlPvm(memory: *mut c_void, _size: usize) {
    // SAFETY: it has the same preconditions.
    unsafe { delete(memory) };
}

unsafe fn delete(memory: *mut c_void) {
    if NOTED_FROM.load(Ordering::Relaxed) != usize::MAX {
        pieces().retain(|(start, _)| *start != memory as usize);
    }
    // SAFETY: it is the caller's, who does not use it any more.
    unsafe { libc::free(memory) };
}

/// To unwind C++ frames from here is not possible, and nothing could be done after.
fn give_up(what: &str) -> ! {
    streams::write_stderr(line(&format!("trap: {what}")).as_bytes());
    process::leave(TRAPPED.into())
}
