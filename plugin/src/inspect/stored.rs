//! Images in containerd: its content store for their blobs, its snapshotter for the files that are unpacked already.

use std::io::{self, Read};
use std::path::PathBuf;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::blob::{self, Blobs};
use super::documents::{Image, Target};
use crate::containerd::{self, Containerd};
use crate::observe::{self, layer_folders};

/// Chunks of a blob that are under way.
const CHUNKS_UNDER_WAY: usize = 4;

/// containerd, asked by a thread that may wait.
#[derive(Debug)]
pub struct Stored {
    containerd: Containerd,
    handle: Handle,
}

impl Stored {
    /// Asks this containerd on this runtime.
    pub fn new(containerd: Containerd, handle: Handle) -> Self {
        Self { containerd, handle }
    }

    /// containerd's version, which also shows that it answers.
    pub fn version(&self) -> Result<String, containerd::Error> {
        self.handle.block_on(self.containerd.version())
    }

    /// What an image's name stands for. A short name is looked up as it is, then as the kubelet would complete it.
    pub fn image(&self, name: &str) -> Result<Target, containerd::Error> {
        let full = completed(name);
        let found = self.handle.block_on(async {
            match self.containerd.image(name).await {
                Err(error) if error.is_not_found() && full != name => self.containerd.image(&full).await,
                answer => answer,
            }
        })?;
        Ok(Target {
            digest: found.digest,
            media_type: found.media_type,
        })
    }

    /// By which snapshotter an image is unpacked, and into which folders, topmost first. An image without layers is
    /// unpacked by none.
    pub fn folders(&self, image: &Image) -> Result<Option<(String, Vec<PathBuf>)>, observe::Error> {
        let Some(chain) = image.chain_id() else {
            return Ok(Some((String::new(), Vec::new())));
        };
        let look = async {
            let unpacked = self.containerd.unpacked(&image.config_digest).await?;
            let found = unpacked.into_iter().find(|(_, snapshot)| *snapshot == chain);
            match found {
                Some((snapshotter, _)) => {
                    let mounts = self.containerd.committed_mounts(&snapshotter, &chain).await;
                    mounts.map(|mounts| Some((snapshotter, mounts)))
                }
                None => Ok(None),
            }
        };
        let found = self.handle.block_on(look)?;
        found
            .map(|(snapshotter, mounts)| Ok((snapshotter, layer_folders(&mounts)?)))
            .transpose()
    }
}

/// Docker's short names, as the kubelet completes them.
fn completed(name: &str) -> String {
    let first = name.split('/').next().unwrap_or_default();
    let has_host = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let mut full = match (has_host, name.contains('/')) {
        (true, _) => name.to_owned(),
        (false, true) => format!("docker.io/{name}"),
        (false, false) => format!("docker.io/library/{name}"),
    };
    let last = full.rsplit('/').next().unwrap_or_default();
    if !last.contains([':', '@']) {
        full.push_str(":latest");
    }
    full
}

impl Blobs for Stored {
    fn open(&self, digest: &str) -> Result<Box<dyn Read + Send + '_>, blob::Error> {
        let known = self.handle.block_on(self.containerd.has_blob(digest));
        let failed = |error| blob::Error::Read {
            digest: digest.to_owned(),
            source: io::Error::other(error),
        };
        if !known.map_err(failed)? {
            return Err(blob::Error::Missing {
                digest: digest.to_owned(),
            });
        }
        let (sender, chunks) = mpsc::channel(CHUNKS_UNDER_WAY);
        let (end, ended) = oneshot::channel();
        let (containerd, digest) = (self.containerd.clone(), digest.to_owned());
        self.handle.spawn(async move {
            // Whoever reads may have stopped to.
            let _ = end.send(containerd.read_blob(&digest, sender).await);
        });
        Ok(Box::new(Chunks {
            coming: chunks,
            current: io::Cursor::default(),
            ended: Some(ended),
        }))
    }
}

/// A blob as it comes in, for a thread that may wait. Unlike its end, a failure on the way is an error.
struct Chunks {
    coming: mpsc::Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
    ended: Option<oneshot::Receiver<Result<(), containerd::Error>>>,
}

impl Chunks {
    fn end(&mut self) -> io::Result<usize> {
        match self.ended.take().map(oneshot::Receiver::blocking_recv) {
            Some(Ok(Err(error))) => Err(io::Error::other(error)),
            Some(Err(_)) => Err(io::ErrorKind::Interrupted.into()),
            Some(Ok(Ok(()))) | None => Ok(0),
        }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.current.read(buffer)? {
                0 => match self.coming.blocking_recv() {
                    Some(chunk) => self.current = io::Cursor::new(chunk),
                    None => return self.end(),
                },
                read => return Ok(read),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        let check = |name: &str, expected: &str| assert_eq!(completed(name), expected);
        check("app", "docker.io/library/app:latest");
        check("app:1", "docker.io/library/app:1");
        check("team/app", "docker.io/team/app:latest");
        check("ghcr.io/team/app:1", "ghcr.io/team/app:1");
        check("localhost/app", "localhost/app:latest");
        check("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest");
        check("ghcr.io/app@sha256:00", "ghcr.io/app@sha256:00");
    }
}
