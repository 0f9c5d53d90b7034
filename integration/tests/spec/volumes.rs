//! `volumeMounts`, as the runtime gets them: a path of the node, mounted.

use std::os::unix::fs::{PermissionsExt as _, chown};

use anyhow::ensure;
use podwasm_integration::prelude::*;

use super::{folder, look, output};

on_nodes! {
    async fn volumes_are_written_and_read(node: &Node) {
        let image = look(node).await?;
        let volume = folder(node, "rw")?;
        let pod = node.pod("rw").run().await?;
        let writer = pod.container("writer").image(&image).args(["write", "/data/file"]).mount(&volume, "/data", false);
        assert_eq!(output(&writer.start().await?).await?, "/data/file: written\n");
        assert_eq!(std::fs::read_to_string(node.path(format!("{volume}/file")))?, "written\n");
        let reader = pod.container("reader").image(&image).args(["read", "/elsewhere/file"]).mount(&volume, "/elsewhere", false);
        assert_eq!(output(&reader.start().await?).await?, "/elsewhere/file: written\n");
        pod.remove().await?;
    }

    async fn read_only_volumes_are_not_written(node: &Node) {
        let image = look(node).await?;
        let volume = folder(node, "ro")?;
        std::fs::write(node.path(format!("{volume}/file")), "as it was\n")?;
        let pod = node.pod("ro").run().await?;
        let container = pod.container("c").image(&image).args(["write", "/data/file", "/data/new"]).mount(&volume, "/data", true);
        let seen = output(&container.start().await?).await?;
        assert_eq!(seen, "/data/file: Read-only file system\n/data/new: Read-only file system\n");
        assert_eq!(std::fs::read_to_string(node.path(format!("{volume}/file")))?, "as it was\n");
        pod.remove().await?;
    }

    async fn sub_paths_show_nothing_else(node: &Node) {
        let image = look(node).await?;
        let volume = folder(node, "sub")?;
        std::fs::create_dir_all(node.path(format!("{volume}/part")))?;
        for (file, text) in [("secret", "secret"), ("part/file", "in part"), ("config", "a config")] {
            std::fs::write(node.path(format!("{volume}/{file}")), text)?;
        }
        let pod = node.pod("sub").run().await?;
        let container = pod.container("c").image(&image).args(["read", "/data/file", "/data/../secret", "/data/secret", "/etc/app.conf"]);
        let container = container.mount(&format!("{volume}/part"), "/data", false).mount(&format!("{volume}/config"), "/etc/app.conf", true);
        let seen = output(&container.start().await?).await?;
        ensure!(seen.contains("/data/file: in part\n") && seen.contains("/etc/app.conf: a config\n"), "{seen}");
        assert_eq!(seen.matches("No such file or directory").count(), 2, "{seen}");
        pod.remove().await?;
    }

    async fn noexec_volumes_hold_data(node: &Node) {
        let image = look(node).await?;
        let volume = folder(node, &format!("noexec-{}", node.name()))?;
        let mounted = node.exec("mount", ["-t", "tmpfs", "-o", "noexec,mode=777", "none", &volume]).await?;
        ensure!(mounted.status.success(), "{mounted:?}");
        let pod = node.pod("noexec").run().await?;
        let container = pod.container("c").image(&image).args(["write", "/data/file"]).mount(&volume, "/data", false);
        assert_eq!(output(&container.start().await?).await?, "/data/file: written\n");
        pod.remove().await?;
        let gone = node.exec("umount", [&volume]).await?;
        ensure!(gone.status.success(), "{gone:?}");
    }

    async fn secrets_keep_their_modes(node: &Node) {
        let image = look(node).await?;
        let volume = folder(node, "modes")?;
        for (file, owner, group, mode) in [("mine", 1000, 0, 0o400), ("ours", 0, 2000, 0o440), ("theirs", 0, 0, 0o400)] {
            let path = node.path(format!("{volume}/{file}"));
            std::fs::write(&path, file)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
            chown(&path, Some(owner), Some(group))?;
        }
        let pod = node.pod("modes").run().await?;
        let container = pod.container("c").image(&image).args(["read", "/s/mine", "/s/ours", "/s/theirs"]).mount(&volume, "/s", true);
        let container = container.restricted(1000).config(|config| {
            let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
            security.supplemental_groups = vec![2000];
        });
        let seen = output(&container.start().await?).await?;
        assert_eq!(seen, "/s/mine: mine\n/s/ours: ours\n/s/theirs: Permission denied\n");
        pod.remove().await?;
    }
}
