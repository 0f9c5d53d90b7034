//! The system calls that no daemon here makes: they fail, as on a kernel that does not let this user.
//!
//! A list of what is refused, and not of what is allowed, because a C library may turn to a call that is newer than the list; what is refused are
//! the ways into the kernel, into other processes and out of a namespace. `CAP_SYS_ADMIN`, which both daemons keep for one purpose each, opens
//! little else then.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::Error;

#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;

/// What a daemon makes of the kernel beyond files, sockets, threads and time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    /// Joins network namespaces, opens packet sockets there, and loads filters for them.
    pub looks_into_pods: bool,
    /// Starts other programs.
    pub starts_programs: bool,
}

/// Whatever the arguments.
const REFUSED: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mknodat,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// What only this architecture has.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_mknod,
    libc::SYS_modify_ldt,
    libc::SYS_sysfs,
    libc::SYS_uselib,
    libc::SYS_ustat,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

/// For who starts no programs.
const PROGRAMS: &[c_long] = &[libc::SYS_execve, libc::SYS_execveat];
/// For who does not look into pods.
const PODS: &[c_long] = &[libc::SYS_bpf, libc::SYS_setns];

/// What `clone` is not asked for: threads and processes stay in the namespaces that they come from.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// Takes these calls from this thread and all that comes of it.
pub fn restrict(calls: Calls) -> Result<(), Error> {
    // What looks as if the kernel did not have it: its flags cannot be looked at, and the C library takes `clone` instead.
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    install(unknown, libc::ENOSYS)?;
    install(refused(calls)?, libc::EPERM)
}

fn refused(calls: Calls) -> Result<BTreeMap<i64, Vec<SeccompRule>>, Error> {
    let mut always: Vec<_> = [REFUSED, REFUSED_HERE].concat();
    if !calls.starts_programs {
        always.extend(PROGRAMS);
    }
    if !calls.looks_into_pods {
        always.extend(PODS);
    }
    let mut refused = BTreeMap::new();
    for call in always {
        refused.insert(call, Vec::new());
    }
    refused.insert(libc::SYS_clone, cloning(calls)?);
    refused.insert(libc::SYS_socket, sockets(calls)?);
    // Typing into the terminal that it was started from.
    refused.insert(
        libc::SYS_ioctl,
        vec![rule([(1, SeccompCmpOp::Eq, libc::TIOCSTI)])?],
    );
    if calls.looks_into_pods {
        let network = bits(libc::CLONE_NEWNET);
        refused.insert(libc::SYS_setns, vec![rule([(1, SeccompCmpOp::Ne, network)])?]);
    }
    other_numbers(&mut refused);
    Ok(refused)
}

/// New namespaces, and for who starts no programs new processes.
fn cloning(calls: Calls) -> Result<Vec<SeccompRule>, Error> {
    let with = |flag, value| rule([(0, SeccompCmpOp::MaskedEq(flag), value)]);
    let mut rules: Vec<_> = NAMESPACES
        .map(bits)
        .into_iter()
        .map(|flag| with(flag, flag))
        .collect::<Result<_, _>>()?;
    if !calls.starts_programs {
        rules.push(with(bits(libc::CLONE_THREAD), 0)?);
    }
    Ok(rules)
}

/// All but local ones and those of the Internet; the resolver asks the kernel for addresses by netlink.
fn sockets(calls: Calls) -> Result<Vec<SeccompRule>, Error> {
    let mut allowed = vec![libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_UNIX];
    if calls.looks_into_pods {
        allowed.push(libc::AF_PACKET);
    }
    let none_of_them = allowed
        .into_iter()
        .map(|family| (0, SeccompCmpOp::Ne, bits(family)));
    Ok(vec![rule(none_of_them)?])
}

/// The same calls by the numbers of x32, which some kernels of this architecture take.
#[cfg(target_arch = "x86_64")]
fn other_numbers(refused: &mut BTreeMap<i64, Vec<SeccompRule>>) {
    const X32: i64 = 0x4000_0000;
    /// Calls that have a number of their own there.
    const OWN: std::ops::RangeInclusive<i64> = 512..=547;
    for call in refused.keys().copied().collect::<Vec<_>>().into_iter().chain(OWN) {
        refused.insert(call | X32, Vec::new());
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn other_numbers(_: &mut BTreeMap<i64, Vec<SeccompRule>>) {}

fn bits(value: libc::c_int) -> u64 {
    value.cast_unsigned().into()
}

/// Holds where all these conditions on arguments do. The kernel takes each of these as an `int`.
fn rule(conditions: impl IntoIterator<Item = (u8, SeccompCmpOp, u64)>) -> Result<SeccompRule, Error> {
    let conditions: Result<Vec<_>, _> = conditions
        .into_iter()
        .map(|(argument, compare, value)| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)
        })
        .collect();
    Ok(SeccompRule::new(conditions?)?)
}

fn install(refused: BTreeMap<i64, Vec<SeccompRule>>, error: libc::c_int) -> Result<(), Error> {
    let action = SeccompAction::Errno(error.unsigned_abs());
    let filter = SeccompFilter::new(refused, SeccompAction::Allow, action, ARCHITECTURE)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}
