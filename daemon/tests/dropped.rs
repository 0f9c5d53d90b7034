//! What is left to a process that has dropped its privileges, tried by such processes. Needs no root; as root it shows more.
#![allow(unsafe_code, reason = "system calls are tried that no library makes")]

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use podwasm_daemon::privileges::{Calls, CapabilitySet, Error, Files, Needs, keep_only};
use rustix::thread::capabilities;

type Case = (&'static str, fn(&Path));

const CASES: [Case; 8] = [
    (
        "capabilities_are_those_that_were_named",
        capabilities_are_those_that_were_named,
    ),
    (
        "capabilities_for_others_are_not_in_effect",
        capabilities_for_others_are_not_in_effect,
    ),
    (
        "connections_are_opened_by_who_says_so",
        connections_are_opened_by_who_says_so,
    ),
    (
        "files_are_written_where_it_was_said",
        files_are_written_where_it_was_said,
    ),
    (
        "pods_are_looked_into_by_who_says_so",
        pods_are_looked_into_by_who_says_so,
    ),
    (
        "programs_are_started_by_who_says_so",
        programs_are_started_by_who_says_so,
    ),
    ("threads_and_sockets_are_left", threads_and_sockets_are_left),
    ("too_late_is_an_error", too_late_is_an_error),
];

/// As libtest does it, except that each case has a process.
fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [word, name, folder] = &arguments[..]
        && word == "--case"
    {
        let case = CASES.iter().find(|(known, _)| known == name);
        case.expect("it is a case").1(Path::new(folder));
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| {
        let mut words = arguments.iter().filter(|word| !word.starts_with('-')).peekable();
        words.peek().is_none() || words.any(|word| name.contains(word.as_str()))
    };
    if arguments
        .iter()
        .any(|word| word == "--list" || word == "--ignored")
    {
        println!("test result: ok. 0 passed; 0 failed");
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, _) in CASES.iter().filter(|(name, _)| wanted(name)) {
        let is_well = run(name);
        *(if is_well { &mut passed } else { &mut failed }) += 1;
        println!("test {name} ... {}", if is_well { "ok" } else { "FAILED" });
    }
    println!(
        "test result: {}. {passed} passed; {failed} failed",
        if failed == 0 { "ok" } else { "FAILED" }
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(name: &str) -> bool {
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let this = std::env::current_exe().expect("it was started from a file");
    let ended = Command::new(this)
        .arg("--case")
        .arg(name)
        .arg(folder.path())
        .status();
    ended.expect("it can be started").success()
}

fn nothing() -> Needs {
    Needs {
        calls: Calls::default(),
        capabilities: CapabilitySet::empty(),
        in_effect: true,
        files: Files::default(),
    }
}

/// What the kernel says of this process.
fn status(name: &str) -> String {
    let status = fs::read_to_string("/proc/thread-self/status").expect("there is /proc");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("the kernel tells it").trim().to_owned()
}

fn mask(name: &str) -> CapabilitySet {
    CapabilitySet::from_bits_retain(u64::from_str_radix(&status(name), 16).expect("it is a number"))
}

/// What a system call with these arguments, which are numbers, is answered.
fn call(number: libc::c_long, arguments: [libc::c_long; 3]) -> Result<(), Option<i32>> {
    let [first, second, third] = arguments;
    // SAFETY: the calls that are tried here take a null pointer for an invalid one, if they are carried out at all.
    let result = unsafe { libc::syscall(number, first, second, third, 0, 0) };
    if result < 0 {
        Err(io::Error::last_os_error().raw_os_error())
    } else {
        Ok(())
    }
}

const REFUSED: Result<(), Option<i32>> = Err(Some(libc::EPERM));

fn capabilities_are_those_that_were_named(_: &Path) {
    let before = capabilities(None).unwrap();
    let wanted = CapabilitySet::NET_RAW | CapabilitySet::SYS_ADMIN;
    keep_only(&Needs {
        capabilities: wanted,
        ..nothing()
    })
    .unwrap();
    let expected = before.permitted & wanted;
    assert_eq!(mask("CapPrm"), expected);
    assert_eq!(mask("CapEff"), expected);
    assert_eq!(mask("CapInh"), before.inheritable & wanted);
    if before.effective.contains(CapabilitySet::SETPCAP) {
        assert_eq!(mask("CapBnd"), expected);
    }
    assert_eq!(status("NoNewPrivs"), "1");
    assert_eq!(status("Seccomp"), "2");
    for number in [
        libc::SYS_ptrace,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_keyctl,
        libc::SYS_io_uring_setup,
    ] {
        assert_eq!(call(number, [0, 0, 0]), REFUSED, "call {number}");
    }
    #[cfg(target_arch = "x86_64")]
    assert_ne!(call(libc::SYS_ptrace | 0x4000_0000, [0, 0, 0]), Ok(()), "by x32");
}

fn capabilities_for_others_are_not_in_effect(_: &Path) {
    let before = capabilities(None).unwrap();
    let wanted = CapabilitySet::KILL;
    let needs = Needs {
        calls: Calls {
            starts_programs: true,
            ..Calls::default()
        },
        capabilities: wanted,
        in_effect: false,
        files: Files {
            written: vec!["/dev/null".into()],
            ..Files::default()
        },
    };
    keep_only(&needs).unwrap();
    assert_eq!(mask("CapEff"), CapabilitySet::empty());
    assert_eq!(mask("CapPrm"), before.permitted & wanted);
    let child = Command::new("/bin/cat")
        .arg("/proc/self/status")
        .output()
        .unwrap();
    let child = String::from_utf8(child.stdout).unwrap();
    let line = |name: &str| {
        child
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(line("NoNewPrivs:"), "1");
    if rustix::process::geteuid().is_root() {
        let expected = format!("{:016x}", (before.permitted & wanted).bits());
        assert_eq!(line("CapEff:"), expected);
    }
}

fn connections_are_opened_by_who_says_so(_: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connects = Files {
        connects: true,
        ..Files::default()
    };
    keep_only(&Needs {
        files: connects,
        ..nothing()
    })
    .unwrap();
    TcpStream::connect(address).unwrap();
    keep_only(&nothing()).unwrap();
    if has_landlock(4) {
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
    TcpListener::bind("127.0.0.1:0").unwrap();
}

fn files_are_written_where_it_was_said(folder: &Path) {
    let at = |name: &str| folder.join(name);
    let (state, other) = (at("state"), at("other"));
    for folder in ["state/from", "state/to", "other"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    fs::write(other.join("file"), "as it was").unwrap();
    let written = [&state, Path::new("/dev/null"), &at("missing")]
        .map(PathBuf::from)
        .to_vec();
    keep_only(&Needs {
        files: Files {
            written,
            ..Files::default()
        },
        ..nothing()
    })
    .unwrap();
    fs::write("/dev/null", "gone").unwrap();
    fs::write(state.join("from/file"), "new").unwrap();
    fs::rename(state.join("from/file"), state.join("to/file")).unwrap();
    fs::remove_file(state.join("to/file")).unwrap();
    assert_eq!(fs::read_to_string(other.join("file")).unwrap(), "as it was");
    if !has_landlock(2) {
        return;
    }
    let denied =
        |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    denied(fs::write(other.join("file"), "changed"));
    denied(fs::write(other.join("new"), ""));
    denied(fs::create_dir(other.join("folder")));
    denied(fs::remove_file(other.join("file")));
    denied(fs::rename(state.join("to"), other.join("to")));
    denied(std::os::unix::fs::symlink("file", other.join("link")));
    denied(fs::create_dir(at("missing")));
}

fn pods_are_looked_into_by_who_says_so(_: &Path) {
    const BPF_MAP_CREATE: libc::c_long = 0;
    let this = fs::File::open("/proc/self/ns/net").unwrap();
    let this = std::os::fd::AsRawFd::as_raw_fd(&this).into();
    let looks = Calls {
        looks_into_pods: true,
        ..Calls::default()
    };
    let capabilities = CapabilitySet::NET_RAW | CapabilitySet::SYS_ADMIN;
    keep_only(&Needs {
        calls: looks,
        capabilities,
        ..nothing()
    })
    .unwrap();
    let is_root = mask("CapEff").contains(capabilities);
    assert_eq!(
        call(libc::SYS_setns, [this, libc::CLONE_NEWNS.into(), 0]),
        REFUSED
    );
    if is_root {
        assert_eq!(
            call(libc::SYS_setns, [this, libc::CLONE_NEWNET.into(), 0]),
            Ok(())
        );
        assert_eq!(
            call(
                libc::SYS_socket,
                [libc::AF_PACKET.into(), libc::SOCK_DGRAM.into(), 0]
            ),
            Ok(())
        );
        let bad_attributes = call(libc::SYS_bpf, [BPF_MAP_CREATE, 0, 0]);
        assert_ne!(bad_attributes, REFUSED);
    }
    keep_only(&Needs {
        capabilities,
        ..nothing()
    })
    .unwrap();
    assert_eq!(
        call(libc::SYS_setns, [this, libc::CLONE_NEWNET.into(), 0]),
        REFUSED
    );
    assert_eq!(
        call(
            libc::SYS_socket,
            [libc::AF_PACKET.into(), libc::SOCK_DGRAM.into(), 0]
        ),
        REFUSED
    );
    assert_eq!(call(libc::SYS_bpf, [BPF_MAP_CREATE, 0, 0]), REFUSED);
}

fn programs_are_started_by_who_says_so(_: &Path) {
    let starts = Needs {
        calls: Calls {
            starts_programs: true,
            ..Calls::default()
        },
        ..nothing()
    };
    keep_only(&starts).unwrap();
    assert!(Command::new("/bin/true").status().unwrap().success());
    keep_only(&nothing()).unwrap();
    let refused = Command::new("/bin/true").status().unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
}

fn threads_and_sockets_are_left(_: &Path) {
    keep_only(&nothing()).unwrap();
    let thread = std::thread::spawn(|| {
        std::os::unix::net::UnixStream::pair().unwrap();
        TcpListener::bind("[::1]:0")
            .or_else(|_| TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        "localhost:80".parse::<std::net::SocketAddr>().unwrap_err();
        std::net::ToSocketAddrs::to_socket_addrs("localhost:80")
            .unwrap()
            .count()
    });
    assert!(thread.join().unwrap() > 0);
    for family in [libc::AF_VSOCK, libc::AF_ALG] {
        assert_eq!(
            call(libc::SYS_socket, [family.into(), libc::SOCK_STREAM.into(), 0]),
            REFUSED
        );
    }
}

fn too_late_is_an_error(_: &Path) {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || ended.recv());
    assert!(matches!(keep_only(&nothing()), Err(Error::Threads(2))));
    drop(end);
    assert!(other.join().unwrap().is_err());
}

/// Whether the kernel has this version of Landlock. Where it has not, it restricts less, which is said and not an error.
fn has_landlock(version: libc::c_long) -> bool {
    const VERSION: libc::c_long = 1;
    // SAFETY: with this flag the call takes no pointer and says a number.
    let found = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0_usize, 0_usize, VERSION) };
    found >= version
}
