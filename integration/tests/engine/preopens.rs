//! Which parts of the file system the guest is given: by default, what a native process would see; on request, no more
//! than its working directory and its mounts.

use crate::container::Container;

/// A container of an ordinary image, with volumes at `/data` and `/conf`.
fn container() -> Container {
    Container::new("guest.wasm")
        .file("/etc/passwd", "root\n")
        .file("/app/x", "here\n")
        .file("/data/sub/x", "data\n")
        .file("/conf/..2026/key", "value\n")
        .symlink("/conf/..data", "..2026")
        .symlink("/conf/key", "..data/key")
        .symlink("/data/absolute", "/etc/passwd")
        .symlink("/data/up", "../etc/passwd")
}

fn only() -> Container {
    container()
        .setting("preopens=mounts")
        .setting("preopen=rw:/data")
        .setting("preopen=ro:/conf")
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn what_is_given_can_be_used() {
    for directory in ["/", "/app"] {
        let only = || only().directory(directory);
        only().args(["cat", "/data/sub/x"]).run().expect_stdout("data\n");
        // As a volume of a ConfigMap is made.
        only().args(["cat", "/conf/key"]).run().expect_stdout("value\n");
        only()
            .args(["write", "/data/sub/y", "text"])
            .run()
            .expect_stdout("");
    }
    let here = || only().directory("/app");
    here().args(["cat", "x"]).run().expect_stdout("here\n");
    here().args(["cat", "/app/x"]).run().expect_stdout("here\n");
    here().args(["write", "y", "text"]).run().expect_stdout("");
    Container::new("rust-hello.wasm")
        .folder("/data", 0o755)
        .setting("preopens=mounts")
        .setting("preopen=rw:/data")
        .file("/conf/key", "value\n")
        .setting("preopen=ro:/conf")
        .args(["files", "/conf/key", "/data/out"])
        .run()
        .expect_stdout("value\nand more\n15 bytes\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn nothing_else_can_be_reached() {
    for directory in ["/", "/app", "/data"] {
        for path in [
            "/etc/passwd",
            "etc/passwd",
            "../etc/passwd",
            "/data/../etc/passwd",
            "/data/sub/../../etc/passwd",
            "/data/absolute",
            "/data/up",
            "/app/../etc/passwd",
            "//etc/passwd",
            "/./etc/passwd",
        ] {
            let ended = only().directory(directory).args(["cat", path]).run();
            assert_eq!(
                (ended.code, &*ended.stdout),
                (Some(1), ""),
                "{path} in {directory}"
            );
            assert!(ended.stderr.starts_with("guest: cannot open "), "{ended:?}");
        }
        let ended = only()
            .directory(directory)
            .args(["write", "/etc/y", "text"])
            .run();
        assert_eq!(ended.code, Some(1), "{ended:?}");
    }
    let ended = container()
        .setting("preopens=mounts")
        .args(["cat", "/data/sub/x"])
        .run();
    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""));
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn what_is_read_only_stays_as_it_is() {
    let refused = "Capabilities insufficient";
    only().args(["write", "/conf/new", "text"]).run().expect(
        1,
        "",
        &format!("guest: cannot create /conf/new: {refused}\n"),
    );
    only().args(["write", "/conf/..2026/key", "text"]).run().expect(
        1,
        "",
        &format!("guest: cannot create /conf/..2026/key: {refused}\n"),
    );
    // A mount says for itself what it is.
    only()
        .read_only_mount("/conf")
        .args(["write", "/conf/new", "text"])
        .run()
        .expect(1, "", "guest: cannot create /conf/new: Read-only file system\n");
    only()
        .read_only_mount("/conf")
        .args(["remove", "/conf/..2026", "key"])
        .run()
        .expect(1, "", "guest: cannot remove key: Read-only file system\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn what_cannot_be_given_is_said() {
    let refused = |container: Container, why: &str| {
        let stderr = format!("podwasm: cannot start \"/app.wasm\": {why}\n");
        container.run().expect(126, "", &stderr);
    };
    refused(
        only().setting("preopen=ro:/etc/passwd"),
        "\"/etc/passwd\" is a file, and only folders can be given to a guest; mount its folder, or do without `preopens`",
    );
    refused(
        only().setting("preopen=ro:/nowhere"),
        "the folder \"/nowhere\" cannot be given to the guest: No such file or directory (os error 2)",
    );
    for path in ["/a:b", "/home/.config"] {
        refused(
            only().folder(path, 0o755).setting(&format!("preopen=rw:{path}")),
            &format!("the folder {path:?} cannot be given to the guest, because WasmEdge misreads its name"),
        );
    }
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn files_that_need_not_be_given_are_no_error() {
    let ended = only()
        .setting("preopen=ro:/data/sub/x")
        .setting("preopen=ro:/app/x")
        .setting("preopen=rw:/etc/hosts")
        .file("/etc/hosts", "hosts\n")
        .directory("/app")
        .args(["cat", "x"])
        .run();
    ended.expect_stdout("here\n");
    // As for a native process, it is an error to use it.
    let ended = only()
        .folder("/secret/mine", 0o700)
        .folder("/secret", 0o700)
        .setting("preopen=ro:/secret/mine")
        .user(65534)
        .args(["cat", "/data/sub/x"])
        .run();
    ended.expect_stdout("data\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn links_out_of_var_lead_somewhere() {
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let debian = || {
        Container::new("guest.wasm")
            .file(
                "/run/secrets/kubernetes.io/serviceaccount/..2026/token",
                "token\n",
            )
            .symlink("/run/secrets/kubernetes.io/serviceaccount/..data", "..2026")
            .symlink("/run/secrets/kubernetes.io/serviceaccount/token", "..data/token")
            .file("/var/lib/x", "x\n")
    };
    for target in ["/run", "../run"] {
        for directory in ["/", "/app"] {
            let container = || debian().symlink("/var/run", target).directory(directory);
            container().args(["cat", token]).run().expect_stdout("token\n");
            container().args(["cat", "/var/lib/x"]).run().expect_stdout("x\n");
        }
    }
    let scratch = Container::new("guest.wasm").file(token, "token\n");
    scratch.args(["cat", token]).run().expect_stdout("token\n");
}
