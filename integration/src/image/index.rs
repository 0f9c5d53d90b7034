//! Images for several platforms under one name.

use super::{Artifact, Blob, Content, Image, Stored};
use oci_spec::image::{Descriptor, ImageIndexBuilder, MediaType, PlatformBuilder};

/// An index of images by platform.
#[derive(Clone, Debug, Default)]
pub struct Index {
    entries: Vec<(Descriptor, Stored)>,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an image under the platform it was made for.
    #[must_use]
    pub fn image(self, image: &Image) -> Self {
        self.entry(&image.os, &image.architecture, image, &[])
    }

    /// Adds what `docker buildx` puts beside an image to tell how it was built.
    #[must_use]
    pub fn provenance(self, image: &Image) -> Self {
        let subject = image.stored().manifest.digest();
        let statement =
            Artifact::new(MediaType::ImageConfig.as_ref(), "{}").blob("application/vnd.in-toto+json", "{}");
        let annotations = [
            ("vnd.docker.reference.type", "attestation-manifest"),
            ("vnd.docker.reference.digest", &subject),
        ];
        self.entry("unknown", "unknown", &statement, &annotations)
    }

    fn entry(
        mut self,
        os: &str,
        architecture: &str,
        content: &impl Content,
        annotations: &[(&str, &str)],
    ) -> Self {
        let stored = content.stored();
        let platform = PlatformBuilder::default()
            .os(os)
            .architecture(architecture)
            .build();
        let mut descriptor = stored.manifest.descriptor();
        descriptor.set_platform(Some(platform.expect("all fields are set")));
        if !annotations.is_empty() {
            let pairs = annotations
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned()));
            descriptor.set_annotations(Some(pairs.collect()));
        }
        self.entries.push((descriptor, stored));
        self
    }
}

impl Content for Index {
    fn stored(&self) -> Stored {
        let index = ImageIndexBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageIndex)
            .manifests(
                self.entries
                    .iter()
                    .map(|(descriptor, _)| descriptor.clone())
                    .collect::<Vec<_>>(),
            )
            .build()
            .expect("all fields are set");
        Stored {
            manifest: Blob::json(&MediaType::ImageIndex, &index),
            blobs: Vec::new(),
            children: self.entries.iter().map(|(_, stored)| stored.clone()).collect(),
        }
    }
}
