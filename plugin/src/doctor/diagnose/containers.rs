//! Images, name resolution, and one pod that was asked about.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::net::IpAddr;

use super::Findings;
use crate::doctor::catalog::{self, Area};
use crate::doctor::facts::{Container, Dns, Facts, Image, ImageForm, PodResolver};

/// 128 and SIGKILL.
const KILLED: i32 = 137;
const TERMINATED: i32 = 143;
const TRAPPED: i32 = 134;
const NOT_STARTED: i32 = 126;

pub fn images(facts: &Facts, findings: &mut Findings) {
    if let Some(Ok(cri)) = &facts.cri {
        let name = &cri.snapshotter;
        match &facts.snapshot {
            Some(Ok(())) => findings.ok(Area::Images, format!("layers kept by {name} can be looked into")),
            Some(Err(why)) => findings.problem(&catalog::SNAPSHOTTER_UNREADABLE, format!("{name}: {why}")),
            None => findings.ok(
                Area::Images,
                format!("the snapshotter is {name}; there is no image yet to try it with"),
            ),
        }
    }
    if let Some(wanted) = &facts.image {
        image(wanted, findings);
    }
}

fn image(image: &Image, findings: &mut Findings) {
    let name = &image.name;
    match &image.found {
        Err(why) => findings.problem(&catalog::IMAGE_UNREADABLE, format!("{name}: {why}")),
        Ok(ImageForm::OnlyWasmIndex) => {
            findings.problem(
                &catalog::IMAGE_WASI_ONLY_INDEX,
                format!("{name} is an index that holds only Wasm platforms"),
            );
        }
        Ok(ImageForm::OtherMachine) => findings.problem(&catalog::IMAGE_OTHER_MACHINE, name),
        Ok(ImageForm::Refused(why)) => findings.problem(&catalog::IMAGE_REFUSED, format!("{name}: {why}")),
        Ok(ImageForm::Native) => findings.ok(Area::Images, format!("{name} would run natively")),
        Ok(ImageForm::Wasm) => findings.ok(Area::Images, format!("{name} would run as Wasm")),
    }
}

pub fn dns(dns: &Dns, findings: &mut Findings) {
    let servers = &dns.node.servers;
    if !servers.is_empty() && servers.iter().all(IpAddr::is_loopback) {
        findings.problem(
            &catalog::DNS_NODE_LOOPBACK,
            format!("/etc/resolv.conf: {}", list(servers)),
        );
    }
    let pods = match &dns.pods {
        None => return,
        Some(Err(why)) => return findings.unknown(Area::Dns, why),
        Some(Ok(pods)) => pods,
    };
    let before = findings.0.len();
    for pod in pods {
        pod_dns(pod, findings);
    }
    if findings.0.len() > before {
        return;
    }
    let answered = pods
        .iter()
        .filter(|pod| pod.answers.iter().any(|(_, answer)| answer.is_ok()))
        .count();
    let seen = match (pods.len(), answered) {
        (0, _) => "no pod runs here whose name servers could be asked".to_owned(),
        (all, answered) => {
            format!("name servers of {all} pods looked at; those of {answered} asked, and they answer")
        }
    };
    findings.ok(Area::Dns, seen);
}

fn pod_dns(pod: &PodResolver, findings: &mut Findings) {
    let (name, servers) = (&pod.pod, &pod.resolver.servers);
    if servers.is_empty() {
        return findings.problem(&catalog::DNS_NONE, name);
    }
    // On the node's own network the node's own resolver is there.
    if !pod.on_host_network && servers.iter().any(IpAddr::is_loopback) {
        return findings.problem(
            &catalog::DNS_LOOPBACK,
            format!("{name}: nameserver {}", list(servers)),
        );
    }
    let failed: Vec<_> = pod
        .answers
        .iter()
        .filter_map(|(server, answer)| Some(format!("{server}: {}", answer.as_ref().err()?)))
        .collect();
    if !failed.is_empty() && failed.len() == pod.answers.len() {
        findings.problem(
            &catalog::DNS_UNREACHABLE,
            format!("{name}: {}", failed.join(", ")),
        );
    }
}

fn list(servers: &[IpAddr]) -> String {
    servers
        .iter()
        .map(IpAddr::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

pub fn pod(containers: &[Container], findings: &mut Findings) {
    for found in containers {
        container(found, findings);
    }
}

fn container(container: &Container, findings: &mut Findings) {
    let name = format!("{} ({})", container.name, container.image);
    match (&container.routed, &container.would) {
        (None, Some(Ok(ImageForm::Wasm))) => {
            return findings.problem(
                &catalog::CONTAINER_UNADJUSTED,
                format!("{name} {}", state(container)),
            );
        }
        (None, Some(Ok(ImageForm::Refused(why)))) => {
            return findings.problem(&catalog::IMAGE_REFUSED, format!("{name}: {why}"));
        }
        (None, Some(Err(why))) => findings.unknown(Area::Pod, format!("{name}: {why}")),
        (None, _) => findings.ok(Area::Pod, format!("{name} is native: podwasm leaves it alone")),
        (Some(handler), _) => {
            let tier = container
                .tier
                .as_deref()
                .map(|tier| format!(", {tier} when it was created"));
            findings.ok(
                Area::Pod,
                format!("{name} is run by {handler}{}", tier.unwrap_or_default()),
            );
        }
    }
    if container.tier.as_deref() == Some("interpreted") {
        findings.problem(&catalog::CONTAINER_INTERPRETED, &name);
    }
    outcome(container, &name, findings);
}

fn outcome(container: &Container, name: &str, findings: &mut Findings) {
    let seen = format!("{name} {}", state(container));
    let is_engine = container.routed.as_deref() == Some("engine");
    match container.exit_code {
        _ if container.state != "exited" => findings.ok(Area::Pod, seen),
        _ if container.reason == "OOMKilled" => findings.problem(&catalog::CONTAINER_OOM, seen),
        0 | TERMINATED => findings.ok(Area::Pod, seen),
        TRAPPED if is_engine => findings.problem(&catalog::CONTAINER_TRAPPED, seen),
        NOT_STARTED if is_engine => findings.problem(&catalog::CONTAINER_NOT_STARTED, seen),
        KILLED => findings.problem(&catalog::CONTAINER_KILLED, seen),
        _ => findings.problem(&catalog::CONTAINER_FAILED, seen),
    }
}

fn state(container: &Container) -> String {
    match container.state.as_str() {
        "exited" => format!("ended with {} ({})", container.exit_code, container.reason),
        "" => "is in a state that the runtime does not tell".to_owned(),
        state => format!("is {state}"),
    }
}
