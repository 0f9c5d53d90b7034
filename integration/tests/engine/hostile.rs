//! Images that would like to run native code of theirs in the engine. `hijack.so` ends the process with 99 when it is
//! loaded.

use crate::container::Container;

const HIJACKED: (i32, &str, &str) = (99, "", "HIJACKED\n");

fn with_library() -> Container {
    Container::new("guest.wasm")
        .args(["env"])
        .guest_file("/hijack.so", "hijack.so")
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn the_test_library_does_what_it_is_for() {
    let (code, stdout, stderr) = HIJACKED;
    with_library()
        .env("LD_PRELOAD=/hijack.so")
        .run()
        .expect(code, stdout, stderr);
    with_library()
        .env("LD_AUDIT=/hijack.so")
        .run()
        .expect(code, stdout, stderr);
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn loader_variables_are_the_guests_only() {
    let ended = with_library()
        .through_launch()
        .guest_file("/lib/libc.so.6", "hijack.so")
        .env("FIRST=1")
        .env("LD_PRELOAD=/hijack.so")
        .env("LD_AUDIT=/hijack.so")
        .env("LD_LIBRARY_PATH=/lib")
        .env("LD_DEBUG=all")
        .env("GLIBC_TUNABLES=glibc.malloc.check=3")
        .env("MALLOC_PERTURB_=1")
        .env("LOCPATH=/lib")
        .env("GCONV_PATH=/lib")
        .env("PODWASM_X=1")
        .env("LAST=1")
        .run();
    ended.expect_stdout(concat!(
        "FIRST=1\nLD_PRELOAD=/hijack.so\nLD_AUDIT=/hijack.so\nLD_LIBRARY_PATH=/lib\nLD_DEBUG=all\n",
        "GLIBC_TUNABLES=glibc.malloc.check=3\nMALLOC_PERTURB_=1\nLOCPATH=/lib\nGCONV_PATH=/lib\nLAST=1\n"
    ));
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn variables_for_wasmedge_are_the_guests_only() {
    let variables = [
        "WASMEDGE_PLUGIN_PATH=/plugins",
        "WASMEDGE_PLUGIN_PATH=/hijack.so",
        "WASMEDGE_WASI_SOCKET=false",
        "WASMEDGE_LOG_LEVEL=debug",
        "XDG_CACHE_HOME=/plugins",
        "SPDLOG_LEVEL=trace",
    ];
    let container = with_library().guest_file("/plugins/libwasmedgePluginEvil.so", "hijack.so");
    let ended = variables.iter().fold(container, Container::env).run();
    ended.expect_stdout(&format!("{}\n", variables.join("\n")));
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn launch_hands_on_everything_else() {
    let ended = Container::new("guest.wasm")
        .through_launch()
        .arg0("other")
        .args(["", "a b"])
        .run();
    ended.expect(
        0,
        "hello from C\nargv[0]=other\nargv[1]=\nargv[2]=a b\n",
        "hello on stderr\n",
    );
    Container::new("guest.wasm")
        .through_launch()
        .args(["env"])
        .run()
        .expect_stdout("");
    Container::new("guest.wasm")
        .through_launch()
        .args(["exit", "42"])
        .run()
        .expect(42, "", "");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn the_images_preload_file_is_not_read() {
    with_library()
        .file("/etc/ld.so.preload", "/hijack.so\n")
        .run()
        .expect_stdout("");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn the_images_libraries_are_not_loaded() {
    let names = [
        "libc.so.6",
        "libwasmedge.so.0",
        "libnss_evil.so.2",
        "libnss_dns.so.2",
        "libgcc_s.so.1",
    ];
    let folders = [
        "/lib",
        "/usr/lib",
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/lib64",
    ];
    let mut container = Container::new("sockets.wasm").args(["resolve", "somewhere"]);
    for (folder, name) in folders.iter().flat_map(|folder| names.map(|name| (folder, name))) {
        container = container.guest_file(&format!("{folder}/{name}"), "hijack.so");
    }
    container
        .file("/etc/hosts", "10.1.2.3 somewhere\n")
        .file(
            "/etc/nsswitch.conf",
            "hosts: evil\nservices: evil\npasswd: evil\n",
        )
        .run()
        .expect_stdout("10.1.2.3\n");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn native_code_in_a_module_is_not_run() {
    let ended = Container::new("elf.wasm").run();
    let stderr = "podwasm: cannot start \"/app.wasm\": it is a native ELF file, not a WebAssembly module\n";
    ended.expect(126, "", stderr);
    Container::new("universal.wasm")
        .run()
        .expect_stdout("this is wasm\n");
}
