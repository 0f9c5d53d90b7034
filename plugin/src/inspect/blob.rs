//! An image's blobs, read as what they are: a stranger's bytes, under a digest that has to be theirs.
//!
//! Nothing is believed before the last byte is read, so each reader here is to be read to its end. What a layer unpacks to is
//! counted while it is unpacked.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use sha2::{Digest as _, Sha256};

/// A manifest, index or config above this is not read. Registries commonly cap manifests at 4 MiB.
pub const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// The only algorithm that is in use.
const SHA256: &str = "sha256:";
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Zstandard's frames of other people's data have sixteen magic numbers, which differ in the low bits of their first byte.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Why a blob could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The digest is of an algorithm that is not known, or not a digest at all.
    #[error("{digest:?} is not a SHA-256 digest")]
    Digest {
        /// What stands in its place.
        digest: String,
    },
    /// There is no such blob.
    #[error("blob {digest} is missing")]
    Missing {
        /// Its digest.
        digest: String,
    },
    /// It could not be read, or has other bytes than its digest promises.
    #[error("cannot read blob {digest}")]
    Read {
        /// Its digest.
        digest: String,
        /// What is wrong.
        source: io::Error,
    },
    /// The blob is larger than any manifest or image config should be.
    #[error("{digest} has more than the {MAX_DOCUMENT_BYTES} bytes that a manifest or config may have")]
    TooLarge {
        /// Its digest.
        digest: String,
    },
}

/// Where an image's blobs come from.
pub trait Blobs {
    /// The bytes under a digest, not yet compared with it.
    fn open(&self, digest: &str) -> Result<Box<dyn Read + Send + '_>, Error>;
}

/// The hexadecimal part of a digest, which is safe to be a file's name.
pub fn hex(digest: &str) -> Result<&str, Error> {
    let is_hex =
        |hex: &&str| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let hex = digest.strip_prefix(SHA256).filter(is_hex);
    hex.ok_or_else(|| Error::Digest {
        digest: digest.to_owned(),
    })
}

/// A blob that fails at its end unless its bytes have its digest.
pub fn open<'a>(blobs: &'a dyn Blobs, digest: &str) -> Result<Verified<Box<dyn Read + Send + 'a>>, Error> {
    hex(digest)?;
    Ok(Verified::new(blobs.open(digest)?, digest))
}

/// A manifest, index or config as bytes.
pub fn document(blobs: &dyn Blobs, digest: &str) -> Result<Vec<u8>, Error> {
    let mut blob = open(blobs, digest)?;
    let mut bytes = Vec::new();
    let read = blob.by_ref().take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| Error::Read {
        digest: digest.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(Error::TooLarge {
            digest: digest.to_owned(),
        });
    }
    Ok(bytes)
}

/// Hashes what it hands on, and fails at the end where that is not what was expected.
#[derive(Debug)]
pub struct Verified<R> {
    inner: R,
    hash: Sha256,
    expected: String,
}

impl<R: Read> Verified<R> {
    /// Expects the digest of all that `inner` has.
    pub fn new(inner: R, expected: &str) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            expected: expected.to_owned(),
        }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read > 0 || buffer.is_empty() {
            self.hash.update(&buffer[..read]);
            return Ok(read);
        }
        let found = format!("{SHA256}{:x}", self.hash.clone().finalize());
        if found == self.expected {
            return Ok(0);
        }
        Err(invalid(format!(
            "its bytes have the digest {found}, not {}",
            self.expected
        )))
    }
}

/// Stops before more was read than is left of what several readers share.
#[derive(Debug)]
pub struct Bounded<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<'a, R: Read> Bounded<'a, R> {
    /// Takes from `left` what is read.
    pub fn new(inner: R, left: &'a Cell<u64>) -> Self {
        Self { inner, left }
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let left = self.left.get().checked_sub(read as u64);
        let left = left.ok_or_else(|| invalid("it unpacks to more than an image may have".to_owned()))?;
        self.left.set(left);
        Ok(read)
    }
}

/// What a layer is once it is unpacked. Like containerd, it goes by the first bytes and not by the media type.
pub fn unpacked<'a>(blob: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut blob = BufReader::new(blob);
    let mut first = Vec::with_capacity(4);
    blob.by_ref().take(4).read_to_end(&mut first)?;
    let is_gzip = first.starts_with(&GZIP);
    let is_zstd = first == ZSTD || is_skippable(&first);
    let whole = io::Cursor::new(first).chain(blob);
    Ok(if is_gzip {
        Box::new(MultiGzDecoder::new(whole))
    } else if is_zstd {
        Box::new(Zstd::new(whole))
    } else {
        Box::new(whole)
    })
}

/// A Zstandard file: frames, one after the other. `zstd:chunked` layers have many, and some to skip.
struct Zstd<R> {
    decoder: FrameDecoder,
    in_frame: bool,
    source: R,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        Self {
            decoder: FrameDecoder::new(),
            in_frame: false,
            source,
        }
    }

    /// Goes to the next frame with content; false at the file's end.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            let mut magic = [0; 4];
            self.source.read_exact(&mut magic)?;
            if !is_skippable(&magic) {
                let header = magic.as_slice().chain(&mut self.source);
                self.decoder.reset(header).map_err(io::Error::other)?;
                return Ok(true);
            }
            let mut length = [0; 4];
            self.source.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            let skipped = io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
            if skipped < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.in_frame && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.source, one);
                decoded.map_err(io::Error::other)?;
                continue;
            }
            self.in_frame = self.next_frame()?;
            if !self.in_frame {
                return Ok(0);
            }
        }
    }
}

fn is_skippable(magic: &[u8]) -> bool {
    matches!(magic, [low, high @ ..] if low & 0xf0 == 0x50 && high == ZSTD_SKIPPABLE)
}

/// An error about the bytes, as against the medium.
pub fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use std::io::Write as _;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn check_unpacked(packed: &[u8], expected: &[u8]) {
        let mut bytes = Vec::new();
        unpacked(packed).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn layers_are_unpacked_by_their_first_bytes() {
        let plain = b"some bytes ".repeat(50_000);
        check_unpacked(&plain, &plain);
        check_unpacked(&gzip(&plain), &plain);
        check_unpacked(&zstd(&plain), &plain);
        check_unpacked(b"", b"");
        check_unpacked(b"abc", b"abc");
    }

    #[test]
    fn members_and_frames_may_follow_one_another() {
        check_unpacked(&[gzip(b"one "), gzip(b"two")].concat(), b"one two");
        let skipped = [&b"\x5a\x2a\x4d\x18\x03\0\0\0abc"[..]].concat();
        let frames = [
            skipped.clone(),
            zstd(b"one "),
            skipped.clone(),
            zstd(b"two"),
            skipped,
        ];
        check_unpacked(&frames.concat(), b"one two");
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let plain = b"some bytes ".repeat(100);
        for packed in [
            gzip(&plain),
            zstd(&plain),
            b"\x5a\x2a\x4d\x18\x03\0\0\0ab".to_vec(),
        ] {
            let mut bytes = Vec::new();
            let cut = &packed[..packed.len() - 1];
            // The checksum at a frame's end is no part of its content, so the header is cut too.
            assert!(unpacked(cut).unwrap().read_to_end(&mut bytes).is_err() || bytes == plain);
            assert!(unpacked(&packed[..6]).unwrap().read_to_end(&mut bytes).is_err());
        }
    }

    #[test]
    fn a_bomb_stops_where_the_budget_ends() {
        for bomb in [gzip(&vec![0; 10 << 20]), zstd(&vec![0; 10 << 20])] {
            assert!(bomb.len() < 100_000, "{}", bomb.len());
            let left = Cell::new(1 << 20);
            let unpacked = unpacked(bomb.as_slice()).unwrap();
            let error = io::copy(&mut Bounded::new(unpacked, &left), &mut io::sink()).unwrap_err();
            assert!(error.to_string().contains("unpacks to more"), "{error}");
        }
    }

    struct One(Vec<u8>);

    impl Blobs for One {
        fn open(&self, _: &str) -> Result<Box<dyn Read + Send + '_>, Error> {
            Ok(Box::new(self.0.as_slice()))
        }
    }

    #[test]
    fn only_the_promised_bytes_are_taken() {
        let digest = format!("sha256:{:x}", Sha256::digest(b"{}"));
        assert_eq!(document(&One(b"{}".to_vec()), &digest).unwrap(), b"{}");
        let error = document(&One(b"[]".to_vec()), &digest).unwrap_err();
        assert!(matches!(error, Error::Read { .. }));
        let error = document(&One(vec![b' '; 9 << 20]), &digest).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }));
    }

    #[test]
    fn a_digest_is_never_a_path() {
        for digest in [
            "",
            "sha256:",
            "sha512:ab",
            "sha256:../../etc/passwd",
            &format!("sha256:{}", "A".repeat(64)),
        ] {
            assert!(
                matches!(document(&One(Vec::new()), digest), Err(Error::Digest { .. })),
                "{digest}"
            );
        }
    }
}
