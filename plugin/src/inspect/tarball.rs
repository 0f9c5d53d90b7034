//! The entries of a layer's archive, one after the other, read as containerd reads them.
//!
//! The crate's own treatment of long names and extended headers would take as much memory as an archive says, so entries
//! are taken raw here, and what precedes them is bounded. Where archive readers are known to disagree, the archive is
//! refused: what is seen here has to be what the node will see.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use tar::{Archive, EntryType, Header, PaxExtensions};

use super::blob::invalid;

/// What Go's archive reader allows a long name or an extended header to have.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its path as it stands in the archive.
    pub path: PathBuf,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Whether anybody may execute it.
        executable: bool,
        /// Its size in bytes.
        size: u64,
    },
    /// A second name of an earlier entry.
    HardLink(PathBuf),
    /// A symbolic link.
    Link(PathBuf),
    /// A FIFO or device, or a file that is stored in a way of its own.
    Special(&'static str),
}

/// What comes before an entry and belongs to it.
#[derive(Default)]
struct Extensions {
    link: Option<PathBuf>,
    path: Option<PathBuf>,
    sparse: bool,
}

/// Shows all entries, each with a number and its content.
pub fn walk(
    archive: impl Read,
    mut visit: impl FnMut(u64, Entry, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let mut archive = Archive::new(archive);
    let mut extensions = Extensions::default();
    for (number, entry) in (0..).zip(archive.entries()?.raw(true)) {
        let mut entry = entry?;
        if let Some(described) = extensions.take(&mut entry)? {
            visit(number, described, &mut entry)?;
        }
    }
    Ok(())
}

/// Shows all entries of a file, each with the place of its content. Contents are skipped and not read.
pub fn walk_file(mut archive: &File, mut visit: impl FnMut(u64, Entry) -> io::Result<()>) -> io::Result<()> {
    archive.rewind()?;
    let mut archive = Archive::new(archive);
    let mut extensions = Extensions::default();
    for entry in archive.entries_with_seek()?.raw(true) {
        let mut entry = entry?;
        if let Some(described) = extensions.take(&mut entry)? {
            visit(entry.raw_file_position(), described)?;
        }
    }
    Ok(())
}

fn with(header: &Header, extensions: Extensions) -> io::Result<Entry> {
    let path = match extensions.path {
        Some(path) => path,
        None => path(&header.path_bytes()),
    };
    let link = || match &extensions.link {
        Some(link) => link.clone(),
        None => header
            .link_name_bytes()
            .map(|bytes| self::path(&bytes))
            .unwrap_or_default(),
    };
    let size = header.entry_size()?;
    let kind = match header.entry_type() {
        _ if extensions.sparse => Kind::Special("sparse file"),
        EntryType::Regular | EntryType::Continuous => Kind::File {
            executable: mode(header)? & 0o111 != 0,
            size,
        },
        EntryType::Directory => Kind::Directory,
        EntryType::Link => Kind::HardLink(link()),
        EntryType::Symlink => Kind::Link(link()),
        EntryType::Char => Kind::Special("character device"),
        EntryType::Block => Kind::Special("block device"),
        EntryType::Fifo => Kind::Special("FIFO"),
        EntryType::GNUSparse => Kind::Special("sparse file"),
        other => {
            let what = format!(
                "{} is an entry of the unknown type {:#04x}",
                path.display(),
                other.as_byte()
            );
            return Err(invalid(what));
        }
    };
    if size > 0 && !matches!(kind, Kind::File { .. } | Kind::Special("sparse file")) {
        return Err(invalid(format!(
            "{} is no file, but has {size} bytes",
            path.display()
        )));
    }
    Ok(Entry { kind, path })
}

/// Some tools leave it empty, which Go's archive reader takes for 0.
fn mode(header: &Header) -> io::Result<u32> {
    let field = &header.as_old().mode;
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    header.mode()
}

fn extension(content: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.take(MAX_EXTENSION_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_EXTENSION_BYTES {
        return Err(invalid(format!(
            "it has an extended header of more than {MAX_EXTENSION_BYTES} bytes"
        )));
    }
    Ok(bytes)
}

fn long_name(content: &mut impl Read) -> io::Result<PathBuf> {
    let bytes = extension(content)?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    Ok(path(&bytes[..end]))
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

impl Extensions {
    /// Describes an entry, or takes what it says of the next one.
    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Option<Entry>> {
        let header = entry.header().clone();
        match header.entry_type() {
            EntryType::GNULongName => self.path = Some(long_name(entry)?),
            EntryType::GNULongLink => self.link = Some(long_name(entry)?),
            EntryType::XHeader => self.read(&extension(entry)?)?,
            EntryType::XGlobalHeader => drop(extension(entry)?),
            _ => return with(&header, std::mem::take(self)).map(Some),
        }
        Ok(None)
    }

    fn read(&mut self, header: &[u8]) -> io::Result<()> {
        for extension in PaxExtensions::new(header) {
            let extension = extension?;
            match extension.key_bytes() {
                b"path" => self.path = Some(path(extension.value_bytes())),
                b"linkpath" => self.link = Some(path(extension.value_bytes())),
                // Only files of 8 GiB and more need it, and readers differ on which size holds.
                b"size" => return Err(invalid("it gives a size in an extended header".to_owned())),
                key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: EntryType, path: &str, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        header
    }

    fn archive(entries: &[(Header, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (header, content) in entries {
            builder.append(header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn entries(archive: &[u8]) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        walk(archive, |_, entry, _| {
            entries.push(entry);
            Ok(())
        })?;
        Ok(entries)
    }

    fn check_refused(archive: &[u8], why: &str) {
        let error = entries(archive).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn long_names_and_links_are_read() {
        let (name, target) = ("n/".repeat(200), "t/".repeat(200));
        let mut builder = tar::Builder::new(Vec::new());
        let mut link = header(EntryType::Symlink, "", 0);
        builder.append_link(&mut link, &name, &target).unwrap();
        let mut file = header(EntryType::Regular, "", 3);
        builder
            .append_pax_extensions([("path", b"long/name".as_slice()), ("mtime", b"1.5")])
            .unwrap();
        builder
            .append_data(&mut file, "short", b"abc".as_slice())
            .unwrap();
        let found = entries(&builder.into_inner().unwrap()).unwrap();
        let file = Kind::File {
            executable: false,
            size: 3,
        };
        let expected = [(name, Kind::Link(target.into())), ("long/name".to_owned(), file)];
        let expected = expected.map(|(path, kind)| Entry {
            path: path.into(),
            kind,
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn what_readers_disagree_on_is_refused() {
        let pax = b"17 size=999999999\n";
        let sized = archive(&[
            (header(EntryType::XHeader, "x", pax.len() as u64), pax),
            (header(EntryType::Regular, "a", 1), b"a"),
        ]);
        check_refused(&sized, "");
        let sized = archive(&[
            (header(EntryType::XHeader, "x", 9), b"9 size=1\n"),
            (header(EntryType::Regular, "a", 1), b"a"),
        ]);
        check_refused(&sized, "a size in an extended header");
        check_refused(
            &archive(&[(header(EntryType::Symlink, "a", 512), &[b'x'; 512])]),
            "is no file, but has 512 bytes",
        );
        check_refused(
            &archive(&[(header(EntryType::new(b'Z'), "a", 0), b"")]),
            "of the unknown type 0x5a",
        );
    }

    #[test]
    fn extended_headers_are_bounded() {
        for kind in [
            EntryType::GNULongName,
            EntryType::GNULongLink,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
        ] {
            let content = vec![b'a'; 2 << 20];
            let large = archive(&[(header(kind, "x", content.len() as u64), &content)]);
            check_refused(&large, "extended header of more than");
        }
    }

    #[test]
    fn cut_and_broken_archives_are_errors() {
        let whole = archive(&[(header(EntryType::Regular, "a", 600), &[b'x'; 600])]);
        assert!(entries(&whole[..512 + 100]).is_err() || entries(&whole[..100]).is_err());
        check_refused(&whole[..100], "");
        check_refused(&[b'x'; 1024], "");
    }
}
