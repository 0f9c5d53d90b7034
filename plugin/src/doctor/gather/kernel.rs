//! Tries what only the kernel can answer: namespaces, packet sockets, BPF.
#![allow(
    unsafe_code,
    reason = "namespaces of one thread, and BPF's system call, which no crate here wraps; each use says why"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// From the kernel's `linux/bpf.h`.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
/// `r0 = 0` and `exit`: a filter that lets nothing through.
const INSTRUCTIONS: [u64; 2] = [0xb7, 0x95];

/// The beginning of `union bpf_attr` for loading a program; the rest is taken as zero.
#[repr(C)]
struct LoadProgram {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 2],
    log_buffer: u64,
}

/// Gives the calling thread, and processes that it starts, namespaces of their own. The thread has to end afterwards: nothing brings it
/// back.
pub fn leave_namespaces() -> io::Result<()> {
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    // SAFETY: what may not be unshared behind Rust's back is the table of open files, which these flags leave alone.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

/// Moves the calling thread into a network namespace. It has to end afterwards.
pub fn enter_network(namespace: &Path) -> io::Result<()> {
    let namespace = File::open(namespace)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Opens a packet socket, as the exporter does in each pod's namespace. It receives nothing.
pub fn packet_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes three integers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, so it is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the kernel take a program as the filter of a socket.
pub fn attach_program(socket: &OwnedFd) -> io::Result<()> {
    let program = load_program()?;
    let fd = program.as_raw_fd();
    let length = libc::socklen_t::try_from(size_of_val(&fd)).expect("it is four");
    // SAFETY: the pointer is to an integer of that length, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_BPF,
            (&raw const fd).cast(),
            length,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn load_program() -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let attributes = LoadProgram {
        kind: BPF_PROG_TYPE_SOCKET_FILTER,
        instruction_count: 2,
        instructions: INSTRUCTIONS.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
    };
    // SAFETY: the pointers in the structure are to constants, and it outlives the call, which reads so many bytes of it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of::<LoadProgram>(),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the descriptor is new, so it is nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
