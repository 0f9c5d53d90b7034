//! The disk that podwasm keeps its modules on is slow.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::{both_kinds_run, created_while, script, with_log};
use anyhow::{Context as _, Result, bail, ensure};
use podwasm_integration::chaos::Field;
use podwasm_integration::guests::push_custom_section;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};

/// What a small cloud disk does with its credits used up is five times as much.
const BYTES_PER_SECOND: u64 = 2 << 20;
/// At this rate it is not written before the runtime's patience ends.
const LARGE_BYTES: u32 = 8 << 20;
const DISK_BYTES: u64 = 256 << 20;
const VOLUMES: &str = "/var/lib/volumes";
const STATE: &str = "/var/lib/podwasm";

/// A file system of the node's own, under what podwasm keeps and under a volume.
struct SlowDisk {
    device: u64,
    node: PathBuf,
}

impl SlowDisk {
    /// Makes it, as quick as the machine's own for now.
    async fn mount(node: &Node) -> Result<Self> {
        let file = node.logs().join("disk");
        fs::File::create(&file)?.set_len(DISK_BYTES)?;
        let file = file.display().to_string();
        on_host("mkfs.ext4", &["-q", "-F", &file])?;
        let device = on_host("losetup", &["--find", "--show", &file])?;
        let number = device
            .strip_prefix("/dev/loop")
            .with_context(|| format!("losetup says {device}"))?;
        let mounted = script(
            node,
            &format!(
                "mknod /dev/disk b 7 {number}
                 mkdir -p /mnt/disk {STATE} {VOLUMES}
                 mount -t ext4 /dev/disk /mnt/disk
                 mkdir /mnt/disk/state /mnt/disk/volumes
                 mount --bind /mnt/disk/state {STATE}
                 mount --bind /mnt/disk/volumes {VOLUMES}"
            ),
        )
        .await;
        // The device goes when nothing is mounted from it any more, which is when the node goes.
        on_host("losetup", &["--detach", &device])?;
        mounted?;
        Ok(Self {
            device: number.parse()?,
            node: node.path("/sys/fs/cgroup"),
        })
    }

    /// From now on the node's processes read and write so much in a second.
    fn slow_down(&self) -> Result<()> {
        let device = format!("7:{}", self.device);
        let first = self.node.join("blkio");
        if first.exists() {
            for way in ["read", "write"] {
                let file = first.join(format!("blkio.throttle.{way}_bps_device"));
                fs::write(&file, format!("{device} {BYTES_PER_SECOND}"))
                    .with_context(|| format!("write {}", file.display()))?;
            }
            return Ok(());
        }
        let file = self.node.join("io.max");
        fs::write(
            &file,
            format!("{device} rbps={BYTES_PER_SECOND} wbps={BYTES_PER_SECOND}"),
        )
        .with_context(|| format!("write {}: the node has no controller for disks", file.display()))
    }
}

fn on_host(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Has the kernel forget what it read or wrote.
async fn forget(node: &Node, folder: &str) -> Result<()> {
    let forget =
        format!("sync; find {folder} -type f -exec dd if={{}} iflag=nocache count=0 status=none ';'");
    script(node, &forget).await
}

/// Native containers and modules that are known do not notice, whatever is being written. A module in a volume that cannot be copied in time is refused with a
/// reason, and is there for a later try.
async fn on_a_slow_disk_containers_go_on(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let disk = Box::pin(SlowDisk::mount(&node)).await?;
    let plugin = node.start_podwasm().await?;
    let field = Box::pin(Field::open(&node)).await?;
    let known = node.push("known", &exits_with_42("/app.wasm")).await?;
    with_log(&plugin, both_kinds_run(&node, &known)).await?;
    let mut large = guest("guest.wasm");
    push_custom_section(&mut large, b'x', LARGE_BYTES);
    fs::write(node.path(format!("{VOLUMES}/app.wasm")), large)?;
    for folder in [STATE, VOLUMES] {
        forget(&node, folder).await?;
    }
    disk.slow_down()?;

    let tries = Cell::new(0);
    let disrupt = async {
        // All that it maps is read from the disk.
        both_kinds_run(&node, &known).await?;
        let new = node.push("new", &guest_image("hello")).await?;
        let pod = node.pod("slow").run().await?;
        let hello = until("a new image runs", PATIENCE, async || {
            Ok(pod.container("new").image(&new).start().await.ok())
        });
        hello.await?.ends_with(0).await?;
        let large = until("the large module runs", 4 * PATIENCE, async || {
            tries.set(tries.get() + 1);
            let container = pod
                .container("large")
                .image(node.busybox())
                .command(["/data/app.wasm", "exit", "42"])
                .mount(VOLUMES, "/data", true);
            match container.start().await {
                Ok(container) => Ok(Some(container)),
                Err(error) => {
                    let error = format!("{error:#}");
                    ensure!(
                        error.contains("podwasm:") && error.contains("it is tried again"),
                        "{error}"
                    );
                    Ok(None)
                }
            }
        });
        large.await?.ends_with(42).await
    };
    let tally = Box::pin(created_while(&plugin, &field, disrupt)).await?;
    let tries = tries.get();
    println!("{flavor:?}: a slow disk: a large module in a volume ran at try {tries}; beside it: {tally}");
    ensure!(tries > 1, "the disk was not slow");
    with_log(&plugin, async { tally.check(tally.native + tally.wasm) }).await?;
    node.stop().await
}

on_both! {
    on_a_slow_disk_containers_go_on
}
