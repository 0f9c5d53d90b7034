use std::net::IpAddr;

use super::*;
use crate::doctor::catalog;
use crate::doctor::facts::*;
use crate::policy::Policy;

/// Breaks a healthy node, and expects these problems and no others.
#[track_caller]
fn check(change: impl FnOnce(&mut Facts), expected: &[&Check]) {
    let mut facts = Facts::healthy();
    change(&mut facts);
    let findings = diagnose(&facts);
    let found: Vec<_> = findings.iter().filter_map(|finding| finding.id).collect();
    let expected: Vec<_> = expected.iter().map(|check| check.id).collect();
    assert_eq!(found, expected, "{findings:#?}");
}

fn daemon(facts: &mut Facts) -> &mut Daemon {
    &mut facts.daemons.as_mut().unwrap()[0]
}

fn state(facts: &mut Facts) -> &mut StateFolder {
    facts.state.found.as_mut().unwrap().as_mut().unwrap()
}

fn ended(code: i32, stdout: &str, stderr: &str) -> Trial {
    Trial::Ended {
        code: Some(code),
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
    }
}

#[test]
fn a_healthy_node_has_no_problem_and_nothing_unknown() {
    let findings = diagnose(&Facts::healthy());
    assert!(
        findings.iter().all(|finding| finding.severity == Severity::Ok),
        "{findings:#?}"
    );
    let mut areas: Vec<_> = findings.iter().map(|finding| finding.area).collect();
    assert!(areas.is_sorted(), "{areas:?}");
    areas.dedup();
    assert_eq!(
        areas.len(),
        13,
        "each area but the pod's says something: {areas:?}"
    );
}

#[test]
fn the_machine() {
    check(|facts| facts.is_root = false, &[&catalog::NOT_ROOT]);
    check(|facts| facts.clock_is_behind = true, &[&catalog::CLOCK_WRONG]);
    check(
        |facts| facts.disks[0].free_bytes = 1 << 20,
        &[&catalog::DISK_FULL],
    );
    check(
        |facts| facts.disks[0].free_inodes_percent = 0,
        &[&catalog::DISK_FULL],
    );
    check(
        |facts| facts.disks[0].free_inodes_percent = 3,
        &[&catalog::DISK_TIGHT],
    );
    check(|facts| facts.disks[0].free_percent = 9, &[&catalog::DISK_TIGHT]);
}

#[test]
fn containerd() {
    let reach = |reach: Reach, expected| {
        check(
            |facts| {
                facts.containerd.reach = reach;
                facts.cri = None;
            },
            &[expected],
        );
    };
    reach(Reach::Missing, &catalog::CONTAINERD_SOCKET_MISSING);
    reach(Reach::Denied, &catalog::CONTAINERD_SOCKET_DENIED);
    reach(Reach::Refused, &catalog::CONTAINERD_DOWN);
    reach(Reach::Silent, &catalog::CONTAINERD_SILENT);
    reach(
        Reach::Failed("it is no socket".to_owned()),
        &catalog::CONTAINERD_SILENT,
    );
    reach(Reach::Answers("v1.6.20".to_owned()), &catalog::CONTAINERD_OLD);
    let cri = |cri: Learnt<Cri>, expected| check(|facts| facts.cri = Some(cri), &[expected]);
    cri(
        Err("unknown service runtime.v1.RuntimeService".to_owned()),
        &catalog::CRI_MISSING,
    );
    let unready = Cri {
        unready: vec!["NetworkReady: cni plugin not initialized".to_owned()],
        ..Cri::default()
    };
    cri(Ok(unready), &catalog::CRI_NOT_READY);
}

#[test]
fn nri() {
    let missing = |change: fn(&mut Facts), expected: &[&Check]| {
        let all = |facts: &mut Facts| {
            facts.nri.is_there = Some(false);
            change(facts);
        };
        check(all, expected);
    };
    missing(
        |facts| facts.containerd.nri.as_mut().unwrap().is_off = true,
        &[&catalog::NRI_OFF],
    );
    missing(|_| (), &[&catalog::NRI_NEEDS_RESTART]);
    missing(
        |facts| facts.containerd.nri.as_mut().unwrap().socket = "/run/elsewhere/nri.sock".into(),
        &[&catalog::NRI_SOCKET_ELSEWHERE],
    );
    missing(
        |facts| facts.containerd.nri = Err("no containerd".to_owned()),
        &[&catalog::NRI_SOCKET_MISSING],
    );
    check(|facts| facts.nri.is_there = None, &[]);
    check(
        |facts| facts.containerd.nri = Err("no containerd".to_owned()),
        &[],
    );
}

#[test]
fn nri_that_is_off_is_switched_on_in_this_nodes_own_way() {
    let mut facts = Facts::healthy();
    facts.nri.is_there = Some(false);
    facts.containerd.nri = Ok(NriConfig {
        is_off: true,
        ..NriConfig::default()
    });
    facts.distribution = crate::doctor::distribution::Distribution::K3s;
    let findings = diagnose(&facts);
    let found = findings.iter().find(|finding| finding.id == Some("nri-off"));
    let fix = found
        .and_then(|finding| finding.fix.as_deref())
        .unwrap_or_default();
    assert!(
        fix.contains("k3s/agent/etc/containerd/config.toml.tmpl") && fix.contains("restart k3s"),
        "{fix}"
    );
}

#[test]
fn daemons() {
    check(|facts| facts.daemons = Ok(Vec::new()), &[&catalog::DAEMON_DOWN]);
    check(|facts| facts.daemons = Err("no /proc".to_owned()), &[]);
    check(
        |facts| daemon(facts).ready = Some(Err("refused".to_owned())),
        &[&catalog::DAEMON_SILENT],
    );
    check(
        |facts| daemon(facts).ready = Some(Ok("not registered with NRI\n".to_owned())),
        &[&catalog::DAEMON_NOT_REGISTERED],
    );
    check(
        |facts| daemon(facts).ready = Some(Ok("containerd could not tell its version\n".to_owned())),
        &[&catalog::DAEMON_NOT_READY],
    );
    check(
        |facts| daemon(facts).version = "0.0.9".to_owned(),
        &[&catalog::DAEMON_OTHER_VERSION],
    );
    check(
        |facts| daemon(facts).engine = "e0".to_owned(),
        &[&catalog::DAEMON_OTHER_ENGINE],
    );
    check(
        |facts| daemon(facts).unobserved = 2,
        &[&catalog::DAEMON_UNOBSERVED],
    );
    let twice = |facts: &mut Facts, version: &str| {
        let mut second = daemon(facts).clone();
        second.version = version.to_owned();
        facts.daemons.as_mut().unwrap().push(second);
    };
    check(|facts| twice(facts, "0.1.0"), &[&catalog::DAEMONS_MANY]);
    check(
        |facts| twice(facts, "0.0.9"),
        &[&catalog::DAEMONS_DISAGREE, &catalog::DAEMON_OTHER_VERSION],
    );
}

#[test]
fn engine_and_compiler() {
    check(
        |facts| facts.engine.version = Err("engine is missing".to_owned()),
        &[&catalog::ENGINE_MISSING],
    );
    check(
        |facts| facts.engine.is_whole = Some(false),
        &[&catalog::ENGINE_DAMAGED],
    );
    check(|facts| facts.engine.noexec = true, &[&catalog::ENGINE_NOEXEC]);
    check(
        |facts| facts.engine.ran = ended(126, "", "podwasm: no"),
        &[&catalog::ENGINE_BROKEN],
    );
    check(
        |facts| facts.engine.ran = Trial::Unstartable("denied".to_owned()),
        &[&catalog::ENGINE_BROKEN],
    );
    check(
        |facts| facts.engine.ran = ended(0, "podwasm\n", ""),
        &[&catalog::ENGINE_EXIT_CODES],
    );
    check(
        |facts| facts.engine.trapped = ended(0, "", ""),
        &[&catalog::ENGINE_EXIT_CODES],
    );
    check(
        |facts| facts.engine.ran = Trial::NotTried("not root".to_owned()),
        &[&catalog::ENGINE_NOT_TRIED],
    );
    let fell_back = ended(7, "podwasm\n", "podwasm: native code cannot be loaded");
    check(
        |facts| facts.engine.native = fell_back,
        &[&catalog::NATIVE_BROKEN],
    );
    check(
        |facts| facts.compiler.build = Err("/x/VERSION is missing".to_owned()),
        &[&catalog::COMPILER_MISSING],
    );
    check(
        |facts| facts.compiler.build = Err("it does not answer".to_owned()),
        &[&catalog::COMPILER_BROKEN],
    );
    check(
        |facts| facts.compiler.compiled = Err("killed".to_owned()),
        &[&catalog::COMPILER_BROKEN],
    );
    check(
        |facts| facts.compiler.compiled = Ok("this kernel has no Landlock".to_owned()),
        &[&catalog::COMPILER_NO_LANDLOCK],
    );
}

#[test]
fn state_folders() {
    check(|facts| facts.state.found = None, &[&catalog::STATE_MISSING]);
    check(
        |facts| facts.state.found = Some(Err("it is root's".to_owned())),
        &[],
    );
    check(|facts| state(facts).owner = 1000, &[&catalog::STATE_OPEN]);
    check(|facts| state(facts).mode = 0o777, &[&catalog::STATE_OPEN]);
    check(|facts| state(facts).free_bytes = 0, &[&catalog::STATE_FULL]);
    check(
        |facts| state(facts).free_bytes = 1 << 30,
        &[&catalog::STATE_TIGHT],
    );
    check(
        |facts| state(facts).write = Some(Err("read-only".to_owned())),
        &[&catalog::STATE_UNWRITABLE],
    );
    check(|facts| state(facts).noexec = true, &[&catalog::STATE_NOEXEC]);
    check(
        |facts| state(facts).damaged = vec!["a module".to_owned()],
        &[&catalog::CACHE_DAMAGED],
    );
    check(|facts| state(facts).unread = 3, &[]);
}

#[test]
fn policies() {
    let invalid = PolicyProblem::Invalid("line 2".to_owned());
    check(
        |facts| facts.policy.policy = Err(invalid),
        &[&catalog::POLICY_INVALID],
    );
    let missing = PolicyProblem::Missing("no such file".to_owned());
    check(
        |facts| facts.policy.policy = Err(missing),
        &[&catalog::POLICY_MISSING],
    );
    let mut facts = Facts::healthy();
    facts.policy.path = Some("/etc/p.yaml".into());
    facts.policy.policy = Ok(Policy::parse("sockets: false\nmax_drain: 1s").unwrap());
    let said = diagnose(&facts)
        .into_iter()
        .find(|finding| finding.area == Area::Policy)
        .unwrap();
    assert!(said.seen.contains("it changes max_drain, sockets"), "{said:?}");
}

#[test]
fn runtimes() {
    let crun = |facts: &mut Facts, said: &str| facts.runtimes[0].version = Ok(said.to_owned());
    let wants_crun = |facts: &mut Facts| facts.policy.policy = Ok(Policy::parse("handler: crun").unwrap());
    check(
        |facts| facts.runtimes[0].is_there = false,
        &[&catalog::RUNTIME_MISSING],
    );
    check(
        |facts| facts.runtimes[0].version = Err("libyajl is missing".to_owned()),
        &[&catalog::RUNTIME_BROKEN],
    );
    check(wants_crun, &[&catalog::CRUN_WITHOUT_WASM]);
    let both = |facts: &mut Facts| {
        crun(facts, "crun version 1.28\n+SYSTEMD +YAJL");
        wants_crun(facts);
    };
    check(both, &[&catalog::CRUN_WITHOUT_WASM]);
    let both = |facts: &mut Facts| {
        crun(facts, "crun version 1.21\n+SYSTEMD +WASM:wasmedge +YAJL");
        wants_crun(facts);
    };
    check(both, &[]);
    check(
        |facts| crun(facts, "crun version 1.4.3\n+WASM:wasmedge"),
        &[&catalog::CRUN_OLD],
    );
    check(|facts| crun(facts, "crun version 1.4.3"), &[]);
    let hybrid = |facts: &mut Facts, said: &str| {
        crun(facts, said);
        facts.cgroups = Ok(Cgroups {
            has_memory: true,
            unmounted: vec!["hugetlb".to_owned()],
            version: "hybrid",
        });
    };
    check(
        |facts| hybrid(facts, "crun version 1.21"),
        &[&catalog::CRUN_HYBRID_CGROUPS],
    );
    check(|facts| hybrid(facts, "crun version 1.20"), &[]);
    let foreign = |facts: &mut Facts| facts.runtimes[0].shim = "io.containerd.wasmtime.v1".to_owned();
    check(foreign, &[]);
}

#[test]
fn a_runtime_that_is_not_the_default_is_a_warning() {
    let mut facts = Facts::healthy();
    facts.runtimes[0].is_default = false;
    facts.runtimes[0].is_there = false;
    let found = diagnose(&facts)
        .into_iter()
        .find(|finding| finding.id == Some("runtime-missing"));
    assert_eq!(found.map(|finding| finding.severity), Some(Severity::Warn));
}

#[test]
fn kernels() {
    let no_memory = Cgroups {
        version: "v2",
        ..Cgroups::default()
    };
    check(
        |facts| facts.cgroups = Ok(no_memory),
        &[&catalog::CGROUP_NO_MEMORY],
    );
    check(
        |facts| facts.exporter.bpf = Err("EPERM".to_owned()),
        &[&catalog::EXPORTER_NO_BPF],
    );
    check(
        |facts| facts.exporter.packet_socket = Err("EPERM".to_owned()),
        &[&catalog::EXPORTER_NO_SOCKETS],
    );
    let unprivileged = |facts: &mut Facts| {
        facts.is_root = false;
        facts.exporter.packet_socket = Err("EPERM".to_owned());
    };
    check(unprivileged, &[&catalog::NOT_ROOT]);
    check(
        |facts| facts.exporter.ready = Some(Ok("not registered\n".to_owned())),
        &[&catalog::EXPORTER_NOT_READY],
    );
}

#[test]
fn images() {
    let unreadable = Some(Err("a \"btrfs\" mount".to_owned()));
    check(
        |facts| facts.snapshot = unreadable,
        &[&catalog::SNAPSHOTTER_UNREADABLE],
    );
    let image = |found: Learnt<ImageForm>, expected: &[&Check]| {
        let name = "app".to_owned();
        check(|facts| facts.image = Some(Image { name, found }), expected);
    };
    image(Ok(ImageForm::OnlyWasmIndex), &[&catalog::IMAGE_WASI_ONLY_INDEX]);
    image(Ok(ImageForm::OtherMachine), &[&catalog::IMAGE_OTHER_MACHINE]);
    image(
        Ok(ImageForm::Refused("a component".to_owned())),
        &[&catalog::IMAGE_REFUSED],
    );
    image(Err("not found".to_owned()), &[&catalog::IMAGE_UNREADABLE]);
    image(Ok(ImageForm::Wasm), &[]);
}

#[test]
fn name_servers() {
    let loopback = IpAddr::from([127, 0, 0, 53]);
    let cluster = IpAddr::from([10, 96, 0, 10]);
    let pod = |servers: &[IpAddr], on_host_network, answers: &[(IpAddr, Learnt<()>)], expected: &[&Check]| {
        let resolver = PodResolver {
            pod: "default/app".to_owned(),
            resolver: Resolver {
                servers: servers.to_vec(),
            },
            on_host_network,
            answers: answers.to_vec(),
        };
        check(|facts| facts.dns.pods = Some(Ok(vec![resolver])), expected);
    };
    pod(&[loopback], false, &[], &[&catalog::DNS_LOOPBACK]);
    pod(&[loopback], true, &[], &[]);
    pod(&[], false, &[], &[&catalog::DNS_NONE]);
    pod(&[cluster], false, &[(cluster, Ok(()))], &[]);
    let silent = Err("no answer".to_owned());
    pod(
        &[cluster],
        false,
        &[(cluster, silent.clone())],
        &[&catalog::DNS_UNREACHABLE],
    );
    let second = IpAddr::from([10, 96, 0, 11]);
    pod(
        &[cluster, second],
        false,
        &[(cluster, silent), (second, Ok(()))],
        &[],
    );
    check(
        |facts| facts.dns.node.servers = vec![loopback],
        &[&catalog::DNS_NODE_LOOPBACK],
    );
}

#[test]
fn pods() {
    let routed = |code: i32, reason: &str, tier: &str| Container {
        name: "c".to_owned(),
        routed: Some("engine".to_owned()),
        tier: Some(tier.to_owned()),
        state: "exited".to_owned(),
        exit_code: code,
        reason: reason.to_owned(),
        ..Container::default()
    };
    let container =
        |container: Container, expected: &[&Check]| check(|facts| facts.pod = vec![container], expected);
    container(routed(0, "Completed", "fast"), &[]);
    container(routed(143, "Error", "fast"), &[]);
    container(routed(134, "Error", "fast"), &[&catalog::CONTAINER_TRAPPED]);
    container(routed(126, "Error", "fast"), &[&catalog::CONTAINER_NOT_STARTED]);
    container(routed(137, "Error", "fast"), &[&catalog::CONTAINER_KILLED]);
    container(routed(42, "Error", "fast"), &[&catalog::CONTAINER_FAILED]);
    container(
        routed(137, "OOMKilled", "interpreted"),
        &[&catalog::CONTAINER_INTERPRETED, &catalog::CONTAINER_OOM],
    );
    let unrouted = |would: ImageForm| Container {
        name: "c".to_owned(),
        state: "exited".to_owned(),
        would: Some(Ok(would)),
        ..Container::default()
    };
    container(unrouted(ImageForm::Wasm), &[&catalog::CONTAINER_UNADJUSTED]);
    container(unrouted(ImageForm::Native), &[]);
}
