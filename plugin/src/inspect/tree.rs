//! The merged view of an image's layers, as names in memory.
//!
//! An archive's layers are never unpacked: their entries' names are put together here as containerd would put them
//! together on a disk, links are followed among them, and only what an entrypoint leads to is taken out. A name that wants to lead
//! elsewhere has nowhere to lead to.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::tarball::{Entry, Kind};
use crate::layers::{self, MAX_LINKS, MAX_PATH_BYTES, names};

/// Several times what the largest images have; a million directories were measured to take 160 MB.
const MAX_NODES: usize = 1_000_000;
/// So much may names and links take beside the nodes themselves.
const MAX_NAME_BYTES: usize = 64 << 20;
const ROOT: usize = 0;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other marks of a file system that layers were once made from; they are no files.
const MARKS: &[u8] = b".wh..wh.";

/// Why an entry does not fit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A hard link to what is not there, or no file.
    #[error("{path:?} is a hard link to {target:?}, where there is no file")]
    HardLink {
        /// The entry.
        path: PathBuf,
        /// What it should be the same as.
        target: PathBuf,
    },
    /// Too many names, or too long ones.
    #[error("the image has more names than any image should have")]
    Large,
    /// A path could not be followed.
    #[error(transparent)]
    Path(#[from] layers::Error),
    /// A file stands where a directory should be.
    #[error("{path:?} goes through what is not a directory")]
    Way {
        /// The entry.
        path: PathBuf,
    },
}

/// Where a file's bytes are: the layer, counted from the lowest, and the entry's number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The layer.
    pub layer: usize,
    /// The entry's number in its archive.
    pub number: u64,
}

/// What stands at the end of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Whether anybody may execute it.
        executable: bool,
        /// Its size in bytes.
        size: u64,
        /// Where its bytes are.
        place: Place,
    },
    /// Nothing.
    Missing,
    /// Neither file nor directory.
    Special(&'static str),
}

#[derive(Debug)]
enum Content {
    Directory(BTreeMap<OsString, usize>),
    File {
        executable: bool,
        size: u64,
        place: Place,
    },
    Link(PathBuf),
    Special(&'static str),
}

#[derive(Debug)]
struct Node {
    content: Content,
    /// The last layer that has it.
    layer: usize,
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    name_bytes: usize,
}

/// A path followed as far as there is something.
struct Followed {
    directories: Vec<(OsString, usize)>,
    end: End,
}

enum End {
    At(usize),
    /// Names of which the first is not there.
    Missing(VecDeque<OsString>),
    /// Names of which the first is no directory, but others follow.
    NotADirectory(VecDeque<OsString>),
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node {
            content: Content::Directory(BTreeMap::new()),
            layer: 0,
        };
        Self {
            nodes: vec![root],
            name_bytes: 0,
        }
    }
}

impl Tree {
    /// Puts an entry of a layer above all that is there.
    pub fn add(&mut self, layer: usize, number: u64, entry: &Entry) -> Result<(), Error> {
        let path = clean(&entry.path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        let parent = self.make_way(parent, layer, &entry.path)?;
        if let Some(gone) = name.as_bytes().strip_prefix(WHITEOUT) {
            self.white_out(parent, name.as_bytes(), OsStr::from_bytes(gone), layer);
            return Ok(());
        }
        let content = match &entry.kind {
            Kind::Directory => return self.directory(parent, name, layer).map(drop),
            Kind::File { executable, size } => Content::File {
                executable: *executable,
                size: *size,
                place: Place { layer, number },
            },
            Kind::HardLink(target) => self.same_as(&entry.path, target)?,
            Kind::Link(target) => Content::Link(target.clone()),
            Kind::Special(kind) => Content::Special(kind),
        };
        self.insert(parent, name, content, layer).map(drop)
    }

    /// Follows a path from the root, and says where it ended, free of links.
    pub fn resolve(&self, path: &Path) -> Result<(PathBuf, Found), layers::Error> {
        let Followed { directories, end } = self.follow(path, true)?;
        let mut end_path = Path::new("/").join(directories.iter().map(|(name, _)| name).collect::<PathBuf>());
        Ok(match end {
            End::At(node) => (end_path, self.found(node)),
            End::Missing(rest) | End::NotADirectory(rest) => {
                end_path.extend(rest);
                (end_path, Found::Missing)
            }
        })
    }

    fn found(&self, node: usize) -> Found {
        match &self.nodes[node].content {
            Content::Directory(_) => Found::Directory,
            Content::File {
                executable,
                size,
                place,
            } => Found::File {
                executable: *executable,
                size: *size,
                place: *place,
            },
            Content::Link(_) => Found::Missing,
            Content::Special(kind) => Found::Special(kind),
        }
    }

    /// `last` says whether a link at the path's end is followed too.
    fn follow(&self, path: &Path, last: bool) -> Result<Followed, layers::Error> {
        let mut directories: Vec<(OsString, usize)> = Vec::new();
        let mut pending = names(path);
        let (mut links, mut bytes) = (0, path.as_os_str().len());
        while let Some(name) = pending.pop_front() {
            if bytes > MAX_PATH_BYTES {
                return Err(layers::Error::Long {
                    path: path.to_owned(),
                });
            }
            if name == ".." {
                directories.pop();
                continue;
            }
            let here = directories.last().map_or(ROOT, |(_, node)| *node);
            let Some(node) = self.child(here, &name) else {
                pending.push_front(name);
                let end = End::Missing(pending);
                return Ok(Followed { directories, end });
            };
            match &self.nodes[node].content {
                Content::Directory(_) => directories.push((name, node)),
                Content::Link(target) if last || !pending.is_empty() => {
                    links += 1;
                    bytes += target.as_os_str().len();
                    if links > MAX_LINKS {
                        return Err(layers::Error::Links {
                            path: path.to_owned(),
                        });
                    }
                    if target.is_absolute() {
                        directories.clear();
                    }
                    pending = names(target).into_iter().chain(pending).collect();
                }
                _ if pending.is_empty() => {
                    directories.push((name, node));
                    break;
                }
                _ => {
                    pending.push_front(name);
                    let end = End::NotADirectory(pending);
                    return Ok(Followed { directories, end });
                }
            }
        }
        let end = End::At(directories.last().map_or(ROOT, |(_, node)| *node));
        Ok(Followed { directories, end })
    }

    fn child(&self, directory: usize, name: &OsStr) -> Option<usize> {
        match &self.nodes[directory].content {
            Content::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    /// The directory at a path, made with all that leads to it where it is not there.
    fn make_way(&mut self, path: &Path, layer: usize, entry: &Path) -> Result<usize, Error> {
        let Followed { directories, end } = self.follow(path, true)?;
        let missing = match end {
            End::At(node) if matches!(self.nodes[node].content, Content::Directory(_)) => VecDeque::new(),
            End::Missing(rest) if rest.iter().all(|name| name != "..") => rest,
            _ => {
                return Err(Error::Way {
                    path: entry.to_owned(),
                });
            }
        };
        for (_, node) in &directories {
            self.nodes[*node].layer = layer;
        }
        let mut here = directories.last().map_or(ROOT, |(_, node)| *node);
        for name in missing {
            here = self.directory(here, &name, layer)?;
        }
        Ok(here)
    }

    /// A directory stays what it is; anything else gives way to one.
    fn directory(&mut self, parent: usize, name: &OsStr, layer: usize) -> Result<usize, Error> {
        let there = self.child(parent, name);
        match there.filter(|node| matches!(self.nodes[*node].content, Content::Directory(_))) {
            Some(node) => {
                self.nodes[node].layer = layer;
                Ok(node)
            }
            None => self.insert(parent, name, Content::Directory(BTreeMap::new()), layer),
        }
    }

    fn insert(
        &mut self,
        parent: usize,
        name: &OsStr,
        content: Content,
        layer: usize,
    ) -> Result<usize, Error> {
        let link_bytes = match &content {
            Content::Link(target) => target.as_os_str().len(),
            _ => 0,
        };
        self.name_bytes += name.len() + link_bytes;
        if self.nodes.len() >= MAX_NODES || self.name_bytes > MAX_NAME_BYTES {
            return Err(Error::Large);
        }
        let node = self.nodes.len();
        self.nodes.push(Node { content, layer });
        if let Content::Directory(children) = &mut self.nodes[parent].content {
            children.insert(name.to_owned(), node);
        }
        Ok(node)
    }

    fn same_as(&self, path: &Path, target: &Path) -> Result<Content, Error> {
        let nothing_there = || Error::HardLink {
            path: path.to_owned(),
            target: target.to_owned(),
        };
        let End::At(node) = self.follow(&clean(target), false)?.end else {
            return Err(nothing_there());
        };
        match &self.nodes[node].content {
            Content::Directory(_) => Err(nothing_there()),
            Content::File {
                executable,
                size,
                place,
            } => Ok(Content::File {
                executable: *executable,
                size: *size,
                place: *place,
            }),
            Content::Link(target) => Ok(Content::Link(target.clone())),
            Content::Special(kind) => Ok(Content::Special(kind)),
        }
    }

    fn white_out(&mut self, parent: usize, mark: &[u8], gone: &OsStr, layer: usize) {
        if mark == OPAQUE {
            // overlayfs merges the layers' roots whatever is marked there.
            if parent != ROOT {
                self.prune(parent, layer);
            }
        } else if !mark.starts_with(MARKS)
            && let Some(node) = self.child(parent, gone)
        {
            if self.nodes[node].layer == layer {
                self.prune(node, layer);
            } else if let Content::Directory(children) = &mut self.nodes[parent].content {
                children.remove(gone);
            }
        }
    }

    /// Takes away what lower layers have below a directory. Marks say nothing of their own layer.
    fn prune(&mut self, directory: usize, layer: usize) {
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            let Content::Directory(children) = &mut self.nodes[directory].content else {
                continue;
            };
            let mut children = std::mem::take(children);
            children.retain(|_, child| self.nodes[*child].layer == layer);
            pending.extend(children.values());
            self.nodes[directory].content = Content::Directory(children);
        }
    }
}

/// A path without `.` and `..`, as the archive's reader cleans it, and never above the root.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir | Component::Prefix(_) | Component::RootDir => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(size: u64) -> Kind {
        Kind::File {
            executable: true,
            size,
        }
    }

    fn link(target: &str) -> Kind {
        Kind::Link(target.into())
    }

    fn build(layers: &[&[(&str, Kind)]]) -> Result<Tree, Error> {
        let mut tree = Tree::default();
        for (layer, entries) in layers.iter().enumerate() {
            for (number, (path, kind)) in (0..).zip(*entries) {
                let entry = Entry {
                    kind: kind.clone(),
                    path: path.into(),
                };
                tree.add(layer, number, &entry)?;
            }
        }
        Ok(tree)
    }

    /// Files are told apart by their sizes.
    fn check(tree: &Tree, path: &str, expected: Option<(&str, u64)>) {
        let (at, found) = tree.resolve(Path::new(path)).unwrap();
        match (found, expected) {
            (Found::File { size, .. }, Some((expected, expected_size))) => {
                assert_eq!((at.as_path(), size), (Path::new(expected), expected_size));
            }
            (Found::Missing, None) => {}
            (found, expected) => panic!("{path}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn the_topmost_layer_wins() {
        let tree = build(&[&[("app", file(1)), ("lib/a", file(2))], &[("./app", file(3))]]).unwrap();
        check(&tree, "/app", Some(("/app", 3)));
        check(&tree, "lib/../lib/./a", Some(("/lib/a", 2)));
        check(&tree, "/app/below", None);
        check(&tree, "/none", None);
        assert_eq!(tree.resolve(Path::new("/lib")).unwrap().1, Found::Directory);
        assert_eq!(tree.resolve(Path::new("/")).unwrap().1, Found::Directory);
    }

    #[test]
    fn whiteouts_hide_what_lower_layers_have() {
        let lower: &[(&str, Kind)] = &[
            ("a", file(1)),
            ("d/x", file(2)),
            ("d/y", file(3)),
            ("e/x", file(4)),
        ];
        let upper: &[(&str, Kind)] = &[
            (".wh.a", file(0)),
            ("d/new", file(5)),
            ("d/.wh..wh..opq", file(0)),
            (".wh.e", file(0)),
            (".wh..wh.plnk", file(0)),
        ];
        let tree = build(&[lower, upper]).unwrap();
        check(&tree, "/a", None);
        check(&tree, "/d/x", None);
        check(&tree, "/d/new", Some(("/d/new", 5)));
        check(&tree, "/e/x", None);
        let again = build(&[lower, upper, &[("a", file(6)), ("e/z", file(7))]]).unwrap();
        check(&again, "/a", Some(("/a", 6)));
        check(&again, "/e/z", Some(("/e/z", 7)));
        check(&again, "/e/x", None);
    }

    /// As a node sees it: overlayfs never takes a layer's root for opaque.
    #[test]
    fn a_root_that_is_marked_opaque_hides_nothing() {
        let tree = build(&[&[("a", file(1))], &[(".wh..wh..opq", file(0)), ("b", file(2))]]).unwrap();
        check(&tree, "/a", Some(("/a", 1)));
        check(&tree, "/b", Some(("/b", 2)));
    }

    #[test]
    fn a_mark_says_nothing_of_its_own_layer() {
        let tree = build(&[
            &[("d/x", file(1))],
            &[
                ("d/y", file(2)),
                ("a", file(3)),
                (".wh.a", file(0)),
                (".wh.d", file(0)),
            ],
        ])
        .unwrap();
        check(&tree, "/a", Some(("/a", 3)));
        check(&tree, "/d/y", Some(("/d/y", 2)));
        check(&tree, "/d/x", None);
    }

    #[test]
    fn links_stay_inside() {
        let tree = build(&[
            &[
                ("usr/bin/app", file(1)),
                ("bin", link("usr/bin")),
                ("up", link("../../../usr")),
            ],
            &[
                ("abs", link("/bin/app")),
                ("bin/tool", file(2)),
                ("loop", link("loop")),
                ("shadow", link("/etc/shadow")),
            ],
        ])
        .unwrap();
        check(&tree, "/bin/app", Some(("/usr/bin/app", 1)));
        check(&tree, "/abs", Some(("/usr/bin/app", 1)));
        check(&tree, "/up/bin/app", Some(("/usr/bin/app", 1)));
        check(&tree, "/usr/bin/tool", Some(("/usr/bin/tool", 2)));
        check(&tree, "/shadow", None);
        assert!(matches!(
            tree.resolve(Path::new("/loop")),
            Err(layers::Error::Links { .. })
        ));
        let long = "x/".repeat(3000);
        assert!(matches!(
            tree.resolve(Path::new(&long)),
            Err(layers::Error::Long { .. })
        ));
    }

    #[test]
    fn hard_links_are_the_file_that_they_name() {
        let tree = build(&[
            &[("bin/app", file(1))],
            &[("same", Kind::HardLink("bin/app".into())), ("bin/app", file(2))],
        ])
        .unwrap();
        check(&tree, "/same", Some(("/same", 1)));
        check(&tree, "/bin/app", Some(("/bin/app", 2)));
        for target in ["none", "../../etc/shadow", "."] {
            let error = build(&[&[("l", Kind::HardLink(target.into()))]]).unwrap_err();
            assert!(matches!(error, Error::HardLink { .. }), "{target}: {error}");
        }
    }

    #[test]
    fn names_that_lead_out_lead_nowhere() {
        let tree = build(&[&[
            ("../../etc/passwd", file(1)),
            ("/abs/olute", file(2)),
            ("a/../../b", file(3)),
            ("..", Kind::Directory),
            ("", Kind::Directory),
            ("out", link("../../..")),
            ("out/c", file(4)),
        ]])
        .unwrap();
        check(&tree, "/etc/passwd", Some(("/etc/passwd", 1)));
        check(&tree, "/abs/olute", Some(("/abs/olute", 2)));
        check(&tree, "/b", Some(("/b", 3)));
        check(&tree, "/c", Some(("/c", 4)));
    }

    #[test]
    fn what_replaces_what() {
        let tree = build(&[
            &[("a/x", file(1)), ("b", file(2)), ("c", link("a"))],
            &[("a", file(3)), ("b/y", file(4))],
        ]);
        assert!(matches!(tree.unwrap_err(), Error::Way { .. }));
        let tree = build(&[
            &[("a/x", file(1)), ("b", file(2)), ("c", link("a"))],
            &[
                ("a", file(3)),
                ("b", Kind::Directory),
                ("b/y", file(4)),
                ("c", Kind::Directory),
            ],
        ])
        .unwrap();
        check(&tree, "/a", Some(("/a", 3)));
        check(&tree, "/a/x", None);
        check(&tree, "/b/y", Some(("/b/y", 4)));
        assert_eq!(
            tree.resolve(Path::new("/c")).unwrap(),
            ("/c".into(), Found::Directory)
        );
    }

    #[test]
    fn names_are_bounded() {
        let mut tree = Tree::default();
        let entry = |number: usize| Entry {
            kind: link(&"t".repeat(4000)),
            path: format!("{}{number}", "d/".repeat(100)).into(),
        };
        let added = (0..100_000).try_for_each(|number| tree.add(0, 0, &entry(number)));
        assert!(matches!(added, Err(Error::Large)));
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        let path = "[ab./]{0,6}";
        prop_oneof![
            Just(Kind::Directory),
            (0_u64..9).prop_map(file),
            path.prop_map(|target: String| link(&target)),
            path.prop_map(|target: String| Kind::HardLink(target.into())),
        ]
    }

    proptest! {
        #[test]
        fn no_archive_is_too_strange(
            entries in prop::collection::vec((0_usize..3, "(\\.wh\\.|\\.wh\\.\\.wh\\.\\.opq|[ab./]){0,5}", kinds()), 0..30),
            path in "[ab./]{0,8}",
        ) {
            let mut tree = Tree::default();
            let mut entries = entries;
            entries.sort_by_key(|(layer, ..)| *layer);
            for (layer, path, kind) in entries {
                let _ = tree.add(layer, 0, &Entry { kind, path: path.into() });
            }
            if let Ok((at, _)) = tree.resolve(Path::new(&path)) {
                prop_assert!(at.is_absolute());
            }
        }
    }
}
