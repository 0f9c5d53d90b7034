//! The merged view of a container's layers, walked without mounting them.
//!
//! The bytes in layers are a tenant's: a name may be a link to `/etc/shadow`, a FIFO, a device or a loop
//! of links. So each step opens one name in one layer with `openat2`, forbidden to leave the layer, to
//! follow a link or to cross a mount; links are followed here, inside the merged view; and nothing is
//! read before it is known to be a regular file. Whiteouts and opaque directories hide what lies below
//! them, as [overlayfs](https://docs.kernel.org/filesystems/overlayfs.html) does.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self as sys, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::facts::MountFact;

/// As many links as the kernel follows in one path.
pub const MAX_LINKS: usize = 40;
/// More layers than overlayfs can mount.
pub const MAX_LAYERS: usize = 512;
/// The kernel's `PATH_MAX`; also bounds what links add.
pub const MAX_PATH_BYTES: usize = 4096;
const STAY_INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV);
/// Both spellings exist: the second belongs to overlays mounted inside a user namespace.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];
const REDIRECT: [&str; 2] = ["trusted.overlay.redirect", "user.overlay.redirect"];

/// Why a path could not be followed to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer's folder could not be opened.
    #[error("layer {layer:?} cannot be opened")]
    Layer {
        /// The layer's folder on the host.
        layer: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path goes through more links than the kernel would follow.
    #[error("{path:?} goes through more than {MAX_LINKS} links")]
    Links {
        /// The path asked for.
        path: PathBuf,
    },
    /// The path, with what links add to it, is longer than the kernel allows.
    #[error("{path:?} is longer than {MAX_PATH_BYTES} bytes")]
    Long {
        /// The path asked for.
        path: PathBuf,
    },
    /// A directory was moved with overlayfs' redirect feature, which container images do not use.
    #[error("directory {name:?} is an overlayfs redirect, which is not supported")]
    Redirect {
        /// The directory's last name.
        name: OsString,
    },
    /// The kernel refused a step.
    #[error("cannot look at {name:?} in a layer")]
    Step {
        /// The name that was being looked up.
        name: OsString,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What stands at the end of a path.
#[derive(Debug)]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file, open for reading.
    File {
        /// The file.
        file: File,
        /// Whether anybody may execute it.
        executable: bool,
        /// Its size in bytes.
        size: u64,
    },
    /// Nothing is there, or something that is not a directory stands in the way.
    Missing,
    /// A mount of the container covers the rest of the path.
    Mounted {
        /// Where that mount is.
        destination: PathBuf,
    },
    /// A FIFO, socket or device.
    Special {
        /// Which of them.
        kind: &'static str,
    },
}

/// A path followed to its end.
#[derive(Debug)]
pub struct Resolved {
    /// Whether a volume was entered on the way: unlike a layer, it may change.
    pub in_volume: bool,
    /// Where the path ended, inside the root file system and free of links.
    pub path: PathBuf,
    /// What stands there.
    pub node: Node,
}

/// A container's layers, topmost first, and the mounts that will cover parts of them.
#[derive(Debug)]
pub struct Layers {
    root: Vec<OwnedFd>,
    mounts: Vec<MountFact>,
}

/// The directories of the merged view that were walked through, from the root downwards.
struct Walk {
    directories: Vec<(OsString, Vec<OwnedFd>)>,
}

enum Step {
    Directory(Vec<OwnedFd>),
    File(Node),
    Link(PathBuf),
    Missing,
}

impl Layers {
    /// Opens the layers, topmost first, to be covered by the container's `mounts`.
    pub fn open<P: AsRef<Path>>(layers: &[P], mounts: Vec<MountFact>) -> Result<Self, Error> {
        let open = |layer: &P| {
            let layer = layer.as_ref();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            sys::open(layer, flags, Mode::empty()).map_err(|errno| Error::Layer {
                layer: layer.to_owned(),
                source: errno.into(),
            })
        };
        let root = layers.iter().map(open).collect::<Result<_, _>>()?;
        let mut layers = Self {
            root,
            mounts: Vec::new(),
        };
        layers.cover(mounts);
        Ok(layers)
    }

    /// Places the mounts where a runtime does: outer ones first, each where its destination leads in what is there by then.
    fn cover(&mut self, mut mounts: Vec<MountFact>) {
        mounts.sort_by_key(|mount| mount.destination.components().count());
        for mount in mounts {
            let destination = self.resolve(&mount.destination).map(|resolved| resolved.path);
            self.mounts.push(MountFact {
                destination: destination.unwrap_or_else(|_| mount.destination.clone()),
                ..mount
            });
        }
    }

    /// Follows a path from the root of the merged view. A relative one is taken from the root too.
    pub fn resolve(&self, path: &Path) -> Result<Resolved, Error> {
        let mut walk = Walk {
            directories: Vec::new(),
        };
        let mut pending = names(path);
        let (mut links, mut bytes, mut in_volume) = (0, path.as_os_str().len(), false);
        while let Some(name) = pending.pop_front() {
            if bytes > MAX_PATH_BYTES {
                return Err(Error::Long {
                    path: path.to_owned(),
                });
            }
            if name == ".." {
                walk.directories.pop();
                continue;
            }
            let here = walk.path().join(&name);
            let step = match self.mount_at(&here) {
                Some(MountFact {
                    source: Some(source), ..
                }) => {
                    in_volume = true;
                    enter(source)?
                }
                Some(mount) => {
                    let destination = mount.destination.clone();
                    return Ok(Resolved {
                        in_volume,
                        path: rest(here, pending),
                        node: Node::Mounted { destination },
                    });
                }
                None => step(walk.current(&self.root), &name)?,
            };
            match step {
                Step::Directory(layers) => walk.directories.push((name, layers)),
                Step::File(_) if !pending.is_empty() => {
                    return Ok(Resolved {
                        in_volume,
                        path: rest(here, pending),
                        node: Node::Missing,
                    });
                }
                Step::File(node) => {
                    return Ok(Resolved {
                        in_volume,
                        path: here,
                        node,
                    });
                }
                // The runtime makes the folders that lead to a mount.
                Step::Missing if self.leads_to_mount(&here) => walk.directories.push((name, Vec::new())),
                Step::Missing => {
                    return Ok(Resolved {
                        in_volume,
                        path: rest(here, pending),
                        node: Node::Missing,
                    });
                }
                Step::Link(target) => {
                    links += 1;
                    bytes += target.as_os_str().len();
                    if links > MAX_LINKS {
                        return Err(Error::Links {
                            path: path.to_owned(),
                        });
                    }
                    if target.is_absolute() {
                        walk.directories.clear();
                    }
                    pending = names(&target).into_iter().chain(pending).collect();
                }
            }
        }
        Ok(Resolved {
            in_volume,
            path: walk.path(),
            node: Node::Directory,
        })
    }
}

impl Layers {
    /// The last mount at a path covers earlier ones.
    fn mount_at(&self, path: &Path) -> Option<&MountFact> {
        self.mounts.iter().rev().find(|mount| mount.destination == path)
    }

    fn leads_to_mount(&self, path: &Path) -> bool {
        self.mounts
            .iter()
            .any(|mount| mount.destination != path && mount.destination.starts_with(path))
    }
}

impl Walk {
    fn path(&self) -> PathBuf {
        Path::new("/").join(self.directories.iter().map(|(name, _)| name).collect::<PathBuf>())
    }

    fn current<'a>(&'a self, root: &'a [OwnedFd]) -> &'a [OwnedFd] {
        self.directories.last().map_or(root, |(_, layers)| layers)
    }
}

/// The names in a path; `.` and the root itself are none.
pub fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::CurDir | Component::Prefix(_) | Component::RootDir => None,
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
    };
    path.components().filter_map(name).collect()
}

fn rest(mut path: PathBuf, pending: VecDeque<OsString>) -> PathBuf {
    path.extend(pending);
    path
}

/// Looks one name up in the layers of one directory, topmost first.
fn step(layers: &[OwnedFd], name: &OsStr) -> Result<Step, Error> {
    let failed = |errno: Errno| Error::Step {
        name: name.to_owned(),
        source: errno.into(),
    };
    let mut merged = Vec::new();
    for layer in layers {
        let stat = match sys::statat(layer, name, sys::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(failed(errno)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory {
            if !merged.is_empty() {
                break;
            }
            return other_than_directory(layer, name, kind, &stat).map_err(failed);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = sys::openat2(layer, name, flags, Mode::empty(), STAY_INSIDE).map_err(failed)?;
        if REDIRECT
            .into_iter()
            .any(|attribute| has_attribute(&directory, attribute, None))
        {
            return Err(Error::Redirect {
                name: name.to_owned(),
            });
        }
        let opaque = OPAQUE
            .into_iter()
            .any(|attribute| has_attribute(&directory, attribute, Some(b'y')));
        merged.push(directory);
        if opaque {
            break;
        }
    }
    Ok(if merged.is_empty() {
        Step::Missing
    } else {
        Step::Directory(merged)
    })
}

/// Steps to what a volume's source is. The source itself was named by the kubelet, so links on the way to it are followed, as
/// the runtime will; what lies in it is a tenant's, and walked like a layer.
fn enter(source: &Path) -> Result<Step, Error> {
    let failed = |errno: Errno| Error::Step {
        name: source.as_os_str().to_owned(),
        source: errno.into(),
    };
    let handle = match sys::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(handle) => handle,
        Err(Errno::NOENT) => return Ok(Step::Missing),
        Err(errno) => return Err(failed(errno)),
    };
    let stat = sys::fstat(&handle).map_err(failed)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Directory {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = sys::openat(&handle, ".", flags, Mode::empty()).map_err(failed)?;
        return Ok(Step::Directory(vec![directory]));
    }
    if kind != FileType::RegularFile {
        return Ok(Step::File(Node::Special { kind: special(kind) }));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = sys::open(source, flags, Mode::empty()).map_err(failed)?;
    Ok(Step::File(file_node(file, &stat).map_err(failed)?))
}

fn other_than_directory(
    layer: &OwnedFd,
    name: &OsStr,
    kind: FileType,
    stat: &sys::Stat,
) -> Result<Step, Errno> {
    Ok(match kind {
        FileType::CharacterDevice if stat.st_rdev == 0 => Step::Missing, // a whiteout
        FileType::RegularFile => Step::File(regular_file(layer, name, stat)?),
        FileType::Symlink => {
            let target = sys::readlinkat(layer, name, Vec::new())?.into_bytes();
            Step::Link(PathBuf::from(
                <OsString as std::os::unix::ffi::OsStringExt>::from_vec(target),
            ))
        }
        other => Step::File(Node::Special { kind: special(other) }),
    })
}

fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::BlockDevice => "block device",
        FileType::CharacterDevice => "character device",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        _ => "special file",
    }
}

/// Opens without waiting for a writer, and makes sure that it is the file that was looked at.
fn regular_file(layer: &OwnedFd, name: &OsStr, looked_at: &sys::Stat) -> Result<Node, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    file_node(
        sys::openat2(layer, name, flags, Mode::empty(), STAY_INSIDE)?,
        looked_at,
    )
}

fn file_node(file: OwnedFd, looked_at: &sys::Stat) -> Result<Node, Errno> {
    let stat = sys::fstat(&file)?;
    if (stat.st_dev, stat.st_ino) != (looked_at.st_dev, looked_at.st_ino) {
        return Err(Errno::STALE);
    }
    Ok(Node::File {
        file: File::from(file),
        executable: stat.st_mode & 0o111 != 0,
        size: u64::try_from(stat.st_size).unwrap_or(0),
    })
}

fn has_attribute(directory: &OwnedFd, attribute: &str, first: Option<u8>) -> bool {
    let mut value = [0_u8; 256];
    match sys::fgetxattr(directory, attribute, &mut value) {
        Ok(length) => first.is_none() || value[..length].first().copied() == first,
        Err(Errno::RANGE) => first.is_none(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    /// Layers in a temporary folder, topmost first.
    struct Fixture {
        folder: tempfile::TempDir,
        layers: usize,
    }

    impl Fixture {
        fn new(layers: usize) -> Self {
            let folder = tempfile::tempdir().unwrap();
            (0..layers).for_each(|layer| fs::create_dir(folder.path().join(layer.to_string())).unwrap());
            Self { folder, layers }
        }

        fn path(&self, layer: usize, path: &str) -> PathBuf {
            let path = self.folder.path().join(layer.to_string()).join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        }

        fn file(self, layer: usize, path: &str, content: &str) -> Self {
            fs::write(self.path(layer, path), content).unwrap();
            self
        }

        fn link(self, layer: usize, path: &str, target: &str) -> Self {
            symlink(target, self.path(layer, path)).unwrap();
            self
        }

        fn fifo(self, layer: usize, path: &str) -> Self {
            let path = self.path(layer, path);
            sys::mknodat(sys::CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
            self
        }

        /// Unprivileged processes may make whiteouts since Linux 5.8.
        fn whiteout(self, layer: usize, path: &str) -> Self {
            let path = self.path(layer, path);
            sys::mknodat(sys::CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
            self
        }

        fn opaque(self, layer: usize, path: &str) -> Self {
            let path = self.path(layer, path);
            fs::create_dir_all(&path).unwrap();
            sys::setxattr(&path, OPAQUE[1], b"y", sys::XattrFlags::empty()).unwrap();
            self
        }

        fn resolve(&self, path: &str) -> Result<Resolved, Error> {
            self.resolve_with(path, &[])
        }

        fn resolve_with(&self, path: &str, mounts: &[(&str, Option<PathBuf>)]) -> Result<Resolved, Error> {
            let layers: Vec<_> = (0..self.layers)
                .map(|layer| self.folder.path().join(layer.to_string()))
                .collect();
            let mount = |(destination, source): &(&str, Option<PathBuf>)| MountFact {
                destination: destination.into(),
                read_only: false,
                source: source.clone(),
            };
            let mounts = mounts.iter().map(mount).collect();
            Layers::open(&layers, mounts).unwrap().resolve(Path::new(path))
        }
    }

    fn check_file(fixture: &Fixture, path: &str, expected_path: &str, expected_content: &str) {
        let resolved = fixture.resolve(path).unwrap();
        let Node::File { mut file, size, .. } = resolved.node else {
            panic!("{path}: {:?}", resolved.node)
        };
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(
            (resolved.path.as_path(), content.as_str()),
            (Path::new(expected_path), expected_content)
        );
        assert_eq!(size, expected_content.len() as u64);
    }

    fn check_missing(fixture: &Fixture, path: &str) {
        let resolved = fixture.resolve(path).unwrap();
        assert!(
            matches!(resolved.node, Node::Missing),
            "{path}: {:?}",
            resolved.node
        );
    }

    #[test]
    fn the_topmost_layer_wins() {
        let fixture = Fixture::new(3)
            .file(2, "app", "old")
            .file(1, "app", "new")
            .file(2, "lib/a", "a");
        check_file(&fixture, "/app", "/app", "new");
        check_file(&fixture, "/lib/../lib/./a", "/lib/a", "a");
        check_missing(&fixture, "/lib/b");
        check_missing(&fixture, "/app/below-a-file");
    }

    #[test]
    fn links_cross_layers_and_stay_inside() {
        let fixture = Fixture::new(2)
            .link(0, "app", "opt/real")
            .link(0, "opt/up", "../../../../lib/a")
            .link(0, "bin", "/lib")
            .file(1, "opt/real", "real")
            .file(1, "lib/a", "a");
        check_file(&fixture, "/app", "/opt/real", "real");
        check_file(&fixture, "/opt/up", "/lib/a", "a");
        check_file(&fixture, "/bin/a", "/lib/a", "a");
    }

    #[test]
    fn a_link_to_a_host_file_finds_only_the_images() {
        check_missing(&Fixture::new(1).link(0, "app", "/etc/shadow"), "/app");
        check_missing(
            &Fixture::new(1).link(0, "app", "../../../../../etc/shadow"),
            "/app",
        );
        check_missing(
            &Fixture::new(1).link(0, "app", "/proc/self/root/etc/passwd"),
            "/app",
        );
    }

    #[test]
    fn loops_and_long_paths_end() {
        let fixture = Fixture::new(1).link(0, "a", "b").link(0, "b", "a");
        assert!(matches!(fixture.resolve("/a"), Err(Error::Links { .. })));
        assert!(matches!(
            fixture.resolve(&"/a".repeat(3000)),
            Err(Error::Long { .. })
        ));
    }

    #[test]
    fn whiteouts_and_opaque_directories_hide_what_is_below() {
        let fixture = Fixture::new(3)
            .file(2, "app", "below")
            .whiteout(1, "app")
            .file(2, "gone/app", "below")
            .whiteout(1, "gone")
            .file(0, "gone/new", "new")
            .file(2, "etc/app", "below")
            .opaque(1, "etc")
            .file(1, "etc/own", "own");
        check_missing(&fixture, "/app");
        check_missing(&fixture, "/gone/app");
        check_file(&fixture, "/gone/new", "/gone/new", "new");
        check_missing(&fixture, "/etc/app");
        check_file(&fixture, "/etc/own", "/etc/own", "own");
    }

    #[test]
    fn a_file_above_a_directory_hides_it() {
        let fixture = Fixture::new(2)
            .file(0, "app", "file")
            .file(1, "app/inner", "below");
        check_file(&fixture, "/app", "/app", "file");
        check_missing(&fixture, "/app/inner");
        let fixture = Fixture::new(3)
            .file(0, "app/new", "new")
            .file(1, "app", "file")
            .file(2, "app/old", "old");
        check_missing(&fixture, "/app/old");
        check_file(&fixture, "/app/new", "/app/new", "new");
    }

    #[test]
    fn special_files_are_named_and_never_opened() {
        let fixture = Fixture::new(1).fifo(0, "app");
        let node = fixture.resolve("/app").unwrap().node;
        assert!(matches!(node, Node::Special { kind: "FIFO" }), "{node:?}");
    }

    #[test]
    fn mounts_cover_what_the_image_holds() {
        let fixture = Fixture::new(1)
            .file(0, "data/app", "image's")
            .link(0, "app", "data/app");
        let resolved = fixture.resolve_with("/app", &[("/data", None)]).unwrap();
        let Node::Mounted { destination } = resolved.node else {
            panic!("{resolved:?}")
        };
        assert_eq!(
            (destination, resolved.path),
            (PathBuf::from("/data"), PathBuf::from("/data/app"))
        );
    }

    #[test]
    fn volumes_are_entered() {
        let volume = Fixture::new(1)
            .file(0, "..2024/app", "volume's")
            .link(0, "..data", "..2024")
            .link(0, "app", "..data/app")
            .link(0, "out", "/bin/tool")
            .link(0, "host", "/etc/shadow")
            .fifo(0, "fifo");
        let image = Fixture::new(1)
            .file(0, "bin/tool", "image's")
            .file(0, "data/app", "hidden")
            .link(0, "run", "data");
        let source = volume.folder.path().join("0");
        let resolve = |path: &str| {
            image
                .resolve_with(path, &[("/data", Some(source.clone()))])
                .unwrap()
        };
        let check = |path: &str, expected_path: &str, expected: &str| {
            let resolved = resolve(path);
            let Node::File { mut file, .. } = resolved.node else {
                panic!("{path}: {:?}", resolved.node)
            };
            let mut content = String::new();
            file.read_to_string(&mut content).unwrap();
            assert_eq!(
                (resolved.path.as_path(), content.as_str()),
                (Path::new(expected_path), expected)
            );
            assert!(resolved.in_volume);
        };
        check("/data/app", "/data/..2024/app", "volume's");
        check("/run/app", "/data/..2024/app", "volume's");
        check("/data/out", "/bin/tool", "image's");
        assert!(matches!(resolve("/data/host").node, Node::Missing));
        assert!(matches!(
            resolve("/data/fifo").node,
            Node::Special { kind: "FIFO" }
        ));
        assert!(!resolve("/bin/tool").in_volume);
        let elsewhere = image
            .resolve_with("/new/place/app", &[("/new/place", Some(source.clone()))])
            .unwrap();
        assert!(matches!(elsewhere.node, Node::File { size: 8, .. }));
        let linked = image
            .resolve_with("/data/v/app", &[("/run/v", Some(source.clone()))])
            .unwrap();
        assert!(matches!(linked.node, Node::File { size: 8, .. }), "{linked:?}");
        let file = image
            .resolve_with("/bin/tool", &[("/bin/tool", Some(source.join("..2024/app")))])
            .unwrap();
        assert!(matches!(file.node, Node::File { size: 8, .. }) && file.in_volume);
        let gone = image
            .resolve_with("/bin/tool", &[("/bin/tool", Some(source.join("gone")))])
            .unwrap();
        assert!(matches!(gone.node, Node::Missing));
    }

    #[test]
    fn the_mode_tells_what_may_be_executed() {
        let fixture = Fixture::new(1).file(0, "app", "x");
        let executable = |fixture: &Fixture| match fixture.resolve("/app").unwrap().node {
            Node::File { executable, .. } => executable,
            other => panic!("{other:?}"),
        };
        fs::set_permissions(fixture.path(0, "app"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!executable(&fixture));
        fs::set_permissions(fixture.path(0, "app"), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(executable(&fixture));
    }
}
