//! Random layers of links, whiteouts and opaque directories: what podwasm finds at a path, in folders and in archives, is what stands
//! there in a real overlay mount. Needs root.
#![no_main]

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use podwasm::fuzzing::{Put, Stands, in_archives, on_disk};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, XattrFlags, mknodat, openat2, setxattr};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

libfuzzer_sys::fuzz_target!(|input: &[u8]| run(input));

const OPAQUE: &str = "trusted.overlay.opaque";
const LAYERS: usize = 3;

fn run(input: &[u8]) {
    let (plan, paths) = input.split_at(input.len().min(120) / 3 * 2);
    let folder = tempfile::tempdir().expect("there is room");
    // Topmost first.
    let layers: Vec<_> = (0..LAYERS)
        .map(|layer| folder.path().join(layer.to_string()))
        .collect();
    layers
        .iter()
        .for_each(|layer| fs::create_dir(layer).expect("there is room"));
    for step in plan.chunks_exact(4) {
        put(&layers[usize::from(step[0]) % LAYERS], step);
    }
    let mount = overlay(&layers);
    let archives: Vec<_> = layers.iter().rev().map(|layer| archive(layer)).collect();
    for path in paths.chunks(3).take(8).map(|bytes| path(bytes, true)) {
        let expected = in_kernel(&mount, &path);
        let (found_at, found) = on_disk(&layers, &path);
        assert_eq!(found, expected, "{path:?} in {archives:?}");
        let in_archives = in_archives(&archives, &path);
        assert_eq!(in_archives, (found_at, found), "{path:?} in {archives:?}");
    }
}

/// A path of a few names, so that they meet.
fn path(bytes: &[u8], from_root: bool) -> PathBuf {
    let names = ["a", "b", "c", ".."];
    let mut path = PathBuf::from(if from_root { "/" } else { "" });
    for byte in bytes {
        path.push(names[usize::from(byte & 3)]);
        if byte & 4 != 0 {
            path.push(names[usize::from(byte >> 3 & 3)]);
        }
    }
    path
}

/// Puts something into a layer, unless something is in the way.
fn put(layer: &Path, step: &[u8]) {
    let plain = |byte: u8| ["a", "b", "c"][usize::from(byte % 3)];
    let mut at = layer.to_owned();
    for depth in 0..step[1] % 3 {
        at.push(plain(step[2] >> (2 * depth)));
    }
    let is_way = |at: &Path| {
        at.ancestors()
            .take_while(|way| *way != layer)
            .all(|way| !way.symlink_metadata().is_ok_and(|there| !there.is_dir()))
    };
    if !is_way(&at) || fs::create_dir_all(&at).is_err() {
        return;
    }
    let place = at.join(plain(step[1] >> 2));
    let node = |kind| _ = mknodat(CWD, &place, kind, Mode::RUSR, 0); // it may be there
    match step[3] % 6 {
        0 => drop(fs::create_dir(&place)),
        1 if place.symlink_metadata().is_err() => drop(fs::write(&place, step)),
        2 => node(FileType::CharacterDevice),
        3 => drop(setxattr(&at, OPAQUE, b"y", XattrFlags::empty())),
        4 => {
            let target = path(
                &[step[2], step[1] >> 4][..1 + usize::from(step[0] >> 7)],
                step[3] & 8 != 0,
            );
            drop(symlink(target, &place));
        }
        5 => node(FileType::Fifo),
        _ => {}
    }
}

/// A mount of these layers that is nowhere to be seen, and goes when it is closed.
fn overlay(layers: &[PathBuf]) -> OwnedFd {
    let lower: Vec<_> = layers.iter().map(|layer| layer.to_string_lossy()).collect();
    let context =
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("this target needs root, and overlayfs");
    fsconfig_set_string(&context, "lowerdir", lower.join(":")).expect("layers are there");
    fsconfig_create(&context).expect("layers can be mounted");
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).expect("layers can be mounted")
}

fn in_kernel(mount: &OwnedFd, path: &Path) -> Stands {
    // A rename or a mount anywhere on the machine makes the kernel unsure of `..`, and it says so instead of looking again.
    let open = |flags: OFlags| loop {
        let flags = flags | OFlags::CLOEXEC;
        match openat2(mount, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(Errno::AGAIN) => {}
            answer => break answer,
        }
    };
    let file = match open(OFlags::PATH) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Stands::Missing,
        Err(Errno::LOOP) => return Stands::Loop,
        Err(errno) => panic!("{path:?}: {errno}"),
    };
    let there = file.metadata().expect("it is open");
    if there.is_dir() {
        return Stands::Directory;
    }
    if !there.is_file() {
        return Stands::Special;
    }
    let mut content = Vec::new();
    let mut file = File::from(open(OFlags::RDONLY).expect("it is there"));
    file.read_to_end(&mut content).expect("it is open");
    Stands::File(content)
}

/// A layer as its archive would be.
fn archive(layer: &Path) -> Vec<(PathBuf, Put)> {
    let mut entries = Vec::new();
    collect(layer, layer, &mut entries);
    entries
}

fn collect(layer: &Path, folder: &Path, entries: &mut Vec<(PathBuf, Put)>) {
    let inside = |path: &Path| path.strip_prefix(layer).expect("it is in it").to_owned();
    let mut value = [0; 1];
    if rustix::fs::getxattr(folder, OPAQUE, &mut value).is_ok() {
        entries.push((inside(&folder.join(".wh..wh..opq")), Put::File(Vec::new())));
    }
    let mut children: Vec<_> = fs::read_dir(folder).expect("it is a folder").flatten().collect();
    children.sort_by_key(fs::DirEntry::file_name);
    for child in children {
        let (path, about) = (child.path(), child.metadata().expect("it is there"));
        let kind = about.file_type();
        let name = child.file_name().to_string_lossy().into_owned();
        if kind.is_char_device() && about.rdev() == 0 {
            entries.push((inside(&folder.join(format!(".wh.{name}"))), Put::File(Vec::new())));
            continue;
        }
        let put = if kind.is_dir() {
            Put::Directory
        } else if kind.is_symlink() {
            Put::Link(fs::read_link(&path).expect("it is a link"))
        } else if kind.is_file() {
            Put::File(fs::read(&path).expect("it is a file"))
        } else {
            Put::Special
        };
        entries.push((inside(&path), put));
        if kind.is_dir() {
            collect(layer, &path, entries);
        }
    }
}
