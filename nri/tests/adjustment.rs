//! What the builders put on the wire, removal markers above all.

use nri::api::{
    Adjustment, CdiDevice, ContainerAdjustment, Hook, Hooks, IoPrioClass, LinuxDevice, LinuxIoPriority,
    LinuxMemoryPolicy, LinuxNamespace, LinuxNetDevice, LinuxRdt, LinuxResources, LinuxScheduler,
    LinuxSchedulerPolicy, LinuxSeccomp, LinuxSyscall, Mount, MpolMode, PosixRlimit,
};

/// The keys an adjustment touches, in the order in which they travel.
fn keys(adjustment: &ContainerAdjustment) -> Vec<&str> {
    let linux = adjustment.linux.iter();
    (adjustment.annotations.keys().map(String::as_str))
        .chain(adjustment.mounts.iter().map(|mount| mount.destination.as_str()))
        .chain(adjustment.env.iter().map(|variable| variable.key.as_str()))
        .chain(linux.flat_map(|linux| {
            (linux.devices.iter().map(|device| device.path.as_str()))
                .chain(linux.net_devices.keys().map(String::as_str))
                .chain(linux.sysctl.keys().map(String::as_str))
                .chain(linux.namespaces.iter().map(|namespace| namespace.r#type.as_str()))
        }))
        .collect()
}

#[test]
fn adding_removing_and_replacing_differ_by_the_marker() {
    let check = |adjustment: ContainerAdjustment, expected: &[&str]| assert_eq!(keys(&adjustment), expected);
    let new = Adjustment::new;

    check(new().annotation("k", "v"), &["k"]);
    check(new().remove_annotation("k"), &["-k"]);

    check(new().mount(Mount::tmpfs("/k")), &["/k"]);
    check(new().remove_mount("/k"), &["-/k"]);
    check(new().replace_mount(Mount::tmpfs("/k")), &["-/k", "/k"]);

    check(new().env("K", "v"), &["K"]);
    check(new().remove_env("K"), &["-K"]);
    check(new().replace_env("K", "v"), &["-K", "K"]);

    let device = || LinuxDevice::character("/dev/k", 1, 2);
    check(new().device(device()), &["/dev/k"]);
    check(new().remove_device("/dev/k"), &["-/dev/k"]);
    check(new().replace_device(device()), &["-/dev/k", "/dev/k"]);

    let device = || LinuxNetDevice::new("inside");
    check(new().net_device("k0", device()), &["k0"]);
    check(new().remove_net_device("k0"), &["-k0"]);
    check(new().replace_net_device("k0", device()), &["-k0", "k0"]);

    check(new().sysctl("k", "1"), &["k"]);
    check(new().remove_sysctl("k"), &["-k"]);
    check(new().replace_sysctl("k", "1"), &["-k", "k"]);

    check(new().namespace(LinuxNamespace::new("ipc", "/k")), &["ipc"]);
    check(new().remove_namespace("ipc"), &["-ipc"]);
}

#[test]
fn replaced_arguments_start_with_an_empty_one() {
    assert_eq!(Adjustment::new().args(["a", "b"]).args, ["a", "b"]);
    assert_eq!(Adjustment::new().replace_args(["a", "b"]).args, ["", "a", "b"]);
}

#[test]
fn replaced_rdt_is_marked() {
    let rdt = |adjustment: ContainerAdjustment| adjustment.linux.unwrap().rdt.unwrap();
    assert!(!rdt(Adjustment::new().rdt(LinuxRdt::new().clos_id("gold"))).remove);
    assert!(
        rdt(Adjustment::new().replace_rdt(LinuxRdt::new().clos_id("gold")))
            .clos_id
            .is_some()
    );
    assert_eq!(
        rdt(Adjustment::new().remove_rdt()),
        LinuxRdt {
            remove: true,
            ..LinuxRdt::default()
        }
    );
}

#[test]
fn hooks_add_up() {
    let hook =
        || Hooks::new().create_runtime(Hook::new("/bin/hook").arg("x").env("K", "v").timeout_seconds(3));
    let hooks = Adjustment::new().hooks(hook()).hooks(hook()).hooks.unwrap();
    assert_eq!(hooks.create_runtime.len(), 2);
    assert_eq!(
        (
            hooks.create_runtime[0].args.as_slice(),
            hooks.create_runtime[0].env[0].as_str()
        ),
        (["/bin/hook".to_owned(), "x".to_owned()].as_slice(), "K=v")
    );
}

#[test]
fn each_of_the_rest_sets_its_field() {
    let linux = Adjustment::new()
        .cgroups_path("/k")
        .oom_score_adj(-5)
        .io_priority(LinuxIoPriority::new(IoPrioClass::IoprioClassBe, 3))
        .seccomp_policy(
            LinuxSeccomp::new("SCMP_ACT_ALLOW")
                .rule(LinuxSyscall::new("SCMP_ACT_ERRNO", ["ptrace"]).errno(1)),
        )
        .scheduler(LinuxScheduler::new(LinuxSchedulerPolicy::SchedBatch).nice(5))
        .memory_policy(LinuxMemoryPolicy::new(MpolMode::MpolBind, "0"))
        .resources(
            LinuxResources::new()
                .pids_limit(9)
                .hugepage_limit("2MB", 4)
                .unified("memory.high", "1"),
        )
        .linux
        .unwrap();
    assert_eq!(
        (linux.cgroups_path.as_str(), linux.oom_score_adj.unwrap().value),
        ("/k", -5)
    );
    assert_eq!(linux.io_priority.unwrap().priority, 3);
    assert_eq!(
        linux.seccomp_policy.unwrap().syscalls[0].errno_ret,
        Some(1.into())
    );
    assert_eq!(linux.scheduler.unwrap().nice, 5);
    assert_eq!(linux.memory_policy.unwrap().mode(), MpolMode::MpolBind);
    let resources = linux.resources.unwrap();
    assert_eq!(
        (resources.pids.unwrap().limit, resources.hugepage_limits[0].limit),
        (9, 4)
    );
    assert_eq!(resources.unified["memory.high"], "1");

    let rest = Adjustment::new()
        .rlimit(PosixRlimit::new("RLIMIT_NOFILE", 1, 2))
        .cdi_device("v.com/c=d");
    assert_eq!((rest.rlimits[0].soft, rest.rlimits[0].hard), (1, 2));
    assert_eq!(rest.cdi_devices, [CdiDevice::new("v.com/c=d")]);
}

#[test]
fn an_adjustment_that_changes_nothing_is_empty() {
    assert!(Adjustment::new().is_empty());
    assert!(!Adjustment::new().oom_score_adj(0).is_empty());
}
