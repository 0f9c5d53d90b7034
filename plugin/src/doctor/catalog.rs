//! Every problem that the doctor can find: what it means, and what to do. `docs/doctor.md` shows the same, and a test holds them to
//! each other.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use serde::Serialize;

/// What of a node is looked at, from top to bottom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// The machine.
    Node,
    /// containerd and its CRI.
    Containerd,
    /// The interface by which podwasm is asked.
    Nri,
    /// `podwasm run`.
    Daemon,
    /// What runs modules.
    Engine,
    /// What compiles them.
    Compiler,
    /// Where they are kept.
    State,
    /// What pods may ask for.
    Policy,
    /// runc, crun and others.
    Runtime,
    /// Control groups.
    Cgroups,
    /// Images and their layers.
    Images,
    /// Name resolution in pods.
    Dns,
    /// What counting requests needs.
    Exporter,
    /// One pod that was asked about.
    Pod,
}

impl Area {
    /// How it is called.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Containerd => "containerd",
            Self::Nri => "nri",
            Self::Daemon => "daemon",
            Self::Engine => "engine",
            Self::Compiler => "compiler",
            Self::State => "state",
            Self::Policy => "policy",
            Self::Runtime => "runtime",
            Self::Cgroups => "cgroups",
            Self::Images => "images",
            Self::Dns => "dns",
            Self::Exporter => "exporter",
            Self::Pod => "pod",
        }
    }
}

/// How much something matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It could not be looked at.
    Unknown,
    /// It works, but not as well as it could, or not for everyone.
    Warn,
    /// Something does not work.
    Fail,
}

/// A problem that there can be.
#[derive(Debug)]
pub struct Check {
    /// Its name, which stays.
    pub id: &'static str,
    /// What it is about.
    pub area: Area,
    /// How much it usually matters.
    pub severity: Severity,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub fix: &'static str,
}

macro_rules! checks {
    ($($name:ident = $id:literal, $area:ident, $severity:ident: $meaning:literal, $fix:literal;)*) => {
        $(
            #[doc = $meaning]
            pub static $name: Check = Check {
                id: $id,
                area: Area::$area,
                severity: Severity::$severity,
                meaning: $meaning,
                fix: $fix,
            };
        )*
        /// All of them, from top to bottom.
        pub static ALL: &[&Check] = &[$(&$name),*];
    };
}

checks! {
    NOT_ROOT = "not-root", Node, Unknown:
        "Without root, much of a node cannot be looked at; what follows is what could be.",
        "Run `sudo podwasm doctor`.";
    CLOCK_WRONG = "clock-wrong", Node, Fail:
        "The clock is earlier than podwasm itself. Certificates of registries are not valid yet, so images are not pulled, and what was \
         used last in the cache is not known.",
        "Set the clock, and have it kept: `timedatectl set-ntp true`.";
    DISK_FULL = "disk-full", Node, Fail:
        "There is no room left for images or containers.",
        "Make room: `crictl rmi --prune` removes images that no container uses; then look at logs and at what else is on this disk.";
    DISK_TIGHT = "disk-tight", Node, Warn:
        "The disk, or its inodes, is nearly used up. A kubelet evicts pods and removes images when less than 10 to 15 % is left.",
        "Make room: `crictl rmi --prune` removes images that no container uses.";

    CONTAINERD_SOCKET_MISSING = "containerd-socket-missing", Containerd, Fail:
        "containerd's socket is not there: containerd does not run, or it listens elsewhere.",
        "Start it (`systemctl start containerd`), or name its socket with `--containerd-socket`. The daemon needs the same flag.";
    CONTAINERD_SOCKET_DENIED = "containerd-socket-denied", Containerd, Unknown:
        "containerd's socket is root's.",
        "Run `sudo podwasm doctor`.";
    CONTAINERD_DOWN = "containerd-down", Containerd, Fail:
        "The socket is there, but nobody listens: containerd has ended, and left its socket behind.",
        "See why: `journalctl -u containerd -n 50`. Then start it: `systemctl start containerd`.";
    CONTAINERD_SILENT = "containerd-silent", Containerd, Fail:
        "containerd took the connection and does not answer, as one that is stuck or overloaded, or what listens is no containerd.",
        "See what it does: `journalctl -u containerd -n 50`. A restart leaves pods running: `systemctl restart containerd`.";
    CONTAINERD_OLD = "containerd-old", Containerd, Fail:
        "This containerd has no NRI that podwasm can use; 1.7 is the first that has.",
        "Upgrade to containerd 1.7 or later; with 2.0 and later there is nothing to configure.";
    CRI_MISSING = "cri-missing", Containerd, Fail:
        "containerd runs without its CRI plugin, so no kubelet can use it. Packages made for Docker switch it off.",
        "Remove `\"cri\"` from `disabled_plugins` in containerd's configuration, and restart containerd.";
    CRI_NOT_READY = "cri-not-ready", Containerd, Fail:
        "containerd tells the kubelet that it is not ready, so no pod is started here.",
        "Without a network plugin's configuration the network is not ready: install one, or look into `/etc/cni/net.d`.";

    NRI_OFF = "nri-off", Nri, Fail:
        "NRI is switched off in containerd's configuration, as it is by default in 1.7. podwasm is asked about no container, and Wasm \
         containers end with `exec format error`.",
        "Switch it on, and restart containerd. Where containerd is the machine's own, `podwasm nri enable` does both, and goes back if it does not \
         come up.";
    NRI_NEEDS_RESTART = "nri-needs-restart", Nri, Fail:
        "containerd's configuration says that NRI is on, but its socket is not there: containerd was not restarted since, or could not \
         make the socket.",
        "Restart containerd. If the socket is still missing, `journalctl -u containerd | grep -i nri` says why.";
    NRI_SOCKET_MISSING = "nri-socket-missing", Nri, Fail:
        "NRI's socket is not there: NRI is off, or its socket is elsewhere.",
        "See `containerd config dump`, section `io.containerd.nri.v1.nri`: `disable` has to be false, and `socket_path` is what \
         `podwasm run --nri-socket` needs.";
    NRI_SOCKET_ELSEWHERE = "nri-socket-elsewhere", Nri, Fail:
        "containerd has its NRI socket elsewhere than podwasm looks for it.",
        "Start the daemon with `--nri-socket` and containerd's `socket_path`.";

    DAEMON_DOWN = "daemon-down", Daemon, Fail:
        "No podwasm runs on this node. Wasm containers that are created now end with `exec format error`; those that run go on.",
        "Start `podwasm run`, or see why its pod does not run: `kubectl -n podwasm get pods -o wide`.";
    DAEMON_SILENT = "daemon-silent", Daemon, Fail:
        "The daemon's process is there, but its HTTP endpoint does not answer.",
        "See its log. If it listens elsewhere, say so with `--http`.";
    DAEMON_NOT_REGISTERED = "daemon-not-registered", Daemon, Fail:
        "The daemon runs, but is not registered with NRI: it is asked about no container.",
        "If NRI is on, its log says why it is turned away; it tries again by itself.";
    DAEMON_NOT_READY = "daemon-not-ready", Daemon, Fail:
        "The daemon runs, but does not reach what it needs.",
        "Look at containerd above, and start the daemon with the same `--containerd-socket`.";
    DAEMON_OTHER_VERSION = "daemon-other-version", Daemon, Warn:
        "The daemon is of another version than this program, so what this one says of policy and rules may not be what the daemon does.",
        "Restart the daemon after an upgrade, or run the `podwasm` that belongs to it.";
    DAEMON_OTHER_ENGINE = "daemon-other-engine", Daemon, Warn:
        "The engine's bundle was replaced since the daemon started. New containers get the new engine, but no native code: that was made for \
         the one that the daemon knows.",
        "Restart the daemon; running containers do not depend on it.";
    DAEMONS_MANY = "daemons-many", Daemon, Warn:
        "More than one podwasm runs on this node. During a rolling update that is as it should be, and they agree; for longer, both do the \
         same work.",
        "If no update is under way, end one: most likely one was started by hand or by systemd beside the DaemonSet.";
    DAEMONS_DISAGREE = "daemons-disagree", Daemon, Fail:
        "More than one podwasm runs on this node, and they are of different builds. Where they want different things of a container, its \
         creation fails with `both tried to set`.",
        "End the older one.";
    DAEMON_UNOBSERVED = "daemon-unobserved", Daemon, Warn:
        "Containers were started without having been looked at, because containerd did not answer within a decision's time.",
        "The daemon's log names them (`unobserved`). See whether containerd or the disk was overloaded; a restart of such a pod is looked at anew.";

    ENGINE_MISSING = "engine-missing", Engine, Fail:
        "The engine's bundle is not there or not whole. The daemon does not start without it, and containers that mount it fail.",
        "Install it again, or name its folder with `--engine`.";
    ENGINE_DAMAGED = "engine-damaged", Engine, Fail:
        "The bundle is not what was built: a file was changed, added, removed, or cut short by a full disk.",
        "Install it again.";
    ENGINE_NOEXEC = "engine-noexec", Engine, Warn:
        "The bundle lies on a mount with `noexec`. runc and crun make mounts of their own that do not inherit that, but where a pod has a user \
         namespace (`hostUsers: false`) the kernel may not let them, and then no engine starts.",
        "Remount without `noexec`, or put the bundle elsewhere and name it with `--engine`.";
    ENGINE_BROKEN = "engine-broken", Engine, Fail:
        "The engine did not run a module in an empty root file system and namespaces of its own, so it will not in a container.",
        "See what it said. If the bundle is whole, the kernel or a security module keeps it from running: look at `dmesg`.";
    ENGINE_EXIT_CODES = "engine-exit-codes", Engine, Fail:
        "The engine ran, but exit codes do not come through: a guest that fails would count as one that succeeded.",
        "Install the bundle again; if that does not help, report it.";
    ENGINE_NOT_TRIED = "engine-not-tried", Engine, Unknown:
        "The engine could not be tried here.",
        "It needs root, and leave to make namespaces: run the doctor on the node itself.";
    NATIVE_BROKEN = "native-broken", Engine, Fail:
        "A module ran interpreted, but not in the native code that this node compiled for it: containers would fall back to the interpreter, \
         which is some fifty times slower and needs 30 MB for each MB of module.",
        "See what the engine said; engine and compiler of different builds are the usual cause. Install both again.";

    COMPILER_MISSING = "compiler-missing", Compiler, Warn:
        "There is no compiler, so modules are interpreted: some fifty times slower, and with 30 MB of memory for each MB of module.",
        "Install the compiler's bundle, or name its folder with `--compiler`.";
    COMPILER_BROKEN = "compiler-broken", Compiler, Fail:
        "The compiler does not compile even a tiny module here, so modules are interpreted.",
        "See what it said. Its limits are the policy's `compile`; a kernel without seccomp filters cannot run it.";
    COMPILER_NO_LANDLOCK = "compiler-no-landlock", Compiler, Warn:
        "The kernel has no Landlock, so the compiler, which reads strangers' modules, is kept from files by its user's rights alone.",
        "Linux 5.13 and later have it; add `landlock` to the kernel's `lsm=` if it is left out there.";

    STATE_MISSING = "state-missing", State, Warn:
        "There is no state folder yet; the daemon makes it when it starts.",
        "Nothing, if the daemon never ran here. Otherwise name its folder with `--state`.";
    STATE_OPEN = "state-open", State, Fail:
        "The state folder is not root's alone. Native code from it runs in containers, so whoever can write there runs code in all of them.",
        "`chown -R root:root FOLDER && chmod 700 FOLDER`, then `podwasm cache verify`.";
    STATE_UNWRITABLE = "state-unwritable", State, Fail:
        "Nothing can be written to the state folder, so modules that are not there yet are refused.",
        "If the mount is read-only, the kernel may have made it so after a disk error: see `dmesg`.";
    STATE_FULL = "state-full", State, Fail:
        "There is no room for modules: a container with one that is not there yet is refused.",
        "Make room on the disk; `podwasm cache gc --budget 0` removes all modules that no container uses.";
    STATE_TIGHT = "state-tight", State, Warn:
        "The disk has less room than the policy lets the cache grow to.",
        "Make room, or lower `cache_size` in the policy.";
    STATE_NOEXEC = "state-noexec", State, Warn:
        "The state folder's disk is mounted with `noexec`. runc and crun make mounts of their own that do not inherit that, but where a pod has a \
         user namespace (`hostUsers: false`) the kernel may not let them, and then native code cannot be mapped and modules are interpreted.",
        "Remount it without `noexec`, or put the state elsewhere with `--state`.";
    CACHE_DAMAGED = "cache-damaged", State, Fail:
        "Files in the cache are not what was put there. Disks and people do that; the daemon finds it only at its next start.",
        "`podwasm cache verify` drops what is damaged, and it is made again. See `dmesg` for errors of the disk.";

    POLICY_INVALID = "policy-invalid", Policy, Fail:
        "The policy has mistakes. A daemon that starts refuses it and ends; one that runs keeps the policy it had before.",
        "Correct the line that is named; `docs/policy.yaml` has every key.";
    POLICY_MISSING = "policy-missing", Policy, Fail:
        "The policy's file that was named is not there or cannot be read.",
        "Correct the path in the daemon's `--config`.";

    RUNTIME_MISSING = "runtime-missing", Runtime, Fail:
        "containerd's configuration names a runtime that is not there: pods that use it fail with `executable file not found`.",
        "Install it, or correct `BinaryName` in containerd's configuration.";
    RUNTIME_BROKEN = "runtime-broken", Runtime, Fail:
        "The runtime does not even tell its version, so no container starts with it.",
        "See what it said; a missing library is the usual cause.";
    CRUN_WITHOUT_WASM = "crun-without-wasm", Runtime, Fail:
        "The policy has modules run by crun's own Wasm handler, but the node's runtime has none: containers end with `exec format error`.",
        "Set `handler: engine` in the policy (any runtime will do), or install a crun that shows `+WASM:wasmedge` in `crun --version`.";
    CRUN_OLD = "crun-old", Runtime, Warn:
        "This crun's Wasm handler is too old for Kubernetes: below 1.4.4 modules beside native containers are not told apart, below 1.4 \
         nothing starts under containerd, and the visible sign is an empty `kubectl logs`.",
        "Upgrade crun, or leave modules to podwasm's engine (`handler: engine`), which needs no Wasm in crun.";
    CRUN_HYBRID_CGROUPS = "crun-hybrid-cgroups", Runtime, Fail:
        "crun 1.21 and later refuse to start anything while cgroup version 1 is mounted only in part.",
        "Boot with `systemd.unified_cgroup_hierarchy=1`, or mount the missing controllers: `mkdir /sys/fs/cgroup/NAME && mount -t cgroup -o \
         NAME cgroup /sys/fs/cgroup/NAME`.";

    CGROUP_NO_MEMORY = "cgroup-no-memory", Cgroups, Fail:
        "The kernel has no memory controller switched on, so limits of memory do not hold. Raspberry Pi's kernels come like that.",
        "Add `cgroup_memory=1 cgroup_enable=memory` to the kernel's command line and reboot.";

    SNAPSHOTTER_UNREADABLE = "snapshotter-unreadable", Images, Fail:
        "This snapshotter does not keep layers as folders, so podwasm cannot look into images before they run: what points to Wasm is \
         refused, the rest starts unlooked at.",
        "Use `overlayfs` or `native` for pods that run Wasm.";
    IMAGE_UNREADABLE = "image-unreadable", Images, Warn:
        "The image is not on this node, or cannot be read.",
        "If its pull fails with `no match for platform in manifest`, see `podwasm doctor --explain image-pull`.";
    IMAGE_WASI_ONLY_INDEX = "image-wasi-only-index", Images, Fail:
        "The image is an index that lists nothing but Wasm platforms, as `docker buildx --platform wasi/wasm` makes it. Kubernetes refuses to \
         pull that: `no match for platform in manifest`.",
        "The image's owner builds it with `--provenance=false`, or with `--platform linux/amd64,linux/arm64`: a module does not care.";
    IMAGE_OTHER_MACHINE = "image-other-machine", Images, Fail:
        "The image is an index without anything for this machine, so Kubernetes refuses to pull it.",
        "Build it for this machine's platform.";
    IMAGE_REFUSED = "image-refused", Images, Fail:
        "A container of this image would not run.",
        "`podwasm inspect IMAGE` tells all that is known of it.";

    DNS_LOOPBACK = "dns-loopback", Dns, Fail:
        "A pod's resolv.conf names a loopback address. In the pod's network that is the pod itself, where no name server listens, so no name \
         resolves.",
        "The kubelet copied the node's own resolv.conf. Give it the real one: `resolvConf: /run/systemd/resolve/resolv.conf` in the kubelet's \
         configuration (K3s: `--resolv-conf`), and make the pods anew.";
    DNS_NONE = "dns-none", Dns, Fail:
        "A pod's resolv.conf names no name server, so the loopback address is asked, where none listens.",
        "Set the pod's `dnsPolicy: ClusterFirst` or give it a `dnsConfig`.";
    DNS_UNREACHABLE = "dns-unreachable", Dns, Fail:
        "A pod's name server does not answer from the pod's network: names resolve in no container of it, native or Wasm.",
        "See whether CoreDNS runs (`kubectl -n kube-system get pods -l k8s-app=kube-dns`), and whether a NetworkPolicy or the node's \
         firewall keeps UDP port 53 from the pod.";
    DNS_NODE_LOOPBACK = "dns-node-loopback", Dns, Warn:
        "The node's own resolv.conf names only loopback addresses, as systemd-resolved writes it. Pods with `dnsPolicy: Default`, CoreDNS \
         among them, get it unless the kubelet was given another.",
        "`resolvConf: /run/systemd/resolve/resolv.conf` in the kubelet's configuration; K3s finds it by itself.";

    EXPORTER_NO_SOCKETS = "exporter-no-sockets", Exporter, Warn:
        "Packet sockets cannot be opened, so podwasm-exporter cannot count requests.",
        "It needs CAP_NET_RAW, and a kernel with CONFIG_PACKET.";
    EXPORTER_NO_BPF = "exporter-no-bpf", Exporter, Warn:
        "The kernel does not take BPF programs from this process. podwasm-exporter then uses a plainer filter, which costs more CPU under load; \
         counts are the same.",
        "Give the exporter CAP_BPF, or CAP_SYS_ADMIN before Linux 5.8; a kernel in lockdown `confidentiality` refuses all the same.";
    EXPORTER_NOT_READY = "exporter-not-ready", Exporter, Warn:
        "podwasm-exporter runs, but does not call itself ready: its counts are not complete, so scaling stands still.",
        "See its log. Most likely it is not registered with NRI: see above.";

    CONTAINER_UNADJUSTED = "container-unadjusted", Pod, Fail:
        "The container holds a module but was created without podwasm: the runtime then executes the module itself, and that is `exec format \
         error`.",
        "podwasm was not connected at that moment. See the checks of nri and daemon; then delete the pod, so that it is created anew.";
    CONTAINER_INTERPRETED = "container-interpreted", Pod, Warn:
        "The container runs interpreted: slowly, and with 30 MB of memory for each MB of module.",
        "If its module is compiled by now (`podwasm cache ls`), a restart of the pod runs it natively.";
    CONTAINER_OOM = "container-oom", Pod, Fail:
        "The container was killed for taking more memory than its limit.",
        "Raise the limit. An interpreted module needs 30 MB for each MB of module to start: `aot: required`, or a longer `wait`, avoids \
         that.";
    CONTAINER_TRAPPED = "container-trapped", Pod, Fail:
        "The guest trapped: exit code 134, and one line on stderr that says where.",
        "`kubectl logs` has the line. It is the guest's own fault, such as `unreachable` after a panic.";
    CONTAINER_NOT_STARTED = "container-not-started", Pod, Fail:
        "The engine could not start the module: exit code 126, and one line on stderr that says why.",
        "`kubectl logs` has the line; `podwasm inspect IMAGE` tells what a module imports that the engine does not have.";
    CONTAINER_KILLED = "container-killed", Pod, Warn:
        "The container was killed with SIGKILL, but not for memory: it did not end within its grace period, or somebody killed it.",
        "With the engine SIGTERM ends a guest at once; with crun's handler or a long `drain` it takes the whole grace period.";
    CONTAINER_FAILED = "container-failed", Pod, Warn:
        "The container ended with an exit code of its own.",
        "That is the program's own; `kubectl logs` may say more.";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A section of the page, as it has to be there.
    fn section(check: &Check) -> String {
        let severity = match check.severity {
            Severity::Fail => "fail",
            Severity::Warn => "warn",
            _ => "unknown",
        };
        format!(
            "### `{}`\n\n*{severity}.* {}\n\n**Do:** {}\n",
            check.id, check.meaning, check.fix
        )
    }

    #[test]
    fn the_page_and_the_checks_say_the_same() {
        let page = include_str!("../../../docs/doctor.md");
        for check in ALL {
            let section = section(check);
            assert!(page.contains(&section), "docs/doctor.md lacks:\n{section}");
        }
        let sections = page.lines().filter(|line| line.starts_with("### `")).count();
        assert_eq!(sections, ALL.len(), "docs/doctor.md has sections of no check");
    }

    #[test]
    fn names_are_unique_and_checks_lie_in_their_order() {
        for pair in ALL.windows(2) {
            assert!(pair[0].area <= pair[1].area, "{} and {}", pair[0].id, pair[1].id);
        }
        let mut names: Vec<_> = ALL.iter().map(|check| check.id).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        assert!(
            names
                .iter()
                .all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        );
    }
}
