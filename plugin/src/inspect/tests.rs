//! Whole inspections of images that are made here, in every form, and of those that nobody should make.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Parser as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};
use tar::EntryType;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::flags::{self, Flags};
use report::Verdict;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// A WASI command: one memory page, `_start`.
const MODULE: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01\x07\x0a\x01\x06_start\0\0\x0a\x04\x01\x02\0\x0b";

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// A layout in the making.
#[derive(Default)]
struct Layout {
    blobs: Vec<(String, Vec<u8>)>,
}

impl Layout {
    fn blob(&mut self, bytes: &[u8]) -> String {
        self.blobs.push((digest(bytes), bytes.to_vec()));
        digest(bytes)
    }

    fn descriptor(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        json!({"mediaType": media_type, "digest": self.blob(bytes), "size": bytes.len()})
    }

    fn json(&mut self, media_type: &str, document: &Value) -> Value {
        self.descriptor(media_type, document.to_string().as_bytes())
    }

    /// An image of layers, each as it is stored and as it is unpacked.
    fn image(&mut self, platform: &str, process: &Value, layers: &[(Vec<u8>, Vec<u8>)]) -> Value {
        let (os, architecture) = platform.split_once('/').unwrap();
        let diff_ids: Vec<_> = layers.iter().map(|(_, tar)| digest(tar)).collect();
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        let config = json!({"os": os, "architecture": architecture, "config": process, "rootfs": rootfs});
        let config = self.json(CONFIG, &config);
        let layers: Vec<_> = layers
            .iter()
            .map(|(stored, _)| self.descriptor(TAR, stored))
            .collect();
        self.json(
            MANIFEST,
            &json!({"schemaVersion": 2, "config": config, "layers": layers}),
        )
    }

    fn artifact(&mut self, module: &[u8]) -> Value {
        let config = self.descriptor("application/vnd.wasm.config.v0+json", b"{}");
        let layer = self.descriptor("application/wasm", module);
        self.json(
            MANIFEST,
            &json!({"schemaVersion": 2, "config": config, "layers": [layer]}),
        )
    }

    fn index(&mut self, images: &[(&str, Value)]) -> Value {
        let entry = |(platform, image): &(&str, Value)| {
            let (os, architecture) = platform.split_once('/').unwrap();
            let mut image = image.clone();
            image["platform"] = json!({"os": os, "architecture": architecture});
            image
        };
        let manifests: Vec<_> = images.iter().map(entry).collect();
        self.json(INDEX, &json!({"schemaVersion": 2, "manifests": manifests}))
    }

    fn files(&self, image: &Value) -> Vec<(String, Vec<u8>)> {
        let index = json!({"schemaVersion": 2, "manifests": [image]})
            .to_string()
            .into_bytes();
        let blobs = self
            .blobs
            .iter()
            .map(|(digest, bytes)| (format!("blobs/sha256/{}", &digest[7..]), bytes.clone()));
        [("index.json".to_owned(), index)]
            .into_iter()
            .chain(blobs)
            .collect()
    }

    fn tar(&self, image: &Value) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(fs::File::create(folder.path().join("image.tar")).unwrap());
        for (path, bytes) in self.files(image) {
            builder
                .append_data(
                    &mut header(EntryType::Regular, bytes.len()),
                    path,
                    bytes.as_slice(),
                )
                .unwrap();
        }
        builder.finish().unwrap();
        Made {
            path: folder.path().join("image.tar"),
            _folder: folder,
        }
    }

    fn folder(&self, image: &Value) -> Made {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        for (path, bytes) in self.files(image) {
            fs::write(folder.path().join(path), bytes).unwrap();
        }
        Made {
            path: folder.path().to_owned(),
            _folder: folder,
        }
    }
}

/// A target on disk, for as long as it is looked at.
struct Made {
    path: PathBuf,
    _folder: TempDir,
}

impl Made {
    fn inspect(&self, more: &[&str]) -> Result<Report, Error> {
        let path = self.path.display().to_string();
        let given = [
            &[
                "podwasm",
                "inspect",
                &path,
                "--containerd-socket",
                "/none",
                "--engine",
                "/none",
            ],
            more,
        ]
        .concat();
        let flags::Command::Inspect(flags) = Flags::parse_from(given).command else {
            unreachable!()
        };
        let runtime = Runtime::new().unwrap();
        let _context = runtime.enter();
        inspect(flags, runtime.handle().clone(), None)
    }

    #[track_caller]
    fn check(&self, more: &[&str], verdict: Verdict, reason: &str) -> Value {
        let report = self.inspect(more).unwrap();
        assert_eq!(report.verdict, verdict, "{}", report.reason);
        assert!(report.reason.contains(reason), "{}", report.reason);
        serde_json::to_value(report).unwrap()
    }

    #[track_caller]
    fn check_error(&self, expected: &str) {
        let error = with_causes(&self.inspect(&[]).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}

fn header(kind: EntryType, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(0o755);
    header
}

/// A name as it stands: the crate's own builder takes no dangerous ones.
fn raw(name: &str, kind: EntryType, bytes: &[u8], link: &str) -> Vec<u8> {
    let mut header = header(kind, bytes.len());
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let padding = vec![0; bytes.len().next_multiple_of(512) - bytes.len()];
    [header.as_bytes().as_slice(), bytes, &padding].concat()
}

fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let files = files
        .iter()
        .map(|(path, bytes)| raw(path, EntryType::Regular, bytes, ""));
    files.flatten().chain([0; 1024]).collect()
}

fn plain(tar: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    (tar.clone(), tar)
}

fn gzip(tar: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
    writer.write_all(&tar).unwrap();
    (writer.finish().unwrap(), tar)
}

fn zstd(tar: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    (compress_to_vec(tar.as_slice(), CompressionLevel::Fastest), tar)
}

fn native() -> String {
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    format!("linux/{architecture}")
}

fn app() -> Value {
    json!({"Entrypoint": ["/app.wasm"], "Cmd": ["serve"]})
}

fn one_layer(stored: (Vec<u8>, Vec<u8>)) -> Made {
    let mut layout = Layout::default();
    let image = layout.image(&native(), &app(), &[stored]);
    layout.tar(&image)
}

#[test]
fn layers_may_be_plain_gzip_and_zstd_in_archives_and_folders() {
    for store in [plain, gzip, zstd] {
        let mut layout = Layout::default();
        let layers = [
            store(layer(&[("app.wasm", b"old")])),
            store(layer(&[("app.wasm", MODULE)])),
        ];
        let image = layout.image(&native(), &app(), &layers);
        for made in [layout.tar(&image), layout.folder(&image)] {
            let report = made.check(&[], Verdict::Wasm, "/app.wasm is a WebAssembly module");
            assert_eq!(report["image"]["form"], "linux_image");
            assert_eq!(report["entrypoint"]["command"], json!(["/app.wasm", "serve"]));
            assert_eq!(report["entrypoint"]["from"], "image");
            assert_eq!(report["program"]["sha256"], digest(MODULE)[7..]);
            assert_eq!(report["decision"]["added_memory_bytes"], 50 << 20);
            assert_eq!(report["missing"].as_array().unwrap().len(), 2);
        }
    }
}

#[test]
fn a_wasm_image_is_one_by_its_platform() {
    let mut layout = Layout::default();
    let image = layout.image("wasi/wasm", &app(), &[gzip(layer(&[("app.wasm", MODULE)]))]);
    let made = layout.tar(&image);
    let report = made.check(&[], Verdict::Wasm, "is a WebAssembly module");
    assert_eq!(report["image"]["form"], "wasm_image");
    assert_eq!(report["image"]["pulled"], true);
    let report = made.check(
        &["--command", "/none"],
        Verdict::Refused,
        "there is no '/none' in the image",
    );
    assert_eq!(report["entrypoint"]["from"], "flag");
    assert_eq!(report["decision"]["refusal"], "not_a_module");
}

#[test]
fn an_index_of_wasm_alone_is_not_pulled() {
    let mut layout = Layout::default();
    let image = layout.image("wasi/wasm", &app(), &[gzip(layer(&[("app.wasm", MODULE)]))]);
    let proof = layout.artifact(b"{}");
    let only = layout.index(&[("unknown/unknown", proof), ("wasi/wasm", image.clone())]);
    let report = layout
        .tar(&only)
        .check(&[], Verdict::NotPulled, "no match for platform in manifest");
    let fix = report["image"]["fix"].as_str().unwrap();
    assert!(
        fix.contains("--provenance=false") && fix.contains("podwasm image fix NAME:TAG"),
        "{fix}"
    );
    assert_eq!(report["image"]["form"], "wasm_only_index");
    assert_eq!(report["image"]["manifest"], image["digest"]);
    assert_eq!(report["program"]["kind"], "module");

    let linux = layout.image(&native(), &app(), &[plain(layer(&[("app.wasm", MODULE)]))]);
    let both = layout.index(&[("wasi/wasm", image.clone()), (&native(), linux.clone())]);
    let report = layout.tar(&both).check(&[], Verdict::Wasm, "");
    assert_eq!(
        (&report["image"]["form"], &report["image"]["manifest"]),
        (&json!("linux_image"), &linux["digest"])
    );

    let foreign = layout.index(&[("wasi/wasm", image), ("windows/s390x", linux)]);
    let report = layout
        .tar(&foreign)
        .check(&[], Verdict::NotPulled, "lists only wasi/wasm, windows/s390x");
    assert_eq!(report["image"]["fix"], Value::Null);
}

#[test]
fn an_artifact_needs_a_command() {
    let mut layout = Layout::default();
    let image = layout.artifact(MODULE);
    let made = layout.tar(&image);
    let report = made.check(&[], Verdict::NoCommand, "the pod has to");
    assert_eq!(report["image"]["form"], "wasm_artifact");
    assert_eq!(report["program"]["sha256"], digest(MODULE)[7..]);
    let report = made.check(&["--command", "/anything.wasm"], Verdict::Wasm, "");
    assert_eq!(report["entrypoint"]["path"], "/anything.wasm");
    let component = layout.artifact(b"\0asm\x0d\0\x01\0");
    layout
        .tar(&component)
        .check(&["--command", "/c.wasm"], Verdict::Refused, "is a component");
}

#[test]
fn annotations_and_the_policy_count() {
    let made = one_layer(gzip(layer(&[("app.wasm", MODULE)])));
    let with = |annotation: &str, verdict, reason: &str| {
        let annotation = format!("wasm.noderesource.dev/pod={annotation}");
        made.check(&["--annotation", &annotation], verdict, reason)
    };
    with(
        "handler: none",
        Verdict::Fails,
        "an annotation says handler: none, so the runtime starts it",
    );
    with(
        "handler: crun",
        Verdict::Refused,
        "handler: crun cannot be had: the pod runs on runc",
    );
    with(
        "plugins: [wasi_nn]",
        Verdict::Refused,
        "plugin 'wasi_nn' is not allowed",
    );
    with("memory: 50MB", Verdict::Refused, "is not a quantity");
    let report = with("memory: none\nsockets: false", Verdict::Wasm, "");
    assert_eq!(report["decision"]["settings"], json!(["sockets=off"]));
    let policy = tempfile::NamedTempFile::new().unwrap();
    fs::write(policy.path(), "namespaces: {only: [a]}\n").unwrap();
    let policy = policy.path().to_str().unwrap();
    made.check(
        &["--config", policy],
        Verdict::Refused,
        "runs none in namespace default",
    );
    made.check(&["--config", policy, "--namespace", "a"], Verdict::Wasm, "");
    let other = "wasm.noderesource.dev/container.web=handler: none";
    let report = made.check(&["--annotation", other], Verdict::Wasm, "");
    assert!(report["notes"][0].as_str().unwrap().contains("--container web"));
    made.check(
        &["--annotation", other, "--container", "web"],
        Verdict::Fails,
        "handler: none",
    );
    let wanted = [
        "--annotation",
        "run.oci.handler=wasm",
        "--annotation",
        "wasm.noderesource.dev=handler: none",
    ];
    made.check(&wanted, Verdict::Fails, "the kernel cannot");
    made.check(
        &[&wanted[..], &["--runtime", "crun"]].concat(),
        Verdict::Native,
        "handler: none",
    );
    made.check(
        &["--runtime", "io.containerd.wasmtime.v1"],
        Verdict::Wasm,
        "runs on io.containerd.wasmtime.v1",
    );
}

#[test]
fn the_entrypoint_is_found_through_links_and_whiteouts() {
    let mut layout = Layout::default();
    let lower = [
        raw("bin/real", EntryType::Regular, MODULE, ""),
        raw("gone.wasm", EntryType::Regular, MODULE, ""),
        raw("app.wasm", EntryType::Symlink, b"", "bin/hard"),
        raw("bin/hard", EntryType::Link, b"", "bin/real"),
        raw("fifo.wasm", EntryType::Fifo, b"", ""),
        vec![0; 1024],
    ];
    let upper = layer(&[(".wh.gone.wasm", b"")]);
    let image = layout.image(&native(), &app(), &[gzip(lower.concat()), zstd(upper)]);
    let made = layout.tar(&image);
    let report = made.check(&[], Verdict::Wasm, "");
    assert_eq!(report["entrypoint"]["path"], "/bin/hard");
    made.check(
        &["--command", "/gone.wasm"],
        Verdict::Refused,
        "there is no '/gone.wasm'",
    );
    made.check(&["--command", "/fifo.wasm"], Verdict::Refused, "is a FIFO");
    made.check(
        &["--command", "/none"],
        Verdict::Fails,
        "there is no '/none' in the image",
    );
}

#[test]
fn nothing_of_this_machine_is_reached() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), MODULE).unwrap();
    let secret = secret.path().to_str().unwrap();
    let climb = format!("../../../../../../../..{secret}");
    let entries = [
        raw(
            "../../../../tmp/podwasm-inspect-escaped",
            EntryType::Regular,
            MODULE,
            "",
        ),
        raw("absolute.wasm", EntryType::Symlink, b"", secret),
        raw("climbing.wasm", EntryType::Symlink, b"", &climb),
        vec![0; 1024],
    ];
    let made = one_layer(plain(entries.concat()));
    for link in ["/absolute.wasm", "/climbing.wasm"] {
        made.check(&["--command", link], Verdict::Refused, "there is no");
    }
    made.check(&["--command", "/tmp/podwasm-inspect-escaped"], Verdict::Wasm, "");
    assert!(!Path::new("/tmp/podwasm-inspect-escaped").exists());
    let linked = [raw("app.wasm", EntryType::Link, b"", secret), vec![0; 1024]];
    one_layer(plain(linked.concat())).check_error("is a hard link to");
}

#[test]
fn bytes_that_were_changed_are_noticed() {
    let mut layout = Layout::default();
    let image = layout.image(&native(), &app(), &[plain(layer(&[("app.wasm", MODULE)]))]);
    for blob in 0..layout.blobs.len() {
        let mut changed = Layout {
            blobs: layout.blobs.clone(),
        };
        let last = changed.blobs[blob].1.last_mut().unwrap();
        *last ^= 1;
        changed.tar(&image).check_error("its bytes have the digest");
    }
    let mut layout = Layout::default();
    let (stored, _) = gzip(layer(&[("app.wasm", MODULE)]));
    let image = layout.image(&native(), &app(), &[(stored, b"other".to_vec())]);
    layout.tar(&image).check_error("its bytes have the digest");
    let mut layout = Layout::default();
    let image = layout.artifact(MODULE);
    layout.blobs[1].1 = [MODULE, b"\0\x01\0"].concat();
    let error = layout.tar(&image).inspect(&["--command", "/x"]).unwrap_err();
    assert!(
        with_causes(&error).contains("its bytes have the digest"),
        "{error}"
    );
}

#[test]
fn truncated_and_malformed_images_are_errors() {
    let mut layout = Layout::default();
    let image = layout.image(&native(), &app(), &[gzip(layer(&[("app.wasm", MODULE)]))]);
    let length = fs::metadata(layout.tar(&image).path).unwrap().len();
    // Up to the last file's content: what follows is padding.
    for cut in (512..length - 1024 - 512).step_by(311) {
        let made = layout.tar(&image);
        let file = fs::File::options().write(true).open(&made.path).unwrap();
        file.set_len(cut).unwrap();
        assert!(made.inspect(&["--as", "archive"]).is_err(), "cut at {cut}");
    }
    one_layer(gzip(vec![b'x'; 2000])).check_error("cannot read layer");
    one_layer((b"\x1f\x8bnot gzip".to_vec(), Vec::new())).check_error("cannot read layer");
    let mut layout = Layout::default();
    let nested = (0..6).fold(layout.artifact(MODULE), |image, _| {
        layout.index(&[("linux/amd64", image)])
    });
    layout.tar(&nested).check_error("nested more than");
    let missing = json!({"mediaType": MANIFEST, "digest": digest(b"?"), "size": 1});
    layout.tar(&missing).check_error("is missing");
    let odd = json!({"mediaType": MANIFEST, "digest": "sha256:../../etc/passwd", "size": 1});
    assert!(layout.tar(&odd).inspect(&[]).is_err());
    let text = layout.descriptor(MANIFEST, b"[]");
    layout.tar(&text).check_error("manifest is malformed");
    let config = layout.descriptor(CONFIG, br#"{"config": {"Entrypoint": 7}}"#);
    let manifest = layout.json(
        MANIFEST,
        &json!({"schemaVersion": 2, "config": config, "layers": []}),
    );
    layout.tar(&manifest).check_error("config is malformed");
    let config = layout.descriptor(CONFIG, b"{}");
    let tar = layout.descriptor(TAR, b"x");
    let manifest = layout.json(
        MANIFEST,
        &json!({"schemaVersion": 2, "config": config, "layers": [tar]}),
    );
    layout
        .tar(&manifest)
        .check_error("has 1 layers, and the config has 0");
}

#[test]
fn a_layer_that_unpacks_to_nothing_but_bytes_is_bounded() {
    let left = std::cell::Cell::new(1 << 20);
    let bomb = gzip(vec![0; 8 << 20]);
    let unpacked = blob::Bounded::new(blob::unpacked(bomb.0.as_slice()).unwrap(), &left);
    let error = io::copy(&mut { unpacked }, &mut io::sink()).unwrap_err();
    assert!(error.to_string().contains("unpacks to more"), "{error}");
}

#[test]
fn a_module_that_the_engine_cannot_link_would_fail() {
    let without_start = b"\0asm\x01\0\0\0";
    one_layer(plain(layer(&[("app.wasm", without_start)]))).check(
        &[],
        Verdict::Fails,
        "exports no function _start",
    );
    let import = b"\x02\x09\x01\x03env\x01f\0\0";
    let module = [&MODULE[..14], import, b"\x07\x0a\x01\x06_start\0\0"].concat();
    let report =
        one_layer(plain(layer(&[("app.wasm", &module)]))).check(&[], Verdict::Fails, "it imports from env");
    assert_eq!(report["program"]["module"]["imports"][0]["provider"], "nobody");
}

#[test]
fn files_are_entrypoints_of_their_own() {
    let check = |name: &str, bytes: &[u8], verdict, reason: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        Made {
            path,
            _folder: folder,
        }
        .check(&[], verdict, reason)
    };
    let report = check(
        "app.wasm",
        MODULE,
        Verdict::Wasm,
        "/app.wasm is a WebAssembly module",
    );
    assert_eq!(
        (&report["source"], &report["image"]),
        (&json!("file"), &Value::Null)
    );
    check("app", b"\x7fELF", Verdict::Native, "/app is a native program");
    check("app.wasm", b"#!/bin/sh", Verdict::Native, "");
    check(
        "app.wasm",
        b"text",
        Verdict::Refused,
        "is not a WebAssembly module",
    );
    check("app.wasm", b"", Verdict::Refused, "is empty");
    let report = check("notes.txt", b"text", Verdict::Fails, "is no program");
    assert_eq!(report["program"]["size_bytes"], 4);
}

#[test]
fn people_read_the_verdict_last() {
    let made = one_layer(gzip(layer(&[("app.wasm", MODULE)])));
    let text = show::show(&made.inspect(&[]).unwrap());
    let last = text.lines().last().unwrap();
    assert_eq!(
        last,
        "verdict     runs as Wasm: /app.wasm is a WebAssembly module"
    );
    for line in [
        "form        Linux image",
        "memory      64 KiB from the start",
        "adds        memory limit 50 MiB, CPU limit 200m",
    ] {
        assert!(text.lines().any(|found| found == line), "{text}");
    }
}
