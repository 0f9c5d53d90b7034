//! LLVM, and what is changed about how WasmEdge uses it.
//!
//! WasmEdge drives LLVM through its C functions, and the dynamic linker finds the program's functions before LLVM's. Those that
//! are defined here go on to LLVM's own, with better arguments:
//!
//! - Each function of the guest gets stack probes. Without them, one with a large frame steps over the guard below the
//!   stack and writes to whatever lies there.
//! - The passes are ours (`FAST` and `OPTIMISED`), because WasmEdge's levels either do nothing or take long.
//! - Native code carries the module's outline instead of the module (see `source.rs`).

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::{mem, slice};

use podwasm_engine::compiling::Tier;

/// What is being compiled, for the functions that WasmEdge calls.
static JOB: OnceLock<Job> = OnceLock::new();

struct Job {
    pipeline: Pipeline,
    outline: Vec<u8>,
}

struct Pipeline {
    /// As `opt --passes` takes them.
    passes: &'static CStr,
    /// How much the code generator does, of 0 to 3.
    codegen: c_int,
}

/// Takes the guest's variables out of memory and throws away what is plainly not needed: the less code there is, the sooner it
/// is written.
const FAST: Pipeline = Pipeline {
    passes: c"function(sroa,early-cse<memssa>,simplifycfg,instsimplify,adce)",
    codegen: 0,
};

/// What compilers for WebAssembly leave to be done: they have inlined and unrolled already. `docs/compiling.md` has what else was tried.
const OPTIMISED: Pipeline = Pipeline {
    passes: c"function(sroa,early-cse<memssa>,simplifycfg,instcombine<no-verify-fixpoint>)",
    codegen: 1,
};

type Ref = *mut c_void;

unsafe extern "C" {
    fn LLVMConstInt(ty: Ref, value: c_ulonglong, sign_extend: c_int) -> Ref;
    fn LLVMDisposeMessage(message: *mut c_char);
    fn LLVMGetHostCPUFeatures() -> *mut c_char;
    fn LLVMGetHostCPUName() -> *mut c_char;
    fn LLVMGetValueName2(value: Ref, length: *mut usize) -> *const c_char;
    fn LLVMGetVersion(major: *mut c_uint, minor: *mut c_uint, patch: *mut c_uint);
    fn LLVMTypeOf(value: Ref) -> Ref;
}

/// Must be called once, before WasmEdge compiles.
pub fn prepare(tier: Tier, outline: Vec<u8>) {
    let pipeline = pipeline(tier);
    assert!(
        JOB.set(Job { pipeline, outline }).is_ok(),
        "one module is compiled"
    );
}

fn pipeline(tier: Tier) -> Pipeline {
    match tier {
        Tier::Fast => FAST,
        Tier::Optimised => OPTIMISED,
    }
}

fn job() -> &'static Job {
    JOB.get().expect("it was prepared before WasmEdge was called")
}

/// Which release of LLVM is in use.
pub fn version() -> String {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: they are written to, and nothing else.
    unsafe { LLVMGetVersion(&raw mut major, &raw mut minor, &raw mut patch) };
    format!("{major}.{minor}.{patch}")
}

/// The processor of this machine: its name, and what it can and cannot do.
pub fn processor() -> String {
    // SAFETY: both return a message that is ours.
    let (name, features) = unsafe { (message(LLVMGetHostCPUName()), message(LLVMGetHostCPUFeatures())) };
    format!("{name} {features}")
}

/// # Safety
/// It is a message of LLVM's that nobody has disposed of.
unsafe fn message(text: *mut c_char) -> String {
    // SAFETY: it is a C string until it is disposed of, once.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        LLVMDisposeMessage(text);
        copy
    }
}

/// LLVM's own function of a name.
fn next(name: &CStr) -> NonNull<c_void> {
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    NonNull::new(found).expect("libLLVM is linked after the program")
}

type CreateStringAttribute = unsafe extern "C" fn(Ref, *const c_char, c_uint, *const c_char, c_uint) -> Ref;

/// WasmEdge asks for one, on every function: no probes, as Windows has them.
// SAFETY: this and those below have the signature of what they stand in for, and hand on what they are given.
#[unsafe(no_mangle)]
unsafe extern "C" fn LLVMCreateStringAttribute(
    context: Ref,
    key: *const c_char,
    key_length: c_uint,
    value: *const c_char,
    value_length: c_uint,
) -> Ref {
    let (probes, inline) = (c"probe-stack", c"inline-asm");
    // SAFETY: LLVM's function has this type, and copies the strings, which are as long as is said.
    unsafe {
        let create =
            mem::transmute::<NonNull<c_void>, CreateStringAttribute>(next(c"LLVMCreateStringAttribute"));
        if slice::from_raw_parts(key.cast::<u8>(), key_length as usize) == b"no-stack-arg-probe" {
            let (key, value) = (probes.to_bytes(), inline.to_bytes());
            create(
                context,
                probes.as_ptr(),
                length(key),
                inline.as_ptr(),
                length(value),
            )
        } else {
            create(context, key, key_length, value, value_length)
        }
    }
}

type ConstString = unsafe extern "C" fn(Ref, *const c_char, c_uint, c_int) -> Ref;

/// WasmEdge makes one string: `wasm.code`, with the whole module.
#[unsafe(no_mangle)]
unsafe extern "C" fn LLVMConstStringInContext(
    context: Ref,
    _: *const c_char,
    _: c_uint,
    without_zero: c_int,
) -> Ref {
    let outline = &job().outline;
    // SAFETY: LLVM's function has this type, and copies the bytes.
    unsafe {
        let make = mem::transmute::<NonNull<c_void>, ConstString>(next(c"LLVMConstStringInContext"));
        make(context, outline.as_ptr().cast(), length(outline), without_zero)
    }
}

type SetInitializer = unsafe extern "C" fn(Ref, Ref);

#[unsafe(no_mangle)]
unsafe extern "C" fn LLVMSetInitializer(global: Ref, value: Ref) {
    // SAFETY: LLVM's function has this type; the name is as long as it says, and lives as long as the global.
    unsafe {
        let set = mem::transmute::<NonNull<c_void>, SetInitializer>(next(c"LLVMSetInitializer"));
        let mut name_length = 0;
        let name = LLVMGetValueName2(global, &raw mut name_length);
        let name = slice::from_raw_parts(name.cast::<u8>(), name_length);
        let value = if name == b"wasm.size" {
            LLVMConstInt(LLVMTypeOf(value), length(&job().outline).into(), 0)
        } else {
            value
        };
        set(global, value);
    }
}

type RunPasses = unsafe extern "C" fn(Ref, *const c_char, Ref, Ref) -> Ref;

#[unsafe(no_mangle)]
unsafe extern "C" fn LLVMRunPasses(module: Ref, _: *const c_char, machine: Ref, options: Ref) -> Ref {
    // SAFETY: LLVM's function has this type.
    unsafe {
        let run = mem::transmute::<NonNull<c_void>, RunPasses>(next(c"LLVMRunPasses"));
        run(module, job().pipeline.passes.as_ptr(), machine, options)
    }
}

type CreateTargetMachine =
    unsafe extern "C" fn(Ref, *const c_char, *const c_char, *const c_char, c_int, c_int, c_int) -> Ref;

#[unsafe(no_mangle)]
unsafe extern "C" fn LLVMCreateTargetMachine(
    target: Ref,
    triple: *const c_char,
    processor: *const c_char,
    features: *const c_char,
    _: c_int,
    relocation: c_int,
    code_model: c_int,
) -> Ref {
    let codegen = job().pipeline.codegen;
    // SAFETY: LLVM's function has this type.
    unsafe {
        let create = mem::transmute::<NonNull<c_void>, CreateTargetMachine>(next(c"LLVMCreateTargetMachine"));
        create(
            target, triple, processor, features, codegen, relocation, code_model,
        )
    }
}

fn length(bytes: &[u8]) -> c_uint {
    c_uint::try_from(bytes.len()).expect("no more than 1 GiB was read")
}
