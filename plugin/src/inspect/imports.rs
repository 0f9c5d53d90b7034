//! What a module imports, and what on a node offers that.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use wasmparser::{Chunk, Parser, Payload};

/// The namespace of WASI's functions, and with WasmEdge also of its sockets.
const WASI: &str = "wasi_snapshot_preview1";
/// What WasmEdge 0.14.1 offers there.
const WASI_FUNCTIONS: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "epoll_oneoff",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_accept_v2",
    "sock_bind",
    "sock_bind_v2",
    "sock_connect",
    "sock_connect_v2",
    "sock_getaddrinfo",
    "sock_getlocaladdr",
    "sock_getlocaladdr_v2",
    "sock_getpeeraddr",
    "sock_getpeeraddr_v2",
    "sock_getsockopt",
    "sock_listen",
    "sock_listen_v2",
    "sock_open",
    "sock_open_v2",
    "sock_recv",
    "sock_recv_from",
    "sock_recv_from_v2",
    "sock_recv_v2",
    "sock_send",
    "sock_send_to",
    "sock_send_to_v2",
    "sock_send_v2",
    "sock_setsockopt",
    "sock_shutdown",
];
/// Socket functions that plain WASI has too, for sockets that it was given.
const PLAIN_SOCKETS: [&str; 4] = ["sock_accept", "sock_recv", "sock_send", "sock_shutdown"];
/// More names are not shown; a real module lacks a few at most.
const MAX_LACKING: usize = 20;

/// A namespace that a module imports from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Import {
    /// How many different things it imports from there.
    pub functions: usize,
    /// Names that the engine does not have there; the first twenty.
    pub lacking: Vec<String>,
    /// Its name.
    pub namespace: String,
    /// Who has it.
    #[serde(flatten)]
    pub provider: Provider,
}

/// Who has a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(content = "plugin", rename_all = "snake_case", tag = "provider")]
pub enum Provider {
    /// The engine itself.
    Engine,
    /// Nobody that is known.
    Nobody,
    /// A plugin of WasmEdge of this name.
    Plugin(String),
}

/// What a module imports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imports {
    /// By namespace.
    pub namespaces: Vec<Import>,
    /// Whether it opens sockets itself, which plain WASI cannot.
    pub sockets: bool,
}

/// Reads the imports of a module that is known to be whole. Its beginning is enough: imports precede code and data.
pub fn imports(beginning: &[u8]) -> Imports {
    let names = names(beginning);
    let wasi = names.get(WASI);
    Imports {
        sockets: wasi.is_some_and(|names| names.iter().any(|name| opens_sockets(name))),
        namespaces: names
            .into_iter()
            .map(|(namespace, names)| import(namespace, &names))
            .collect(),
    }
}

fn names(beginning: &[u8]) -> BTreeMap<String, BTreeSet<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut parser = Parser::new(0);
    let mut rest = beginning;
    while let Ok(Chunk::Parsed { consumed, payload }) = parser.parse(rest, true) {
        match payload {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports().flatten() {
                    names
                        .entry(import.module.to_owned())
                        .or_default()
                        .insert(import.name.to_owned());
                }
                break;
            }
            Payload::CodeSectionStart { .. } | Payload::End(_) => break,
            _ => rest = &rest[consumed..],
        }
    }
    names
}

fn opens_sockets(name: &str) -> bool {
    name.starts_with("sock_") && !PLAIN_SOCKETS.contains(&name)
}

fn import(namespace: String, names: &BTreeSet<String>) -> Import {
    let provider = provider(&namespace);
    let lacking = |name: &&String| provider == Provider::Engine && !WASI_FUNCTIONS.contains(&name.as_str());
    Import {
        functions: names.len(),
        lacking: names.iter().filter(lacking).take(MAX_LACKING).cloned().collect(),
        namespace,
        provider,
    }
}

/// WasmEdge's plugins and their modules are called alike, with a few exceptions.
fn provider(namespace: &str) -> Provider {
    let plugin = match namespace {
        WASI => return Provider::Engine,
        "wasi:logging/logging" => "wasi_logging",
        "wasi_ephemeral_nn" => "wasi_nn",
        "wasm_bpf"
        | "wasmedge_image"
        | "wasmedge_llmc"
        | "wasmedge_ocr"
        | "wasmedge_opencvmini"
        | "wasmedge_process"
        | "wasmedge_stablediffusion"
        | "wasmedge_tensorflow"
        | "wasmedge_tensorflowlite"
        | "wasmedge_zlib" => namespace,
        _ if namespace.starts_with("wasi_ephemeral_crypto_") => "wasi_crypto",
        _ if namespace.starts_with("wasmedge_ffmpeg_") => "wasmedge_ffmpeg",
        _ => return Provider::Nobody,
    };
    Provider::Plugin(plugin.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that imports functions.
    pub fn importing(imports: &[(&str, &str)]) -> Vec<u8> {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let mut section = vec![u8::try_from(imports.len()).unwrap()];
        for (namespace, name) in imports {
            section.extend([text(namespace), text(name), vec![0, 0]].concat());
        }
        let length = section.len();
        let size = [
            u8::try_from(length & 0x7f).unwrap() | 0x80,
            u8::try_from(length >> 7).unwrap(),
        ];
        [&b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02"[..], &size, &section].concat()
    }

    #[test]
    fn each_namespace_has_its_provider() {
        let module = importing(&[
            (WASI, "fd_write"),
            (WASI, "sock_accept"),
            (WASI, "sock_fly"),
            ("wasi_ephemeral_nn", "load"),
            ("wasi_ephemeral_crypto_common", "x"),
            ("env", "abort"),
        ]);
        let found = imports(&module);
        let shown: Vec<_> = found
            .namespaces
            .iter()
            .map(|import| {
                (
                    import.namespace.as_str(),
                    import.functions,
                    import.provider.clone(),
                )
            })
            .collect();
        let plugin = |name: &str| Provider::Plugin(name.to_owned());
        assert_eq!(
            shown,
            [
                ("env", 1, Provider::Nobody),
                ("wasi_ephemeral_crypto_common", 1, plugin("wasi_crypto")),
                ("wasi_ephemeral_nn", 1, plugin("wasi_nn")),
                (WASI, 3, Provider::Engine),
            ]
        );
        assert_eq!(found.namespaces[3].lacking, ["sock_fly"]);
    }

    #[test]
    fn sockets_are_noticed() {
        assert!(imports(&importing(&[(WASI, "sock_open")])).sockets);
        assert!(!imports(&importing(&[(WASI, "sock_accept"), (WASI, "sock_recv")])).sockets);
        assert!(!imports(&importing(&[("env", "sock_open")])).sockets);
    }

    #[test]
    fn other_bytes_import_nothing() {
        for bytes in [
            &b""[..],
            b"\0asm",
            b"\x7fELF",
            b"\0asm\x01\0\0\0",
            b"\0asm\x01\0\0\0\x02\xff",
        ] {
            assert_eq!(imports(bytes), Imports::default());
        }
    }
}
