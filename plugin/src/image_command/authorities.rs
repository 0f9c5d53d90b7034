//! Whom to trust to vouch for a registry, also on a machine that trusts nobody.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use oci_client::client::{Certificate, CertificateEncoding};
use rustix::fs::{MemfdFlags, memfd_create};
use rustls_native_certs::load_native_certs;

use super::flags::RegistryFlags;

/// Where Docker and Podman look for authorities of one registry.
const FOLDERS: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];
/// By this the authorities of the machine can be replaced, as with OpenSSL.
const VARIABLE: &str = "SSL_CERT_FILE";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Why there is nobody to trust.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file without a certificate.
    #[error("{} holds no certificate in PEM", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The machine has no certificates of authorities.
    #[error(
        "this machine trusts no certificate authority: install ca-certificates, or give the registry's with --ca FILE"
    )]
    Nobody,
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This program could not be started anew.
    #[error("cannot start again with other authorities")]
    Restart(#[source] io::Error),
}

/// The authorities to trust for a registry beside the machine's.
pub fn of_registry(registry: &str, flags: &RegistryFlags) -> Result<Vec<Certificate>, Error> {
    let mut files: Vec<PathBuf> = flags.ca.iter().cloned().collect();
    for folder in FOLDERS {
        let entries = fs::read_dir(Path::new(folder).join(registry))
            .into_iter()
            .flatten()
            .flatten();
        let certificates = entries.map(|entry| entry.path());
        files
            .extend(certificates.filter(|path| path.extension().is_some_and(|extension| extension == "crt")));
    }
    let mut found = Vec::new();
    for path in files {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(Error::Read { path, source }),
        };
        let blocks = blocks(&text);
        if blocks.is_empty() {
            return Err(Error::Empty { path });
        }
        found.extend(blocks.into_iter().map(|block| Certificate {
            encoding: CertificateEncoding::Pem,
            data: block.as_bytes().to_vec(),
        }));
    }
    Ok(found)
}

/// Each certificate of a PEM file by itself.
fn blocks(text: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(BEGIN) {
        let Some(length) = rest[start..].find(END) else {
            break;
        };
        let end = start + length + END.len();
        blocks.push(&rest[start..end]);
        rest = &rest[end..];
    }
    blocks
}

/// Makes sure that the registry's client can be made, which needs an authority on the machine even where no TLS is spoken.
///
/// Where there is none, this program starts itself again, with the authorities of `--ca` as the machine's; or, where no TLS will be
/// spoken, with one that can vouch for nothing, because its key is forgotten as soon as it is made.
pub fn ensure_some(flags: &RegistryFlags, speaks_tls: bool) -> Result<(), Error> {
    if !load_native_certs().certs.is_empty() {
        return Ok(());
    }
    let file = match &flags.ca {
        Some(ca) => ca.clone(),
        None if speaks_tls => return Err(Error::Nobody),
        None => nobody().map_err(Error::Restart)?,
    };
    if std::env::var_os(VARIABLE).is_some_and(|already| already == file) {
        return Err(Error::Empty { path: file });
    }
    let mut arguments = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    let failed = again.args(arguments).env(VARIABLE, &file).exec();
    Err(Error::Restart(failed))
}

/// The path, for the next program of this process, of an authority that nobody can use.
fn nobody() -> io::Result<PathBuf> {
    use std::os::fd::{AsRawFd as _, IntoRawFd as _};
    let made = rcgen::generate_simple_self_signed(Vec::<String>::new()).map_err(io::Error::other)?;
    let file = memfd_create("podwasm-no-authority", MemfdFlags::empty())?;
    rustix::io::write(&file, made.cert.pem().as_bytes())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    // The next program reads it.
    let _ = file.into_raw_fd();
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_of_a_file_counts() {
        let one = format!("{BEGIN}\nAA==\n{END}");
        let two = format!("{BEGIN}\nBB==\n{END}");
        assert_eq!(
            blocks(&format!("# a\n{one}\n# b\n{two}\n")),
            [one.as_str(), two.as_str()]
        );
        assert_eq!(blocks(&one[..20]), Vec::<&str>::new());
        assert_eq!(blocks(""), Vec::<&str>::new());
    }

    #[test]
    fn a_file_without_certificates_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let flags = RegistryFlags {
            ca: Some(file.path().into()),
            ..RegistryFlags::default()
        };
        assert!(matches!(
            of_registry("localhost:1", &flags),
            Err(Error::Empty { .. })
        ));
        let flags = RegistryFlags {
            ca: Some("/none".into()),
            ..RegistryFlags::default()
        };
        assert!(matches!(
            of_registry("localhost:1", &flags),
            Err(Error::Read { .. })
        ));
    }
}
