//! WasmEdge's plugins: from the node's folder, and from nowhere else.

use crate::container::Container;

const PLUGIN: &str = "libwasmedgePluginPodwasmTest.so";
const ITS_LIBRARY: &str = "libpodwasm_test_answer.so.1";

fn with_plugin() -> Container {
    Container::new("plugin.wasm")
        .plugin("test", PLUGIN)
        .plugin("test", ITS_LIBRARY)
}

#[track_caller]
fn check_refused(container: Container, why: &str) {
    let stderr = format!("podwasm: cannot start \"/app.wasm\": {why}\n");
    container.run().expect(126, "", &stderr);
}

const UNKNOWN: &str = r#"it imports "answer" from "podwasm_test", which this engine does not have"#;

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_plugin_is_loaded_if_it_is_asked_for() {
    with_plugin().setting("plugin=test").run().expect(42, "", "");
    check_refused(with_plugin(), UNKNOWN);
    Container::new("guest.wasm")
        .plugin("test", PLUGIN)
        .plugin("test", ITS_LIBRARY)
        .setting("plugin=test")
        .args(["exit", "3"])
        .run()
        .expect(3, "", "");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_plugin_that_cannot_be_had_is_named() {
    let missing = |name| format!("the plugin {name:?} is not available on this node");
    check_refused(with_plugin().setting("plugin=other"), &missing("other"));
    check_refused(
        with_plugin().setting("plugin=../plugins/test"),
        &missing("../plugins/test"),
    );
    check_refused(with_plugin().setting("plugin="), &missing(""));
    let only_library = Container::new("plugin.wasm").plugin("test", ITS_LIBRARY);
    check_refused(only_library.setting("plugin=test"), &missing("test"));
    check_refused(
        Container::new("plugin.wasm")
            .plugin("test", PLUGIN)
            .setting("plugin=test"),
        "the plugin \"test\" cannot be loaded: it needs a library that is neither beside it nor in the bundle",
    );
    check_refused(
        with_plugin().setting("plugin=test").setting("plugin=test"),
        "the plugin \"test\" does not fit WasmEdge 0.14.1, or is there twice",
    );
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn plugins_of_the_image_are_not_loaded() {
    for folder in ["/usr/lib/wasmedge", "/root/.wasmedge/plugin", "/lib", "/plugins"] {
        let container = || {
            Container::new("plugin.wasm")
                .guest_file(&format!("{folder}/{PLUGIN}"), "hijack.so")
                .env(format!("WASMEDGE_PLUGIN_PATH={folder}"))
                .env(format!("WASMEDGE_LIB_DIR={folder}"))
                .env("HOME=/root")
        };
        check_refused(container(), UNKNOWN);
        container()
            .plugin("test", PLUGIN)
            .plugin("test", ITS_LIBRARY)
            .setting("plugin=test")
            .run()
            .expect(42, "", "");
    }
}
