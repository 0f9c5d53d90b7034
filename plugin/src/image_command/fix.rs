//! What makes an index that lists only Wasm platforms one that Kubernetes pulls.
//!
//! The new index lists what the old one does, and two images more: the same layers with configs that say `linux/amd64` and
//! `linux/arm64`, as a build for these platforms would have made. Entries for Linux that point to the old manifest would be less to
//! push, but then index and config would contradict each other, and it is a client's own affair which of them it goes by.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use oci_spec::image::{MediaType, PlatformBuilder};
use serde_json::{Value, json};

use super::recipe::Document;
use crate::image::is_index;

const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
/// Configs of images with files, as against those of artifacts.
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
/// What a config says of a platform beside its system and architecture.
const OTHER_PLATFORM_KEYS: [&str; 3] = ["variant", "os.version", "os.features"];

/// Why an image cannot be made one that is pulled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The manifest that is listed is not of an image with files.
    #[error("the index lists an artifact for Wasm, which has no files: push it without an index")]
    Artifact,
    /// A document is malformed.
    #[error("the image's {what} is malformed")]
    Malformed {
        /// Which.
        what: &'static str,
    },
    /// Nothing in it is for Wasm.
    #[error("the index lists nothing for Wasm, only {}", platforms.join(", "))]
    NoWasm {
        /// What it lists.
        platforms: Vec<String>,
    },
}

/// What an image's name stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Form {
    /// It is pulled as it is.
    Pulled {
        /// Why.
        why: String,
    },
    /// An index that lists only Wasm.
    WasmOnly {
        /// The digest of the manifest that counts.
        manifest: String,
    },
}

/// What has to be pushed, in this order.
#[derive(Debug)]
pub struct Push {
    /// The new configs.
    pub configs: Vec<Document>,
    /// The new manifests.
    pub manifests: Vec<Document>,
    /// The new index.
    pub index: Document,
}

/// Whether there is anything to do.
pub fn form(document: &[u8], media_type: &str) -> Result<Form, Error> {
    if !is_index(media_type) {
        let why = "it is one manifest without an index, which is pulled whatever its platform".to_owned();
        return Ok(Form::Pulled { why });
    }
    let index = parsed(document, "index")?;
    let entries = index["manifests"]
        .as_array()
        .ok_or(Error::Malformed { what: "index" })?;
    let platforms: Vec<_> = entries.iter().map(platform).collect();
    if let Some(linux) = platforms
        .iter()
        .find(|platform| platform.starts_with("linux/") && !is_wasm(platform))
    {
        return Ok(Form::Pulled {
            why: format!("it lists {linux}"),
        });
    }
    let wasm = entries
        .iter()
        .zip(&platforms)
        .find(|(_, platform)| is_wasm(platform));
    match wasm.and_then(|(entry, _)| entry["digest"].as_str()) {
        Some(digest) => Ok(Form::WasmOnly {
            manifest: digest.to_owned(),
        }),
        None => Err(Error::NoWasm { platforms }),
    }
}

/// What to push for an index, of whose manifest for Wasm these are the bytes and the config.
pub fn plan(index: &[u8], index_type: &str, manifest: &[u8], config: &[u8]) -> Result<Push, Error> {
    let mut index = parsed(index, "index")?;
    let manifest = parsed(manifest, "manifest")?;
    let config = parsed(config, "config")?;
    let config_type = manifest["config"]["mediaType"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if !CONFIGS.contains(&config_type.as_str()) {
        return Err(Error::Artifact);
    }
    let entries = index["manifests"]
        .as_array_mut()
        .ok_or(Error::Malformed { what: "index" })?;
    let manifest_type = super::registry::media_type(manifest.to_string().as_bytes());
    let (mut configs, mut manifests) = (Vec::new(), Vec::new());
    for architecture in ARCHITECTURES {
        let config = Document::json(config_type.as_str().into(), &for_linux(&config, architecture)?);
        let mut manifest = manifest.clone();
        manifest["config"] = json!(config.descriptor());
        let manifest = Document::json(MediaType::from(manifest_type.as_str()), &manifest);
        let mut entry = manifest.descriptor();
        let platform = PlatformBuilder::default()
            .os("linux")
            .architecture(architecture)
            .build();
        entry.set_platform(Some(platform.expect("all fields are set")));
        entries.push(json!(entry));
        configs.push(config);
        manifests.push(manifest);
    }
    Ok(Push {
        configs,
        manifests,
        index: Document::json(index_type.into(), &index),
    })
}

fn for_linux(config: &Value, architecture: &str) -> Result<Value, Error> {
    let mut config = config.clone();
    let fields = config
        .as_object_mut()
        .ok_or(Error::Malformed { what: "config" })?;
    fields.insert("os".to_owned(), json!("linux"));
    fields.insert("architecture".to_owned(), json!(architecture));
    for key in OTHER_PLATFORM_KEYS {
        fields.remove(key);
    }
    Ok(config)
}

fn parsed(document: &[u8], what: &'static str) -> Result<Value, Error> {
    let value: Option<Value> = serde_json::from_slice(document).ok();
    value.filter(Value::is_object).ok_or(Error::Malformed { what })
}

fn platform(entry: &Value) -> String {
    let of = |key: &str| entry["platform"][key].as_str().unwrap_or("unknown");
    format!("{}/{}", of("os"), of("architecture"))
}

fn is_wasm(platform: &str) -> bool {
    let (os, architecture) = platform.split_once('/').unwrap_or((platform, ""));
    os.starts_with("wasi") || architecture.starts_with("wasm")
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn index(platforms: &[&str]) -> Vec<u8> {
        let entry = |platform: &&str| {
            let (os, architecture) = platform.split_once('/').unwrap();
            json!({"digest": DIGEST, "mediaType": "m", "size": 1, "platform": {"os": os, "architecture": architecture}})
        };
        let entries: Vec<_> = platforms.iter().map(entry).collect();
        json!({"mediaType": INDEX, "schemaVersion": 2, "manifests": entries, "annotations": {"k": "v"}})
            .to_string()
            .into_bytes()
    }

    fn manifest(config_type: &str) -> Vec<u8> {
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "annotations": {"a": "b"},
            "config": {"mediaType": config_type, "digest": DIGEST, "size": 2},
            "layers": [{"mediaType": "l", "digest": DIGEST, "size": 3}],
        })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn what_is_pulled_is_left_alone() {
        let check = |document: &[u8], media_type: &str, expected: &str| match form(document, media_type) {
            Ok(Form::Pulled { why }) => assert!(why.contains(expected), "{why}"),
            other => panic!("{other:?}"),
        };
        check(
            b"{}",
            "application/vnd.oci.image.manifest.v1+json",
            "one manifest",
        );
        check(
            &index(&["wasi/wasm", "linux/amd64"]),
            INDEX,
            "it lists linux/amd64",
        );
    }

    #[test]
    fn the_wasm_manifest_is_found_beside_attestations() {
        for platform in ["wasi/wasm", "wasip1/wasm", "linux/wasm"] {
            let found = form(&index(&["unknown/unknown", platform]), INDEX);
            assert_eq!(
                found,
                Ok(Form::WasmOnly {
                    manifest: DIGEST.to_owned()
                }),
                "{platform}"
            );
        }
        let error = form(&index(&["windows/amd64"]), INDEX).unwrap_err().to_string();
        assert!(error.contains("only windows/amd64"), "{error}");
        assert_eq!(form(b"[]", INDEX), Err(Error::Malformed { what: "index" }));
        assert_eq!(form(b"{}", INDEX), Err(Error::Malformed { what: "index" }));
    }

    #[test]
    fn nothing_is_lost_and_no_layer_changes() {
        let config = br#"{"os":"wasi","architecture":"wasm","variant":"v","config":{"Entrypoint":["/app.wasm"]},"x":1}"#;
        let old = index(&["unknown/unknown", "wasi/wasm"]);
        let push = plan(&old, INDEX, &manifest(CONFIGS[0]), config).unwrap();
        let of = |document: &Document| serde_json::from_slice::<Value>(&document.bytes).unwrap();
        let (new, old) = (of(&push.index), parsed(&old, "index").unwrap());
        let entries = new["manifests"].as_array().unwrap();
        assert_eq!(&entries[..2], old["manifests"].as_array().unwrap().as_slice());
        assert_eq!(new["annotations"], old["annotations"]);
        for (number, architecture) in ARCHITECTURES.iter().enumerate() {
            let (config, manifest) = (of(&push.configs[number]), of(&push.manifests[number]));
            let expected = json!({"os": "linux", "architecture": architecture, "config": {"Entrypoint": ["/app.wasm"]}, "x": 1});
            assert_eq!(config, expected);
            assert_eq!(manifest["config"]["digest"], push.configs[number].digest());
            assert_eq!(
                manifest["layers"][0],
                json!({"mediaType": "l", "digest": DIGEST, "size": 3})
            );
            assert_eq!(entries[number + 2]["digest"], push.manifests[number].digest());
            assert_eq!(
                entries[number + 2]["platform"],
                json!({"os": "linux", "architecture": architecture})
            );
        }
        let again = form(&push.index.bytes, INDEX).unwrap();
        assert!(matches!(again, Form::Pulled { .. }), "{again:?}");
    }

    #[test]
    fn an_artifact_has_no_files_to_list() {
        let error = plan(
            &index(&["wasi/wasm"]),
            INDEX,
            &manifest("application/vnd.wasm.config.v0+json"),
            b"{}",
        );
        assert_eq!(error.unwrap_err(), Error::Artifact);
    }
}
