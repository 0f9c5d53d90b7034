//! The files of an image whose layers are blobs.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::Path;

use super::blob::{self, Blobs, Bounded, Verified, invalid, unpacked};
use super::documents::Image;
use super::tarball::{self, Entry};
use super::tree::{Found, Place, Tree};
use crate::layers::{Node, Resolved};
use crate::observe::{self, RootFs};

/// More than any image unpacks to. A bomb of that size was measured to take 16 s with Zstandard, twice that with gzip.
const MAX_UNPACKED_BYTES: u64 = 16 << 30;
/// More than any program; bounds what is taken out of an archive and put on this machine's disk.
const MAX_PROGRAM_BYTES: u64 = 2 << 30;

/// Why a layer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob is not there.
    #[error(transparent)]
    Blob(#[from] blob::Error),
    /// It is not what its digests say, malformed, or too large.
    #[error("cannot read layer {digest}")]
    Layer {
        /// The layer's digest.
        digest: String,
        /// What is wrong.
        source: io::Error,
    },
}

/// The files.
pub struct Layered<'a> {
    blobs: &'a dyn Blobs,
    image: &'a Image,
    tree: Tree,
}

impl<'a> Layered<'a> {
    /// Reads all layers, to know their names and that they are what their digests say.
    pub fn read(blobs: &'a dyn Blobs, image: &'a Image) -> Result<Self, Error> {
        let mut tree = Tree::default();
        let left = Cell::new(MAX_UNPACKED_BYTES);
        for layer in 0..image.layers.len() {
            walk(blobs, image, layer, &left, &mut |number, entry, _| {
                tree.add(layer, number, &entry).map_err(io::Error::other)
            })?;
        }
        Ok(Self { blobs, image, tree })
    }

    /// Takes a file out. The layer is read to its end, so its digests hold for what was taken.
    fn take(&self, place: Place, size: u64) -> Result<File, Error> {
        let mut file = None;
        let left = Cell::new(MAX_UNPACKED_BYTES);
        let take = |content: &mut dyn Read| -> io::Result<File> {
            let mut file = tempfile::tempfile()?;
            io::copy(content, &mut file)?;
            file.rewind()?;
            Ok(file)
        };
        walk(
            self.blobs,
            self.image,
            place.layer,
            &left,
            &mut |number, _, content| {
                if number == place.number {
                    if size > MAX_PROGRAM_BYTES {
                        return Err(invalid(format!("a program of {size} bytes is not taken out")));
                    }
                    file = Some(take(content)?);
                }
                Ok(())
            },
        )?;
        file.ok_or_else(|| Error::Layer {
            digest: self.image.layers[place.layer].digest.clone(),
            source: invalid("it has changed while it was read".to_owned()),
        })
    }
}

type Visit<'a> = dyn FnMut(u64, Entry, &mut dyn Read) -> io::Result<()> + 'a;

/// Shows a layer's entries, and reads what comes after them, so that both digests are known to hold.
fn walk(
    blobs: &dyn Blobs,
    image: &Image,
    layer: usize,
    left: &Cell<u64>,
    visit: &mut Visit<'_>,
) -> Result<(), Error> {
    let digest = &image.layers[layer].digest;
    let mut blob = blob::open(blobs, digest)?;
    let mut all = || {
        let unpacked = Bounded::new(unpacked(&mut blob)?, left);
        let mut unpacked = Verified::new(unpacked, &image.diff_ids[layer]);
        tarball::walk(&mut unpacked, &mut *visit)?;
        drain(&mut unpacked)?;
        drop(unpacked);
        drain(&mut blob)
    };
    all().map_err(|source| Error::Layer {
        digest: digest.clone(),
        source,
    })
}

fn drain(reader: &mut impl Read) -> io::Result<()> {
    io::copy(reader, &mut io::sink()).map(drop)
}

impl RootFs for Layered<'_> {
    fn resolve(&self, path: &Path) -> Result<Resolved, observe::Error> {
        let (path, found) = self.tree.resolve(path)?;
        let node = match found {
            Found::Directory => Node::Directory,
            Found::File {
                executable,
                size,
                place,
            } => Node::File {
                file: self.take(place, size).map_err(|error| observe::Error::Read {
                    path: path.clone(),
                    source: io::Error::other(error),
                })?,
                executable,
                size,
            },
            Found::Missing => Node::Missing,
            Found::Special(kind) => Node::Special { kind },
        };
        Ok(Resolved {
            in_volume: false,
            path,
            node,
        })
    }
}
