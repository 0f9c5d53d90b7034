//! The classic complaints, by name: what people see, where it comes from, what to do.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::fmt::Write as _;

use super::catalog::{self, Check};

/// A complaint.
#[derive(Debug)]
pub struct Complaint {
    /// Its name.
    pub name: &'static str,
    /// What is seen.
    pub symptom: &'static str,
    /// Where that comes from, and what to do; paragraphs.
    pub text: &'static str,
    /// The checks that find its causes on a node.
    pub checks: &'static [&'static Check],
}

/// All of them.
pub static ALL: [Complaint; 8] = [
    Complaint {
        name: "empty-logs",
        symptom: "`kubectl logs` of a Wasm pod is empty",
        text: "With podwasm's engine the guest's stdout and stderr are the container's, so what it wrote is there. See with `podwasm doctor \
               --pod NAMESPACE/POD` whether the engine ran it at all.\n\n\
               With crun's own Wasm handler, the usual cause is an old crun: below 1.4 nothing starts under containerd, and below 1.4.4 a module beside \
               native containers is not told apart; the pod ends at once, and nothing was written. Upgrade crun, or leave modules to the \
               engine (`handler: engine`).\n\n\
               Whatever runs it: a guest that ends by a trap loses what it had buffered but not flushed, and `kubectl logs` asks the kubelet, so a \
               firewall or proxy between API server and node leaves it empty for native pods too.",
        checks: &[
            &catalog::CRUN_OLD,
            &catalog::CRUN_WITHOUT_WASM,
            &catalog::DAEMON_DOWN,
        ],
    },
    Complaint {
        name: "image-pull",
        symptom: "`ErrImagePull` with `no match for platform in manifest`",
        text: "The image is an index that lists nothing but Wasm platforms. `docker buildx build --platform wasi/wasm` makes such an index because \
               it adds a provenance document. containerd's CRI picks from an index by the node's own platform and finds none; no plugin is asked \
               before the pull, so podwasm cannot help.\n\n\
               The image's owner builds it with `--provenance=false`, which gives a single manifest, or with `--platform \
               linux/amd64,linux/arm64`: a module does not care. An image of linux/ARCH with a `.wasm` in it, a single manifest of \
               wasi/wasm, and an OCI Wasm artifact are all pulled.\n\n\
               `podwasm doctor --image NAME` and `podwasm inspect` say which form an image has, also of an archive that was not pushed yet.",
        checks: &[
            &catalog::IMAGE_WASI_ONLY_INDEX,
            &catalog::IMAGE_OTHER_MACHINE,
            &catalog::IMAGE_UNREADABLE,
        ],
    },
    Complaint {
        name: "dns",
        symptom: "a guest cannot resolve names",
        text: "The engine resolves as a C program would: it reads the pod's `/etc/resolv.conf` and `/etc/hosts`, with search list and ndots, and \
               needs nothing else in the image. So first see whether a native container of the same pod resolves the name.\n\n\
               If neither does: the resolv.conf names a loopback address, or the name server does not answer from the pod's network. The doctor \
               asks it from there.\n\n\
               If only the guest does not: its sockets are off (`sockets: false` in policy or annotation), or it brings a resolver of its own. The \
               crates `wasmedge_wasi_socket` and `tokio_wasi` read `DNS_SERVER=IP:PORT`, speak DNS over TCP, and know no search list.",
        checks: &[
            &catalog::DNS_LOOPBACK,
            &catalog::DNS_NONE,
            &catalog::DNS_UNREACHABLE,
            &catalog::DNS_NODE_LOOPBACK,
        ],
    },
    Complaint {
        name: "hpa-cpu",
        symptom: "a HorizontalPodAutoscaler on CPU does not scale a Wasm workload",
        text: "A guest that waits for requests takes next to no CPU, and native code takes little while it serves them, so a CPU target is reached \
               late or never. An HPA on utilisation also needs a CPU *request* in the pod; podwasm's default limit is none.\n\n\
               Scale on requests: podwasm-exporter counts them on each node, podwasm-scaler adds them up for KEDA; docs/autoscaling.md has four \
               ways. A target of requests per second says what is meant, and scales from and to zero.",
        checks: &[
            &catalog::EXPORTER_NO_SOCKETS,
            &catalog::EXPORTER_NO_BPF,
            &catalog::EXPORTER_NOT_READY,
        ],
    },
    Complaint {
        name: "exit-code-zero",
        symptom: "a Job succeeds although the guest failed",
        text: "crun's own Wasm handler drops the guest's exit code: one that returns 42 ends as 0. The engine passes it on, 134 after a trap and 126 \
               when a module cannot be started.\n\n\
               See which handler ran the pod: `podwasm doctor --pod NAMESPACE/POD`. It is crun's if the policy or an annotation says `handler: crun`, or \
               if the pod carries `run.oci.handler` or `module.wasm.image/variant` and podwasm was not connected.",
        checks: &[
            &catalog::ENGINE_EXIT_CODES,
            &catalog::DAEMON_DOWN,
            &catalog::NRI_OFF,
        ],
    },
    Complaint {
        name: "sigterm-ignored",
        symptom: "a Wasm pod takes its whole grace period to end",
        text: "A guest cannot see signals. crun's own Wasm handler leaves SIGTERM to the kernel, which does not deliver it to the first process of a \
               container, so the kubelet waits 30 s and kills. The engine ends the guest at once, with 143.\n\n\
               If the engine runs it: the pod asked for a `drain`, during which the guest goes on serving on purpose.",
        checks: &[&catalog::CONTAINER_KILLED, &catalog::DAEMON_DOWN],
    },
    Complaint {
        name: "exec-format-error",
        symptom: "a Wasm container ends with `exec format error`",
        text: "The runtime executed the module itself: podwasm was not connected when the container was created. The kubelet's next try finds it \
               connected, so it mends itself within a restart or two; if not, NRI is off, or the daemon does not run or is not registered.\n\n\
               In other cases the module is no module for podwasm: a component, or a native program for another CPU. `podwasm inspect` tells.",
        checks: &[
            &catalog::NRI_OFF,
            &catalog::NRI_NEEDS_RESTART,
            &catalog::DAEMON_DOWN,
            &catalog::DAEMON_NOT_REGISTERED,
            &catalog::CRUN_WITHOUT_WASM,
        ],
    },
    Complaint {
        name: "oom-at-start",
        symptom: "a Wasm container is `OOMKilled` before it does anything",
        text: "It started interpreted: native code was not ready, and the interpreter needs some 30 MB of memory for each MB of module when it loads \
               it. Default limits know that; a limit that the pod sets is taken as it is.\n\n\
               Push the image before the pods start, so that it is compiled when it arrives (`podwasm compile IMAGE` waits for it); or have pods \
               wait longer (`wait`), or insist (`aot: required`); or raise the limit.",
        checks: &[
            &catalog::COMPILER_MISSING,
            &catalog::COMPILER_BROKEN,
            &catalog::NATIVE_BROKEN,
            &catalog::CONTAINER_OOM,
        ],
    },
];

/// Explains a complaint or a check, by its name.
pub fn explain(name: &str) -> Option<String> {
    let complaint = ALL.iter().find(|complaint| complaint.name == name);
    let check = catalog::ALL.iter().find(|check| check.id == name);
    complaint
        .map(of_complaint)
        .or_else(|| check.map(|check| of_check(check)))
}

fn of_complaint(complaint: &Complaint) -> String {
    let checks: Vec<_> = complaint.checks.iter().map(|check| check.id).collect();
    format!(
        "{}: {}\n\n{}\n\nChecked on this node by `podwasm doctor`: {}\n",
        complaint.name,
        complaint.symptom,
        complaint.text,
        checks.join(", ")
    )
}

fn of_check(check: &Check) -> String {
    format!(
        "{} ({})\n\n{}\n\n{}\n",
        check.id,
        check.area.as_str(),
        check.meaning,
        check.fix
    )
}

/// The names of all complaints and checks.
pub fn list() -> String {
    let mut text = "Complaints:\n".to_owned();
    for complaint in &ALL {
        let _ = writeln!(text, "  {:18}{}", complaint.name, complaint.symptom);
    }
    text.push_str("\nChecks:\n");
    for check in catalog::ALL {
        let _ = writeln!(text, "  {:12}{}", check.area.as_str(), check.id);
    }
    text.push_str("\npodwasm doctor --explain NAME says more of each.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_explained_and_listed() {
        let listed = list();
        let complaints = ALL.iter().map(|complaint| complaint.name);
        for name in complaints.chain(catalog::ALL.iter().map(|check| check.id)) {
            let text = explain(name).unwrap_or_default();
            assert!(text.starts_with(name) && text.lines().count() >= 3, "{text}");
            assert!(listed.contains(name), "{name}");
        }
        assert_eq!(explain("no-such-name"), None);
    }

    #[test]
    fn the_page_of_symptoms_has_every_complaint() {
        let page = include_str!("../../../docs/troubleshooting.md");
        for complaint in &ALL {
            let heading = format!("`podwasm doctor --explain {}`", complaint.name);
            assert!(page.contains(&heading), "docs/troubleshooting.md lacks {heading}");
        }
    }
}
