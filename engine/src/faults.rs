//! Faults of native code.
//!
//! Native code has no check where the processor has one: access outside of the guest's memory meets pages that nobody may touch, and
//! endless recursion the end of the stack. WasmEdge takes these signals on the stack that has just ended, and calls each of
//! them an access to memory. Its call of `sigaction` finds the one here, which lets nobody else have them: since a trap is
//! the end of the process, it ends here.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int, c_void};
use std::mem::{self, MaybeUninit};
use std::sync::OnceLock;

use podwasm_engine::line::{line, quoted};
use podwasm_engine::outcome::{Outcome, TRAPPED, signal_exit_code};

use crate::{process, streams};

/// What the kernel sends to a thread for an access that cannot be made.
const TAKEN: [c_int; 3] = [libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV];

/// Where the only code that is not ours is loaded from.
const NATIVE_CODE: &[u8] = b"/.podwasm/module/";

/// Functions with larger frames touch each page in turn (see `compile/llvm.rs`), so a fault at the stack's end is near its top.
const NEAR_STACK_BYTES: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;

/// What a native process has by default, where the container has no limit.
const DEFAULT_STACK_BYTES: libc::rlim_t = 8 << 20;

/// Enough for the registers of any processor, and for the handler. Only what is touched takes memory.
const HANDLER_STACK_BYTES: usize = 64 << 10;

/// The stack of handlers; it is the kernel that writes to it.
struct HandlerStack(UnsafeCell<MaybeUninit<[u8; HANDLER_STACK_BYTES]>>);

// SAFETY: only one thread is told to use it.
unsafe impl Sync for HandlerStack {}

static HANDLER_STACK: HandlerStack = HandlerStack(UnsafeCell::new(MaybeUninit::uninit()));

/// What is said in the handler, where nothing can be allocated.
static MESSAGES: OnceLock<Messages> = OnceLock::new();

struct Messages {
    crash: String,
    divide: String,
    memory: String,
    stack: String,
}

/// Prepares this thread to run native code for the guest of this name.
pub fn expect(program: &[u8]) {
    let trap = |what: &str| {
        let outcome = Outcome::Trapped(what.to_owned());
        line(&outcome.message(program).unwrap_or_default())
    };
    let messages = Messages {
        crash: line(&format!("the engine crashed while it ran {}", quoted(program))),
        divide: trap("integer divide by zero"),
        memory: trap("out of bounds memory access"),
        stack: line("trap: call stack exhausted"),
    };
    if MESSAGES.set(messages).is_ok() {
        use_handler_stack();
        limit_stack();
        TAKEN.into_iter().for_each(take);
    }
}

fn use_handler_stack() {
    let stack = libc::stack_t {
        ss_sp: HANDLER_STACK.0.get().cast(),
        ss_flags: 0,
        ss_size: HANDLER_STACK_BYTES,
    };
    // SAFETY: the memory is there for ever and used for nothing else.
    unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
}

/// Endless recursion would otherwise take all the memory that there is.
fn limit_stack() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls only look at or write to `limit`.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) == 0 && limit.rlim_cur == libc::RLIM_INFINITY {
            limit.rlim_cur = DEFAULT_STACK_BYTES.min(limit.rlim_max);
            libc::setrlimit(libc::RLIMIT_STACK, &raw const limit);
        }
    }
}

fn take(signal: c_int) {
    // SAFETY: all zeroes is a valid `sigaction`; the handler has the signature that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = end_at_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        __sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

unsafe extern "C" {
    /// glibc's own name for `sigaction`.
    fn __sigaction(signal: c_int, action: *const libc::sigaction, old: *mut libc::sigaction) -> c_int;
}

/// The C library's, for libwasmedge and for the engine: the dynamic linker finds the program's first.
// SAFETY: it has the signature and the results of the function that it stands in for.
#[unsafe(no_mangle)]
unsafe extern "C" fn sigaction(
    signal: c_int,
    action: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    if MESSAGES.get().is_some() && TAKEN.contains(&signal) && !action.is_null() {
        // It may be that WasmEdge has given up the handler in between, with `signal`.
        take(signal);
        return 0;
    }
    // SAFETY: the arguments are passed on as they came.
    unsafe { __sigaction(signal, action, old) }
}

/// Says what it was, and ends the process.
extern "C" fn end_at_fault(signal: c_int, info: *const libc::siginfo_t, context: *const libc::ucontext_t) {
    let Some(messages) = MESSAGES.get() else {
        process::leave(signal_exit_code(signal));
    };
    // SAFETY: the kernel hands both to a handler of this kind; SIGSEGV and SIGBUS have an address.
    let (address, code, stack) = unsafe {
        let registers = (*context).uc_mcontext.gregs;
        let register = |number: c_int| registers[usize::try_from(number).unwrap_or_default()].cast_unsigned();
        (
            (*info).si_addr() as u64,
            register(libc::REG_RIP),
            register(libc::REG_RSP),
        )
    };
    let near_stack = stack.saturating_sub(PAGE_BYTES)..stack.saturating_add(NEAR_STACK_BYTES);
    let (message, exit_code) = match signal {
        libc::SIGSEGV if near_stack.contains(&address) => (&messages.stack, TRAPPED.into()),
        libc::SIGSEGV if is_native(code) => (&messages.memory, TRAPPED.into()),
        libc::SIGFPE if is_native(code) => (&messages.divide, TRAPPED.into()),
        _ => (&messages.crash, signal_exit_code(signal)),
    };
    streams::write_stderr(message.as_bytes());
    process::leave(exit_code)
}

/// Whether this is the address of an instruction of the guest's.
fn is_native(code: u64) -> bool {
    let mut found = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: any address may be asked for; what is read was written, and the name lives as long as what was loaded.
    unsafe {
        libc::dladdr(code as *const c_void, found.as_mut_ptr()) != 0
            && CStr::from_ptr(found.assume_init().dli_fname)
                .to_bytes()
                .starts_with(NATIVE_CODE)
    }
}
