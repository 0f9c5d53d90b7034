//! A pod's volumes, made on the node as a kubelet makes them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};

use super::Manifest;
use super::objects::{ConfigMapVolume, EmptyDir, HostPath, HostPathType, Volume};
use super::pods::PlannedPod;
use crate::node::Node;

/// Where the node finds each volume, by its name.
pub(super) async fn make(
    node: &Node,
    manifest: &Manifest,
    pod: &PlannedPod,
    folder: &str,
) -> Result<BTreeMap<String, String>> {
    let mut places = BTreeMap::new();
    for volume in &pod.spec.volumes {
        let place = make_one(node, manifest, pod, folder, volume).await;
        let place = place.with_context(|| format!("volume {}", volume.name))?;
        places.insert(volume.name.clone(), place);
    }
    Ok(places)
}

async fn make_one(
    node: &Node,
    manifest: &Manifest,
    pod: &PlannedPod,
    folder: &str,
    volume: &Volume,
) -> Result<String> {
    if let Some(host_path) = &volume.host_path {
        return host_folder(node, host_path);
    }
    let place = format!("{folder}/volumes/{}", volume.name);
    fs::create_dir_all(node.path(&place))?;
    if let Some(empty) = &volume.empty_dir {
        empty_folder(node, empty, &place).await?;
    }
    if let Some(map) = &volume.config_map {
        let files = files(manifest, map, &pod.metadata.namespace)?;
        write_atomically(
            &node.path(&place),
            &files,
            map.default_mode.unwrap_or(0o644),
            pod.spec.security_context.fs_group,
        )?;
    }
    if let Some(group) = pod.spec.security_context.fs_group {
        chown(node.path(&place), None, Some(group))?;
    }
    Ok(place)
}

fn host_folder(node: &Node, host_path: &HostPath) -> Result<String> {
    let path = node.path(&host_path.path);
    let is_right = match host_path.r#type {
        None => true,
        Some(HostPathType::Directory) => path.is_dir(),
        Some(HostPathType::DirectoryOrCreate) => {
            fs::create_dir_all(&path)?;
            true
        }
        Some(HostPathType::File) => path.is_file(),
        Some(HostPathType::FileOrCreate) => {
            fs::OpenOptions::new().create(true).append(true).open(&path)?;
            true
        }
        Some(HostPathType::Socket) => {
            use std::os::unix::fs::FileTypeExt as _;
            fs::metadata(&path).is_ok_and(|found| found.file_type().is_socket())
        }
    };
    ensure!(
        is_right,
        "hostPath {} is no {:?}",
        host_path.path,
        host_path.r#type
    );
    Ok(host_path.path.clone())
}

async fn empty_folder(node: &Node, empty: &EmptyDir, place: &str) -> Result<()> {
    match empty.medium.as_deref() {
        None | Some("") => {}
        Some("Memory") => {
            let size = match &empty.size_limit {
                Some(limit) => format!("size={}", super::quantity::units(limit)?),
                None => "size=50%".to_owned(),
            };
            let output = node
                .exec("mount", ["-t", "tmpfs", "-o", &size, "tmpfs", place])
                .await?;
            ensure!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Some(other) => bail!("the medium {other:?} is not known"),
    }
    // As the kubelet has it: whoever the container runs as may write.
    fs::set_permissions(node.path(place), fs::Permissions::from_mode(0o777))?;
    Ok(())
}

/// The files of a `ConfigMap`'s volume, by their paths in it.
fn files<'a>(
    manifest: &'a Manifest,
    volume: &'a ConfigMapVolume,
    namespace: &str,
) -> Result<Vec<(&'a str, &'a str)>> {
    let maps = manifest.config_maps();
    let Some(map) = maps.get(&(namespace, volume.name.as_str())) else {
        ensure!(
            volume.optional,
            "no ConfigMap {} in namespace {namespace}",
            volume.name
        );
        return Ok(Vec::new());
    };
    if volume.items.is_empty() {
        return Ok(map
            .data
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect());
    }
    let item = |item: &'a super::objects::KeyToPath| {
        let value = map.data.get(&item.key);
        let value = value.with_context(|| format!("ConfigMap {} has no key {}", volume.name, item.key))?;
        Ok((item.path.as_str(), value.as_str()))
    };
    volume.items.iter().map(item).collect()
}

/// Writes files behind two links, `..data` and their own, so that an update changes them all at once.
fn write_atomically(
    folder: &Path,
    files: &[(&str, &str)],
    mode: u32,
    group: Option<u32>,
) -> std::io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let data = format!("..{}", now.as_nanos());
    for (path, content) in files {
        let file = folder.join(&data).join(path);
        fs::create_dir_all(file.parent().unwrap_or(folder))?;
        fs::write(&file, content)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        chown(&file, None, group)?;
    }
    fs::create_dir_all(folder.join(&data))?;
    std::os::unix::fs::symlink(&data, folder.join("..data"))?;
    for (path, _) in files {
        let first = path.split('/').next().unwrap_or(path);
        let link = folder.join(first);
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(format!("..data/{first}"), link)?;
        }
    }
    Ok(())
}
