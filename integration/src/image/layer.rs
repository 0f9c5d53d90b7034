//! One layer: an archive of the files it adds and of the marks for what it takes away.

use flate2::{Compression, GzBuilder};
use std::io::Write as _;
use std::path::Path;
use tar::{EntryType, Header};

/// A layer's entries, in the order they were added.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    path: String,
    kind: EntryType,
    mode: u32,
    bytes: Vec<u8>,
    link: String,
    device: (u32, u32),
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, path: &str, bytes: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.with(path, EntryType::Regular, |entry| {
            entry.mode = mode;
            entry.bytes = bytes.into();
        })
    }

    /// A directory. Those that only lie on the way to a file need not be named.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.with(path, EntryType::Directory, |entry| entry.mode = mode)
    }

    /// A symbolic link that holds `target` as it stands.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.with(path, EntryType::Symlink, |entry| {
            target.clone_into(&mut entry.link);
        })
    }

    /// A second name for a file of this layer.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.with(path, EntryType::Link, |entry| {
            relative(target).clone_into(&mut entry.link);
        })
    }

    /// A named pipe.
    #[must_use]
    pub fn fifo(self, path: &str) -> Self {
        self.with(path, EntryType::Fifo, |_| {})
    }

    /// A character device.
    #[must_use]
    pub fn device(self, path: &str, major: u32, minor: u32) -> Self {
        self.with(path, EntryType::Char, |entry| entry.device = (major, minor))
    }

    /// Takes away a path of the layers below.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.file(&format!("{folder}/.wh.{name}"), [], 0o644)
    }

    /// Takes away all that the layers below have in a directory.
    #[must_use]
    pub fn opaque(self, directory: &str) -> Self {
        self.directory(directory, 0o755)
            .file(&format!("{directory}/.wh..wh..opq"), [], 0o644)
    }

    fn with(mut self, path: &str, kind: EntryType, set: impl FnOnce(&mut Entry)) -> Self {
        let path = relative(path).to_owned();
        let mut entry = Entry {
            path,
            kind,
            mode: 0o777,
            bytes: Vec::new(),
            link: String::new(),
            device: (0, 0),
        };
        set(&mut entry);
        self.entries.push(entry);
        self
    }

    /// The archive, whose digest is the layer's diff id.
    pub(super) fn tar(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            append(&mut archive, entry).expect("an archive in memory takes any entry");
        }
        archive
            .into_inner()
            .expect("an archive in memory can be finished")
    }
}

fn append(archive: &mut tar::Builder<Vec<u8>>, entry: &Entry) -> std::io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(entry.kind);
    header.set_mode(entry.mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(entry.bytes.len() as u64);
    header.set_device_major(entry.device.0)?;
    header.set_device_minor(entry.device.1)?;
    if entry.link.is_empty() {
        archive.append_data(&mut header, &entry.path, entry.bytes.as_slice())
    } else {
        archive.append_link(&mut header, &entry.path, Path::new(&entry.link))
    }
}

/// Paths in an archive have no slash in front.
fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// Compresses so that the same input has the same output everywhere.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = GzBuilder::new()
        .mtime(0)
        .operating_system(255)
        .write(Vec::new(), Compression::fast());
    writer.write_all(bytes).expect("memory takes any bytes");
    writer.finish().expect("memory takes any bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn entries(layer: &Layer) -> Vec<String> {
        let tar = layer.tar();
        let mut archive = tar::Archive::new(tar.as_slice());
        let describe = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let path = entry.path().unwrap().display().to_string();
            let link = entry
                .link_name()
                .unwrap()
                .map(|link| link.display().to_string())
                .unwrap_or_default();
            format!(
                "{:?} {path} {:o} {link}{text}",
                entry.header().entry_type(),
                entry.header().mode().unwrap()
            )
        };
        archive.entries().unwrap().map(describe).collect()
    }

    #[test]
    fn every_kind_of_entry() {
        let layer = Layer::new()
            .directory("/d", 0o755)
            .file("/d/f", "text", 0o644)
            .symlink("/s", "/d/../d/f")
            .hard_link("/h", "/d/f")
            .fifo("/p");
        assert_eq!(
            entries(&layer),
            [
                "Directory d 755 ",
                "Regular d/f 644 text",
                "Symlink s 777 /d/../d/f",
                "Link h 777 d/f",
                "Fifo p 777 "
            ]
        );
    }

    #[test]
    fn marks_for_what_is_gone() {
        let layer = Layer::new().whiteout("/a/b").whiteout("/c").opaque("/d");
        assert_eq!(
            entries(&layer),
            [
                "Regular a/.wh.b 644 ",
                "Regular .wh.c 644 ",
                "Directory d 755 ",
                "Regular d/.wh..wh..opq 644 "
            ]
        );
    }

    #[test]
    fn device_numbers_are_kept() {
        let tar = Layer::new().device("/null", 1, 3).tar();
        let mut archive = tar::Archive::new(tar.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.header().device_major().unwrap(), Some(1));
        assert_eq!(entry.header().device_minor().unwrap(), Some(3));
    }
}
