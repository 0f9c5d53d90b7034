//! The compiler, called as the daemon calls it.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{fs, thread};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::compiled::large_frames;
use crate::container::{guest_file, target, temporary};

/// An empty module.
const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

/// Native code for a module.
pub fn compile(tier: &str, module: &[u8]) -> Vec<u8> {
    compile_with(tier, &[], module)
}

/// The same, with these proposals switched on.
pub fn compile_with(tier: &str, proposals: &[&str], module: &[u8]) -> Vec<u8> {
    let folder = temporary();
    let mut arguments = vec!["--tier", tier];
    arguments.extend(proposals.iter().flat_map(|name| ["--enable", name]));
    let output = run(&folder, &arguments, module);
    assert!(output.status.success(), "{output:?}");
    let names: Vec<_> = fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["module.so"], "nothing else is left behind");
    fs::read(folder.path().join("module.so")).expect("it was compiled")
}

fn run(folder: &TempDir, arguments: &[&str], input: &[u8]) -> Output {
    run_with(folder, &[], arguments, input)
}

fn run_with(folder: &TempDir, loader_options: &[&str], arguments: &[&str], input: &[u8]) -> Output {
    let bundle = bundle();
    let mut process = Command::new(bundle.join("lib/ld-linux-x86-64.so.2"))
        .args(loader_options)
        .args(["--inhibit-cache", "--library-path"])
        .arg(bundle.join("lib"))
        .arg(bundle.join("compile"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the compiler's bundle is built by engine/bundle/build.sh");
    let mut stdin = process.stdin.take().expect("stdin is a pipe");
    let input = input.to_vec();
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = process.wait_with_output().expect("it was started");
    // One that ends before it has read all is no error.
    let _ = writer.join().expect("writing does not panic");
    output
}

fn bundle() -> PathBuf {
    target().join("engine/compiler")
}

fn module(guest: &str) -> Vec<u8> {
    fs::read(guest_file(guest)).expect("the guests are built by integration/guests/build.sh")
}

#[track_caller]
fn check_refused(arguments: &[&str], input: &[u8], why: &str) {
    let folder = temporary();
    let output = run(&folder, arguments, input);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr.starts_with(&format!("podwasm-compile: {why}")) && stderr.lines().count() == 1,
        "{stderr}"
    );
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(fs::read_dir(&folder).expect("the folder is there").count(), 0);
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn it_names_itself_and_the_processor() {
    let folder = temporary();
    let version = run(&folder, &["--version"], b"");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(version.starts_with("podwasm-compile "), "{version}");
    assert!(version.contains("WasmEdge 0.14.1, LLVM 19."), "{version}");
    let processor = run(&folder, &["--cpu"], b"");
    let processor = String::from_utf8_lossy(&processor.stdout).into_owned();
    assert!(processor.contains("+sse2"), "{processor}");
    assert_eq!((version.lines().count(), processor.lines().count()), (1, 1));
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn what_is_no_module_is_refused() {
    let fast = ["--tier", "fast"];
    check_refused(&fast, b"", "it is empty\n");
    check_refused(&fast, &module("elf.wasm"), "it is a native ELF file");
    check_refused(&fast, &module("component.wasm"), "it is a WebAssembly component");
    let malformed = "it is malformed, or needs a proposal that is not enabled: ";
    check_refused(&fast, &module("truncated.wasm"), malformed);
    let guest = module("guest.wasm");
    for length in [9, 100, 1000, guest.len() - 1] {
        check_refused(&fast, &guest[..length], malformed);
    }
    // A custom section, an import and a body that say to be longer than the file.
    check_refused(
        &fast,
        &[EMPTY, b"\x00\xff\xff\xff\xff\x0f\x01x"].concat(),
        malformed,
    );
    check_refused(
        &fast,
        &[EMPTY, b"\x02\x06\xff\xff\xff\xff\x0fx"].concat(),
        malformed,
    );
    check_refused(
        &fast,
        &[EMPTY, b"\x0a\x06\x01\xff\xff\xff\xff\x0f"].concat(),
        malformed,
    );
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn proposals_are_for_those_who_ask() {
    const SHARED_MEMORY: &[u8] = b"\0asm\x01\0\0\0\x05\x04\x01\x03\x01\x01";
    const MEMORY64: &[u8] = b"\0asm\x01\0\0\0\x05\x03\x01\x04\x01";
    let malformed = "it is malformed, or needs a proposal that is not enabled: threads must be enabled";
    check_refused(&["--tier", "fast"], SHARED_MEMORY, malformed);
    let output = run(
        &temporary(),
        &["--tier", "fast", "--enable", "threads"],
        SHARED_MEMORY,
    );
    assert!(output.status.success(), "{output:?}");
    check_refused(
        &["--tier", "fast", "--enable", "threads"],
        MEMORY64,
        "it is malformed, or needs",
    );
    check_refused(
        &["--tier", "fast", "--enable", "memory64"],
        MEMORY64,
        "there is no proposal",
    );
    check_refused(
        &["--tier", "fast", "--enable", "gc"],
        MEMORY64,
        "there is no native code for gc",
    );
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn the_same_module_gives_the_same_code() {
    let guest = module("guest.wasm");
    for tier in ["fast", "optimised"] {
        assert!(compile(tier, &guest) == compile(tier, &guest), "{tier}");
    }
}

/// Under these limits of the shell's `ulimit`, with a module of 0.4 MB that is one function of 20,000 variables.
fn run_limited(limits: &str) -> (Output, bool) {
    let (folder, bundle) = (temporary(), bundle());
    let module = folder.path().join("bomb");
    fs::write(&module, large_frames(20_000)).expect("a file in a temporary folder");
    let output = Command::new("sh")
        .args(["-c", "ulimit -c 0; ulimit $2; exec $0/lib/ld-linux-x86-64.so.2 --inhibit-cache --library-path $0/lib $0/compile --tier optimised < $1"])
        .arg(&bundle)
        .arg(&module)
        .arg(limits)
        .current_dir(&folder)
        .output()
        .expect("sh is there");
    (output, folder.path().join("module.so").exists())
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn limits_end_it_and_leave_no_code() {
    let ends_by = |limits: &str, signal: Signal| {
        let (output, written) = run_limited(limits);
        assert_eq!(
            output.status.signal(),
            Some(signal as i32),
            "{limits}: {output:?}"
        );
        assert!(!written, "{limits}");
    };
    ends_by("-t 1", Signal::SIGKILL);
    ends_by("-v 300000", Signal::SIGABRT);
    ends_by("-f 10", Signal::SIGXFSZ);
}

/// A library that takes the place of the function that WasmEdge's compiler is made with, and calls the kernel there: when the
/// module has been read, as code would that has taken the compiler over.
fn intruder(folder: &Path, call: &str) -> PathBuf {
    const SOURCE: &str = r#"
        #include <errno.h>
        #include <fcntl.h>
        #include <sys/syscall.h>
        static long call(long number, long a, long b, long c, long d)
        {
            long result;
            register long r10 __asm__("r10") = d;
            __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                             : "rcx", "r11", "memory");
            return result;
        }
        void *WasmEdge_CompilerCreate(const void *configuration)
        {
            (void)configuration;
            long result = CALL;
            call(SYS_exit_group, result < 0 ? -result : 0, 0, 0, 0);
            return 0;
        }
    "#;
    let (source, library) = (folder.join("intruder.c"), folder.join("intruder.so"));
    fs::write(&source, SOURCE).expect("a file in a temporary folder");
    let status = Command::new("gcc")
        .args(["-shared", "-fPIC", "-nostdlib", "-Wall", "-Werror"])
        .arg(format!("-DCALL={call}"))
        .arg("-o")
        .args([&library, &source])
        .status()
        .expect("gcc is one of the packages that the Makefile installs");
    assert!(status.success(), "{call}");
    library
}

fn intrude(call: &str) -> Output {
    let (folder, outside) = (temporary(), temporary());
    let library = intruder(outside.path(), call);
    let library = library.to_str().expect("a temporary path is UTF-8");
    run_with(&folder, &["--preload", library], &["--tier", "fast"], EMPTY)
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn it_opens_nothing_but_its_own_files() {
    let open = |path: &str, flags: &str| format!(r#"call(SYS_openat,AT_FDCWD,(long)"{path}",{flags},0600)"#);
    let check = |path: &str, flags: &str, code: i32| {
        let output = intrude(&open(path, flags));
        assert_eq!(output.status.code(), Some(code), "{path}: {output:?}");
    };
    let refused = nix::errno::Errno::EACCES as i32;
    check("own", "O_RDWR|O_CREAT", 0);
    check("/etc/passwd", "O_RDONLY", refused);
    check("/proc/self/mem", "O_RDWR", refused);
    check("../outside", "O_WRONLY|O_CREAT", refused);
    check("/tmp/outside", "O_WRONLY|O_CREAT", refused);
    check("/dev/null", "O_RDWR", refused);
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn it_calls_the_kernel_for_nothing_else() {
    for call in [
        "call(SYS_socket,2,1,0,0)",
        "call(SYS_execve,0,0,0,0)",
        "call(SYS_fork,0,0,0,0)",
        "call(SYS_clone,17,0,0,0)",
        "call(SYS_ptrace,0,0,0,0)",
        "call(SYS_mount,0,0,0,0)",
        "call(SYS_bpf,0,0,0,0)",
        "call(SYS_io_uring_setup,1,0,0,0)",
        "call(SYS_process_vm_readv,1,0,0,0)",
        "call(SYS_kill,1,0,0,0)",
        "call(SYS_unshare,0x10000000,0,0,0)",
        "call(SYS_mmap,0,4096,7,0x22)",
        "call(SYS_memfd_create,(long)\"\",0,0,0)",
        "call(0x40000000|SYS_socket,2,1,0,0)",
    ] {
        let output = intrude(call);
        assert_eq!(
            output.status.signal(),
            Some(Signal::SIGSYS as i32),
            "{call}: {output:?}"
        );
    }
    let output = intrude("call(SYS_clone3,0,0,0,0)");
    assert_eq!(output.status.code(), Some(nix::errno::Errno::ENOSYS as i32));
    let output = intrude("call(SYS_getpid,0,0,0,0)");
    assert_eq!(output.status.code(), Some(0), "the test itself works: {output:?}");
}
