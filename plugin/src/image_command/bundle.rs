//! An image that was just built: its documents in memory, its layer on disk, and the way in which all of an image is walked.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt as _;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};

use super::recipe::{Document, Documents};
use crate::image::{self, is_index};
use crate::inspect::blob::{self, Blobs};

/// An index in an index in an index is more than any tool makes.
const MAX_NESTING: usize = 4;
/// More than any image has; bounds what a hostile layout makes one do.
const MAX_ITEMS: usize = 10_000;

/// Documents by their digests.
#[derive(Debug)]
pub struct InMemory(HashMap<String, Vec<u8>>);

impl InMemory {
    /// Copies them.
    pub fn new(documents: &[Document]) -> Self {
        let by_digest = documents
            .iter()
            .map(|document| (document.digest(), document.bytes.clone()));
        Self(by_digest.collect())
    }
}

impl Blobs for InMemory {
    fn open(&self, digest: &str) -> Result<Box<dyn Read + Send + '_>, blob::Error> {
        match self.0.get(digest) {
            Some(bytes) => Ok(Box::new(Cursor::new(bytes))),
            None => Err(blob::Error::Missing {
                digest: digest.to_owned(),
            }),
        }
    }
}

/// An image that was just built.
#[derive(Debug)]
pub struct Bundle {
    documents: InMemory,
    layer: (String, File),
    /// What its name stands for.
    pub target: Descriptor,
}

impl Bundle {
    /// Puts documents and layer together.
    pub fn new(documents: Documents, digest: String, layer: File) -> Self {
        Self {
            documents: InMemory::new(&documents.all),
            layer: (digest, layer),
            target: documents.target,
        }
    }
}

impl Blobs for Bundle {
    fn open(&self, digest: &str) -> Result<Box<dyn Read + Send + '_>, blob::Error> {
        if self.layer.0 == digest {
            return Ok(Box::new(FromStart {
                at: 0,
                file: &self.layer.1,
            }));
        }
        self.documents.open(digest)
    }
}

/// Reads a file from its beginning, whoever else reads it.
struct FromStart<'a> {
    at: u64,
    file: &'a File,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Why an image could not be walked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A document could not be read.
    #[error(transparent)]
    Blob(#[from] blob::Error),
    /// A document is malformed.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// Indices in indices without end, or more than there can be.
    #[error("it has indices more than {MAX_NESTING} deep, or more than {MAX_ITEMS} parts")]
    Large,
}

/// A part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its digest.
    pub digest: String,
    /// The bytes of a manifest or index; configs and layers are read when they are wanted.
    pub document: Option<Vec<u8>>,
    /// Its type.
    pub media_type: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// All parts of an image, each once, and each after what it names.
pub fn items(blobs: &dyn Blobs, target: &Descriptor) -> Result<Vec<Item>, Error> {
    let mut items = Vec::new();
    walk(blobs, target, MAX_NESTING, &mut items)?;
    Ok(items)
}

fn walk(blobs: &dyn Blobs, at: &Descriptor, depth: usize, items: &mut Vec<Item>) -> Result<(), Error> {
    let digest = at.digest().to_string();
    if items.iter().any(|item| item.digest == digest) {
        return Ok(());
    }
    let media_type = at.media_type().to_string();
    let document = blob::document(blobs, &digest)?;
    if is_index(&media_type) {
        let index = ImageIndex::from_reader(document.as_slice()).map_err(image::Error::Index)?;
        let depth = depth.checked_sub(1).ok_or(Error::Large)?;
        for entry in index.manifests() {
            walk(blobs, entry, depth, items)?;
        }
    } else {
        let manifest = ImageManifest::from_reader(document.as_slice()).map_err(image::Error::Manifest)?;
        for part in manifest.layers().iter().chain([manifest.config()]) {
            let digest = part.digest().to_string();
            if !items.iter().any(|item| item.digest == digest) {
                let media_type = part.media_type().to_string();
                items.push(Item {
                    digest,
                    document: None,
                    media_type,
                    size_bytes: part.size(),
                });
            }
        }
    }
    if items.len() > MAX_ITEMS {
        return Err(Error::Large);
    }
    let size_bytes = document.len() as u64;
    items.push(Item {
        digest,
        document: Some(document),
        media_type,
        size_bytes,
    });
    Ok(())
}
