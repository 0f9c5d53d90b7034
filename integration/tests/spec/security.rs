//! `securityContext`: what the kernel says of the process that runs the guest, and what the guest can do.

use std::os::unix::fs::{PermissionsExt as _, chown};

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::cri::proto::{
    IdMapping, Int64Value, LinuxContainerSecurityContext, NamespaceMode, UserNamespace,
};
use podwasm_integration::prelude::*;

use super::{folder, guest_c, look, output, proc};

/// Starts the sleeping guest with a security context, and returns what the kernel says of it.
async fn status(node: &Node, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Result<String> {
    let image = guest_c(node).await?;
    let pod = node.pod("secure").run().await?;
    let container = pod.container("c").image(&image).args(["sleep"]).config(|config| {
        change(
            config
                .linux
                .get_or_insert_default()
                .security_context
                .get_or_insert_default(),
        );
    });
    let container = container.start().await?;
    container.wait_stdout("sleeping").await?;
    let status = proc(node, &container, "status").await?;
    pod.remove().await?;
    Ok(status)
}

/// A line of `/proc/PID/status`, its words in a row.
fn line(status: &str, name: &str) -> Result<String> {
    let rest = status
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}:")));
    let rest = rest.with_context(|| format!("no {name} in {status}"))?;
    Ok(rest.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn int(value: i64) -> Int64Value {
    Int64Value { value }
}

on_nodes! {
    async fn run_as_user_and_group_are_the_process(node: &Node) {
        let status = status(node, |security| {
            security.run_as_user = Some(int(1234));
            security.run_as_group = Some(int(2345));
        }).await?;
        assert_eq!(line(&status, "Uid")?, "1234 1234 1234 1234");
        assert_eq!(line(&status, "Gid")?, "2345 2345 2345 2345");
    }

    async fn supplemental_groups_open_files(node: &Node) {
        let status = status(node, |security| {
            security.run_as_user = Some(int(1234));
            security.supplemental_groups = vec![3456, 4567];
        }).await?;
        let groups = line(&status, "Groups")?;
        ensure!(groups.contains("3456") && groups.contains("4567"), "{groups}");

        let image = look(node).await?;
        let volume = folder(node, "groups")?;
        let file = node.path(format!("{volume}/file"));
        std::fs::write(&file, "of the group\n")?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o040))?;
        chown(&file, Some(0), Some(3456))?;
        let pod = node.pod("groups").run().await?;
        for (name, groups, seen) in [("in", vec![3456], "of the group"), ("out", vec![], "Permission denied")] {
            let container = pod.container(name).image(&image).args(["read", "/v/file"]).user(1234).mount(&volume, "/v", true);
            let container = container.config(|config| {
                config.linux.get_or_insert_default().security_context.get_or_insert_default().supplemental_groups = groups;
            });
            assert_eq!(output(&container.start().await?).await?, format!("/v/file: {seen}\n"));
        }
        pod.remove().await?;
    }

    async fn read_only_root_is_not_written(node: &Node) {
        let image = look(node).await?;
        let pod = node.pod("readonly").run().await?;
        let writable = pod.container("writable").image(&image).args(["write", "/file"]).start().await?;
        assert_eq!(output(&writable).await?, "/file: written\n");
        let read_only = pod.container("read-only").image(&image).args(["write", "/file"]).readonly_rootfs().start().await?;
        assert_eq!(output(&read_only).await?, "/file: Read-only file system\n");
        pod.remove().await?;
    }

    async fn dropped_capabilities_are_gone(node: &Node) {
        let status = status(node, |security| {
            security.capabilities.get_or_insert_default().drop_capabilities = vec!["ALL".to_owned()];
        }).await?;
        for set in ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"] {
            assert_eq!(line(&status, set)?, "0000000000000000", "{set}");
        }
    }

    async fn added_capabilities_are_there(node: &Node) {
        let status = status(node, |security| {
            security.capabilities.get_or_insert_default().drop_capabilities = vec!["ALL".to_owned()];
            security.capabilities.get_or_insert_default().add_capabilities = vec!["NET_BIND_SERVICE".to_owned()];
        }).await?;
        assert_eq!(line(&status, "CapEff")?, "0000000000000400");
    }

    async fn seccomp_filters_the_engine(node: &Node) {
        use podwasm_integration::cri::proto::{SecurityProfile, security_profile::ProfileType};
        let filtered = status(node, |security| {
            security.seccomp = Some(SecurityProfile { profile_type: ProfileType::RuntimeDefault.into(), ..Default::default() });
        }).await?;
        assert_eq!(line(&filtered, "Seccomp")?, "2");
    }

    async fn privilege_escalation_is_off_when_asked(node: &Node) {
        let off = status(node, |security| security.no_new_privs = true).await?;
        assert_eq!(line(&off, "NoNewPrivs")?, "1");
        let on = status(node, |security| security.no_new_privs = false).await?;
        assert_eq!(line(&on, "NoNewPrivs")?, "0");
    }

    async fn host_users_false_runs_in_a_user_namespace(node: &Node) {
        let image = guest_c(node).await?;
        let mapping = vec![IdMapping { host_id: 200_000, container_id: 0, length: 65536 }];
        let users = UserNamespace { mode: NamespaceMode::Pod.into(), uids: mapping.clone(), gids: mapping };
        let pod = node.pod("userns").config(|config| {
            let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
            security.namespace_options.get_or_insert_default().userns_options = Some(users);
        });
        let pod = pod.run().await?;
        let container = pod.container("c").image(&image).args(["sleep"]).start().await?;
        container.wait_stdout("sleeping").await?;
        assert_eq!(line(&proc(node, &container, "status").await?, "Uid")?, "200000 200000 200000 200000");
        let ran = container.exec(["/guest.wasm", "exit", "7"]).await?;
        assert_eq!(ran.code, 7, "{ran:?}");
        pod.remove().await?;
    }
}
