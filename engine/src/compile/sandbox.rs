//! What the compiler locks itself in with before it reads a byte of a module.
//!
//! From then on it can allocate memory, start threads, and make files in its working directory; a system call that is not in the list
//! ends the process. A kernel without Landlock leaves it what its user may open, and that is said.

use std::collections::BTreeMap;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use thiserror::Error;

/// Why it cannot be locked in.
#[derive(Debug, Error)]
pub enum SandboxError {
    #[error("the filter for system calls cannot be made")]
    Filter(#[from] seccompiler::BackendError),
    #[error("the filter for system calls cannot be installed")]
    Install(#[from] seccompiler::Error),
    #[error("Landlock cannot be set up")]
    Landlock(#[from] landlock::RulesetError),
    #[error("the working directory cannot be opened")]
    WorkingDirectory(#[from] landlock::PathFdError),
}

/// What is said where the kernel has no Landlock.
const NO_LANDLOCK: &str =
    "this kernel has no Landlock, so files are kept from the compiler by its user's rights alone";

/// All that compiling needs, whatever the arguments: memory, threads, its own signals and its files.
const ALLOWED: [i64; 44] = [
    libc::SYS_access,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    // See `WITHOUT`.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_poll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_uname,
    libc::SYS_unlink,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What looks as if the kernel did not have it. The flags of `clone3` cannot be looked at, and the C library
/// takes `clone` instead.
const WITHOUT: i64 = libc::SYS_clone3;

/// Locks this process in. Returns what could not be done for want of a newer kernel.
pub fn enter() -> Result<Option<&'static str>, SandboxError> {
    let restricted = restrict_files()?;
    install(
        [(WITHOUT, Vec::new())],
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
    )?;
    let always = ALLOWED.into_iter().map(|call| (call, Vec::new()));
    install(
        always.chain(limited()?),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
    )?;
    Ok((!restricted).then_some(NO_LANDLOCK))
}

/// Leaves nothing of the file system but the working directory. Says whether the kernel can do that.
fn restrict_files() -> Result<bool, SandboxError> {
    let known = ABI::V6;
    let own_files = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::Truncate;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(known))?
        .handle_access(AccessNet::from_all(known))?
        .scope(Scope::from_all(known))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(".")?, own_files))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// What is allowed with some arguments only: new threads but not processes, memory but not for code, and so on.
fn limited() -> Result<Vec<(i64, Vec<SeccompRule>)>, SandboxError> {
    let thread = bits(libc::CLONE_THREAD.unsigned_abs());
    let code = bits(libc::PROT_EXEC.unsigned_abs());
    Ok(vec![
        rule(libc::SYS_clone, 0, SeccompCmpOp::MaskedEq(thread), thread)?,
        rule(libc::SYS_ioctl, 1, SeccompCmpOp::Eq, libc::TCGETS)?,
        rule(libc::SYS_mmap, 2, SeccompCmpOp::MaskedEq(code), 0)?,
        rule(libc::SYS_mprotect, 2, SeccompCmpOp::MaskedEq(code), 0)?,
        rule(
            libc::SYS_prctl,
            0,
            SeccompCmpOp::Eq,
            bits(libc::PR_SET_NAME.unsigned_abs()),
        )?,
        // To ask, not to set.
        rule(libc::SYS_prlimit64, 2, SeccompCmpOp::Eq, 0)?,
    ])
}

fn bits(value: u32) -> u64 {
    value.into()
}

fn rule(
    call: i64,
    argument: u8,
    compare: SeccompCmpOp,
    value: u64,
) -> Result<(i64, Vec<SeccompRule>), SandboxError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, compare, value)?;
    Ok((call, vec![SeccompRule::new(vec![condition])?]))
}

fn install(
    rules: impl IntoIterator<Item = (i64, Vec<SeccompRule>)>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<(), SandboxError> {
    let rules: BTreeMap<_, _> = rules.into_iter().collect();
    let filter = SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}
