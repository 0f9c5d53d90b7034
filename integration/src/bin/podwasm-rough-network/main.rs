//! Runs a command behind a bad network: in a network namespace of its own, from which all that goes out and comes in passes this
//! program. What becomes of each packet is in `fate.rs`.
//!
//! It is for kernels without the network emulator `netem`, and does what that cannot: it sends bytes twice in segments that overlap.
#![allow(unsafe_code, reason = "a TUN device is made by an ioctl")]

mod fate;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

use fate::{Fates, Roughness};

/// Runs a command behind a network that loses, repeats, reorders and cuts up packets.
#[derive(Parser)]
struct Flags {
    /// What the fates of packets are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    roughness: Roughness,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

/// The longest packet that passes.
const MTU: usize = 1500;
/// Addresses of both ends.
const OUTSIDE: [&str; 2] = ["10.99.0.1/24", "fd99::1/64"];
const INSIDE: [&str; 2] = ["10.99.0.2/24", "fd99::2/64"];

fn main() -> Result<ExitCode> {
    let flags = Flags::parse();
    let outside = Arc::new(device("rough-out", OUTSIDE)?);
    // Threads that are started from here on are in the new namespace too, but devices stay where they were made.
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    ip(&["link", "set", "lo", "up"])?;
    let inside = Arc::new(device("rough-in", INSIDE)?);
    ip(&["route", "add", "default", "dev", "rough-in"])?;
    ip(&["-6", "route", "add", "default", "dev", "rough-in"])?;
    for (number, from, to) in [(0, &inside, &outside), (1, &outside, &inside)] {
        let (from, to) = (from.clone(), to.clone());
        let fates = Fates::new(flags.roughness, flags.seed * 2 + number);
        thread::spawn(move || carry(&from, &to, fates));
    }
    let [program, arguments @ ..] = &flags.command[..] else {
        unreachable!("a command is required");
    };
    let status = Command::new(program).args(arguments).status();
    let status = status.with_context(|| format!("run {program}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// Makes a TUN device in this thread's namespace.
fn device(name: &str, addresses: [&str; 2]) -> Result<File> {
    let file = open_tun()?;
    // SAFETY: all bytes zero is a request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?;
    // SAFETY: the request is one for this call, and outlives it.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    nix::errno::Errno::result(made).with_context(|| format!("make {name}"))?;
    for address in addresses {
        let kind: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
        ip(&[&["address", "add", address, "dev", name][..], kind].concat())?;
    }
    ip(&["link", "set", name, "mtu", &MTU.to_string(), "up"])?;
    Ok(file)
}

/// Opens the kernel's TUN driver, for which nodes have no file.
fn open_tun() -> Result<File> {
    let path = format!("/dev/tun-{}", std::process::id());
    let status = Command::new("mknod").args([&path, "c", "10", "200"]).status();
    let status = status.context("run mknod")?;
    ensure!(status.success(), "mknod: {status}");
    let file = File::options().read(true).write(true).open(&path);
    std::fs::remove_file(&path).with_context(|| format!("remove {path}"))?;
    file.with_context(|| format!("open {path}"))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("run ip")?;
    ensure!(status.success(), "ip {arguments:?}: {status}");
    Ok(())
}

/// Carries packets from one device to the other, each as its fate wants it, until the program ends.
fn carry(mut from: &File, mut to: &File, mut fates: Fates) {
    let mut under_way = BTreeMap::<(Instant, u64), Vec<u8>>::new();
    let mut number = 0;
    loop {
        let now = Instant::now();
        while let Some(next) = under_way.first_entry().filter(|next| next.key().0 <= now) {
            let _ = to.write_all(&next.remove()); // what the device does not take is lost, as elsewhere
        }
        let due = under_way
            .first_key_value()
            .map(|((due, _), _)| due.saturating_duration_since(now));
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            PollTimeout::try_from(due.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        let mut devices = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if !poll(&mut devices, timeout).is_ok_and(|ready| ready > 0) {
            continue;
        }
        let mut packet = vec![0; MTU];
        let Ok(length) = from.read(&mut packet) else {
            return; // the device is gone
        };
        packet.truncate(length);
        for (delay, packet) in fates.of(&packet) {
            number += 1;
            under_way.insert((Instant::now() + delay, number), packet);
        }
    }
}
