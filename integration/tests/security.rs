//! What SECURITY.md claims, tried by who would have it otherwise: hostile images, pods and guests on real nodes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use podwasm_integration::node::shared;
use podwasm_integration::prelude::*;
use podwasm_integration::wait::{PATIENCE, until};
use sha2::{Digest as _, Sha256};

/// What the kernel says of a process.
fn status(pid: i32, name: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line
        .with_context(|| format!("process {pid} has no {name}"))?
        .trim()
        .to_owned())
}

fn check_status(who: &str, pid: i32, expected: &[(&str, &str)]) -> Result<()> {
    let seen = expected.iter().map(|(name, _)| Ok((*name, status(pid, name)?)));
    let seen = seen.collect::<Result<Vec<_>>>()?;
    let seen: Vec<_> = seen.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(seen, expected, "{who}");
    Ok(())
}

/// Numbers of capabilities are those of `capabilities(7)`.
fn mask(capabilities: &[u32]) -> String {
    let bits = capabilities.iter().fold(0_u64, |bits, number| bits | 1 << number);
    format!("{bits:016x}")
}

const CHOWN: u32 = 0;
const DAC_OVERRIDE: u32 = 1;
const DAC_READ_SEARCH: u32 = 2;
const KILL: u32 = 5;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;
const SYS_ADMIN: u32 = 21;
const SYS_NICE: u32 = 23;

async fn daemons_keep_only_what_they_need(flavor: Flavor) -> Result<()> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    let plugin = node.start_podwasm().await?;
    let exporter = node.start_exporter([]).await?;
    let scaler = node.start_scaler(&[exporter.grpc()], &[]).await?;

    let nothing = mask(&[]);
    let of_plugin = mask(&[
        CHOWN,
        DAC_OVERRIDE,
        DAC_READ_SEARCH,
        KILL,
        SETGID,
        SETUID,
        SYS_ADMIN,
        SYS_NICE,
    ]);
    let of_exporter = mask(&[NET_ADMIN, NET_RAW, SYS_ADMIN]);
    let expected = |effective, permitted| {
        [
            ("CapInh", nothing.as_str()),
            ("CapPrm", permitted),
            ("CapEff", effective),
            ("CapBnd", permitted),
            ("CapAmb", nothing.as_str()),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ]
    };
    check_status("front", plugin.process().pid(), &expected(&nothing, &of_plugin))?;
    let workers = plugin.workers()?;
    assert!(!workers.is_empty());
    for worker in workers {
        check_status("worker", worker, &expected(&of_plugin, &of_plugin))?;
    }
    check_status(
        "exporter",
        exporter.process().pid(),
        &expected(&of_exporter, &of_exporter),
    )?;
    check_status("scaler", scaler.process().pid(), &expected(&nothing, &nothing))?;
    for (who, log) in [
        ("podwasm", plugin.process().log()),
        ("exporter", exporter.process().log()),
        ("scaler", scaler.process().log()),
    ] {
        let log = fs::read_to_string(log)?;
        assert_eq!(
            log.matches("privileges dropped").count(),
            1,
            "{who} says it once: {log}"
        );
    }
    Ok(())
}

on_both! {
    daemons_keep_only_what_they_need
}

/// Two tests of each function, on nodes that all of them share: both versions of containerd, and both runtimes.
macro_rules! on_two {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[test]
            #[ignore = "needs root and a node"]
            fn forky() -> Result<()> {
                shared::run(Flavor::Forky, Runtime::Runc, super::$name)
            }

            #[test]
            #[ignore = "needs root and a node"]
            fn trixie() -> Result<()> {
                shared::run(Flavor::Trixie, Runtime::Crun, super::$name)
            }
        }
    )*};
}

on_two! {
    annotations_name_nothing_of_the_host
    native_code_in_an_image_is_never_loaded
    no_entrypoint_leads_to_a_host_file
    no_guest_reaches_a_host_file
    nothing_takes_more_than_its_share
}

/// A module of the host's own, which would print this if it were run.
const SECRET: &str = "/root/secret.wasm";
const SECRET_SAYS: &str = "hello from C";

fn plant_secret(node: &Node) -> Result<Vec<u8>> {
    let module = guest("guest.wasm");
    // Another hash than the images' modules have: a custom section without content at its end.
    let secret = [module.as_slice(), &[0, 2, 1, b'x']].concat();
    fs::write(node.path(SECRET), &secret)?;
    Ok(secret)
}

/// What the caller of CRI reads when a container is not created, or what it said and how it ended.
async fn attempt(
    node: &Node,
    image: &Image,
    command: &str,
) -> Result<std::result::Result<(i32, String), String>> {
    let reference = node.push("hostile", image).await?;
    let pod = node.pod("hostile").run().await?;
    let container = match pod
        .container("c")
        .image(&reference)
        .command([command])
        .start()
        .await
    {
        Ok(container) => container,
        Err(error) => {
            pod.remove().await?;
            return Ok(Err(format!("{error:#}")));
        }
    };
    let code = container.wait_exit().await?;
    let logs = container.logs()?;
    pod.remove().await?;
    Ok(Ok((code, logs.stdout + &logs.stderr)))
}

async fn no_entrypoint_leads_to_a_host_file(node: &'static Node) -> Result<()> {
    node.podwasm().await?;
    let secret = plant_secret(node)?;
    let linux = |layer| Image::linux().layer(layer);
    let link = |target: &str| linux(Layer::new().symlink("/app.wasm", target));
    let mut chain = Layer::new().symlink("/link0.wasm", SECRET);
    for number in 1..5_000 {
        chain = chain.symlink(
            &format!("/link{number}.wasm"),
            &format!("link{}.wasm", number - 1),
        );
    }
    let chain = chain.symlink("/app.wasm", "link4999.wasm");
    let folder = Image::linux()
        .layer(Layer::new().symlink("/app", "/root"))
        .layer(Layer::new().symlink("/entry", "app/../app"));
    for (image, command, reason) in [
        (link(SECRET), "/app.wasm", "there is no '/app.wasm' in the image"),
        (
            link("../../../../../root/secret.wasm"),
            "/app.wasm",
            "there is no '/app.wasm' in the image",
        ),
        (
            link("/proc/self/root/root/secret.wasm"),
            "/app.wasm",
            "lies in what is mounted at /proc, which cannot be looked into",
        ),
        (
            link("/proc/1/root/root/secret.wasm"),
            "/app.wasm",
            "lies in what is mounted at /proc, which cannot be looked into",
        ),
        (link("app.wasm"), "/app.wasm", "goes through more than 40 links"),
        (linux(chain), "/app.wasm", "goes through more than 40 links"),
        (
            folder,
            "/entry/secret.wasm",
            "there is no '/entry/secret.wasm' in the image",
        ),
        (
            linux(Layer::new().fifo("/app.wasm")),
            "/app.wasm",
            "is a FIFO, not a regular file",
        ),
        (
            linux(Layer::new().device("/app.wasm", 1, 5)),
            "/app.wasm",
            "is a character device, not a regular file",
        ),
        (
            linux(Layer::new().directory("/app.wasm", 0o755)),
            "/app.wasm",
            "is a directory, not a regular file",
        ),
    ] {
        let started = Instant::now();
        let said = attempt(node, &image, command).await?;
        let took = started.elapsed();
        let Err(said) = said else {
            bail!("{command} with {reason:?} was created: {said:?}")
        };
        ensure!(said.contains(reason), "{said}\nis not for: {reason}");
        ensure!(took < Duration::from_secs(20), "{reason} took {took:?}");
    }
    let digest = format!("{:x}", Sha256::digest(&secret));
    ensure!(
        !node.path("/var/lib/podwasm/modules").join(digest).exists(),
        "the host's file was taken in"
    );
    Ok(())
}

/// Neither by WASI, nor through what podwasm mounts: the bundle and the module's folder are the node's, and shared by all of its containers.
async fn no_guest_reaches_a_host_file(node: &'static Node) -> Result<()> {
    node.podwasm().await?;
    plant_secret(node)?;
    let image = Image::linux()
        .program("/app.wasm", guest("look.wasm"))
        .layer(
            Layer::new()
                .symlink("/out", "/proc/1/root/root")
                .symlink("/up", "../../../../../../root"),
        )
        .entrypoint(["/app.wasm"]);
    let reference = node.push("looks", &image).await?;
    let pod = node.pod("looks").run().await?;
    let of_host = [
        SECRET,
        "/out/secret.wasm",
        "/up/secret.wasm",
        "../../../../root/secret.wasm",
        "/proc/1/root/root/secret.wasm",
        "/proc/1/environ/../root/root/secret.wasm",
    ];
    let reader = pod
        .container("reads")
        .image(&reference)
        .args(["read"].into_iter().chain(of_host))
        .start()
        .await?;
    assert_eq!(reader.wait_exit().await?, 0, "{:?}", reader.logs()?);
    let said = reader.logs()?.stdout;
    assert_eq!(said.lines().count(), of_host.len(), "{said}");
    ensure!(
        !said.contains(SECRET_SAYS) && !said.contains("asm\u{1}"),
        "{said}"
    );

    let before = folder_digest(&node.path("/opt/podwasm/engine"))?;
    let mounted = [
        "/.podwasm/engine",
        "/.podwasm/new",
        "/.podwasm/lib/new",
        "/.podwasm/module/new",
        "/app.wasm",
    ];
    let writer = pod
        .container("writes")
        .image(&reference)
        .args(["write"].into_iter().chain(mounted))
        .start()
        .await?;
    assert_eq!(writer.wait_exit().await?, 0, "{:?}", writer.logs()?);
    let said = writer.logs()?.stdout;
    assert_eq!(said.lines().count(), mounted.len(), "{said}");
    ensure!(!said.contains(": written"), "{said}");
    assert_eq!(folder_digest(&node.path("/opt/podwasm/engine"))?, before);
    pod.remove().await
}

/// A hash of all files of a folder, with their names.
fn folder_digest(folder: &Path) -> Result<String> {
    let mut files: Vec<_> = fs::read_dir(folder)?.collect::<std::io::Result<_>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.file_name().as_encoded_bytes());
        if file.file_type()?.is_dir() {
            hash.update(folder_digest(&file.path())?);
        } else if file.file_type()?.is_file() {
            hash.update(fs::read(file.path())?);
        }
    }
    Ok(format!("{:x}", hash.finalize()))
}

/// Wherever it is put: where the engine looks for its own, behind the module's end, or in the loader's way.
async fn native_code_in_an_image_is_never_loaded(node: &'static Node) -> Result<()> {
    node.podwasm().await?;
    let hijack = guest("hijack.so");
    let mut planted = Layer::new();
    for path in [
        "/.podwasm/engine",
        "/.podwasm/lib/libc.so.6",
        "/.podwasm/lib/libwasmedge.so.0",
        "/.podwasm/module/fast.so",
        "/.podwasm/module/module.so",
        "/.podwasm/module/optimised.so",
        "/app.so",
        "/app.wasm.so",
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib64/ld-linux-x86-64.so.2",
    ] {
        planted = planted.file(path, hijack.clone(), 0o755);
    }
    let planted = planted.file("/etc/ld.so.preload", "/app.so\n", 0o644);
    // Native code where WasmEdge's own compiler puts it: in a custom section.
    let mut module = guest("guest.wasm");
    let name = b"wasmedge";
    let length = u32::try_from(hijack.len() + name.len() + 1)?;
    module.push(0);
    module.extend((0..5).map(|at| ((length >> (7 * at)) & 0x7f) as u8 | if at < 4 { 0x80 } else { 0 }));
    module.push(u8::try_from(name.len())?);
    module.extend_from_slice(name);
    module.extend_from_slice(&hijack);
    let image = Image::linux()
        .layer(planted)
        .program("/app.wasm", module)
        .entrypoint(["/app.wasm"]);
    let reference = node.push("planted", &image).await?;
    let pod = node.pod("planted").run().await?;
    let container = pod
        .container("c")
        .image(&reference)
        .args(["hello"])
        .env("LD_PRELOAD", "/app.so")
        .env("LD_AUDIT", "/app.so")
        .env("LD_LIBRARY_PATH", "/lib/x86_64-linux-gnu")
        .env("WASMEDGE_PLUGIN_PATH", "/")
        .start()
        .await?;
    let code = container.wait_exit().await?;
    let logs = container.logs()?;
    ensure!(
        code == 0 && logs.stdout.starts_with("hello from C\n"),
        "{code}: {logs:?}"
    );
    ensure!(
        !(logs.stdout + &logs.stderr).contains("HIJACKED"),
        "the image's code was loaded"
    );
    pod.remove().await
}

/// An annotation chooses among what is known; it names no file, folder, variable or limit of the node's.
async fn annotations_name_nothing_of_the_host(node: &'static Node) -> Result<()> {
    node.podwasm().await?;
    let reference = node.push("asks", &guest_image("guest")).await?;
    let long = format!("handler: engine # {}", "x".repeat(4_096));
    let bomb = "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nhandler: engine";
    for annotation in [
        "plugins: [../../../root]",
        "plugins: [/root]",
        "plugins: ['.']",
        "engine: /root/secret.wasm",
        "module: /root/secret.wasm",
        "mounts: [{source: /, destination: /host}]",
        "preopens: [/host:/]",
        "env: {LD_PRELOAD: /app.so}",
        "handler: /root/secret.wasm",
        "handler: [engine, crun]",
        "drain: 100h",
        "wait: 100h",
        "memory: -1",
        "cpu: 1e99",
        "aot: /root/secret.so",
        "handler: engine\n--- \nhandler: none",
        &long,
        bomb,
    ] {
        let pod = node
            .pod("asks")
            .annotation("wasm.noderesource.dev/pod", annotation)
            .run()
            .await?;
        let created = pod.container("c").image(&reference).create().await;
        let Err(error) = created else {
            bail!("followed: {annotation}")
        };
        let error = format!("{error:#}");
        ensure!(error.contains("podwasm: container 'c'"), "{annotation}: {error}");
        pod.remove().await?;
    }
    Ok(())
}

/// A guest that computes for ever has the CPU that the node gives to a container without limits of its own.
async fn nothing_takes_more_than_its_share(node: &'static Node) -> Result<()> {
    node.podwasm().await?;
    let reference = node.push("greedy", &guest_image("guest")).await?;
    let pod = node.pod("greedy").run().await?;
    let container = pod
        .container("c")
        .image(&reference)
        .args(["spin"])
        .start()
        .await?;
    container.wait_stdout("spin").await?;
    let used = async || {
        let cpu = container
            .stats()
            .await?
            .cpu
            .and_then(|cpu| cpu.usage_core_nano_seconds);
        anyhow::Ok((Instant::now(), cpu.context("no CPU time is known")?.value))
    };
    let (start, before) = used().await?;
    let (end, after) = until("it has computed for a while", PATIENCE, async || {
        let now = used().await?;
        Ok((now.0 - start > Duration::from_secs(1)).then_some(now))
    })
    .await?;
    let cpus = Duration::from_nanos(after - before).as_secs_f64() / (end - start).as_secs_f64();
    ensure!(
        cpus > 0.0 && cpus < 0.35,
        "it had {cpus:.2} CPUs, where 0.2 are allowed"
    );
    container.stop(Duration::from_secs(20)).await?;
    pod.remove().await
}
