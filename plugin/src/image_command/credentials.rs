//! Who one is for a registry: what `docker login` and `podman login` have left.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use oci_client::Reference;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

use super::flags::RegistryFlags;

/// Under this Docker's own registry is found in credential files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// Longer passwords are none.
const MAX_PASSWORD_BYTES: u64 = 64 << 10;

/// Why it is not known who one is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A credential helper failed, or an entry is malformed.
    #[error("cannot take the credentials for {registry} from {}: {why}", path.display())]
    File {
        /// The credential file.
        path: PathBuf,
        /// The registry.
        registry: String,
        /// Why.
        why: String,
    },
    /// Only a token, which has to be exchanged for another.
    #[error(
        "{} has an identity token for {registry}, which is understood by Docker's own client alone: log in with a user and \
         a password or an access token",
        path.display()
    )]
    IdentityToken {
        /// The credential file.
        path: PathBuf,
        /// The registry.
        registry: String,
    },
    /// It is no credential file.
    #[error("{} is no credential file", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// No password came.
    #[error("cannot read a password from standard input")]
    Password(#[source] io::Error),
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Who one is, and who says so.
#[derive(Clone, Debug)]
pub struct Login {
    /// What the registry is told.
    pub auth: RegistryAuth,
    /// Where that is from; where it was looked for if it is nothing.
    pub from: String,
}

impl Login {
    /// Nobody in particular.
    pub fn is_anonymous(&self) -> bool {
        self.auth == RegistryAuth::Anonymous
    }
}

/// Finds credentials for an image's registry: those on the command line, else the first that a file has.
pub fn find(image: &Reference, flags: &RegistryFlags) -> Result<Login, Error> {
    if let Some(user) = &flags.username {
        let auth = RegistryAuth::Basic(user.clone(), password()?);
        return Ok(Login {
            auth,
            from: "--username".to_owned(),
        });
    }
    let files = match &flags.authfile {
        Some(file) => vec![file.clone()],
        None => usual_files(|name| std::env::var_os(name)),
    };
    for path in &files {
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound && flags.authfile.is_none() => continue,
            Err(source) => {
                return Err(Error::Read {
                    path: path.clone(),
                    source,
                });
            }
        };
        if let Some(auth) = in_file(path, &content, image)? {
            return Ok(Login {
                auth,
                from: path.display().to_string(),
            });
        }
    }
    let searched: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    Ok(Login {
        auth: RegistryAuth::Anonymous,
        from: searched.join(", "),
    })
}

fn password() -> Result<String, Error> {
    let mut password = String::new();
    let read = io::stdin().take(MAX_PASSWORD_BYTES).read_to_string(&mut password);
    let cannot = |why: &str| Error::Password(io::Error::new(io::ErrorKind::InvalidData, why));
    read.map_err(Error::Password)?;
    match password.trim_end_matches(['\r', '\n']) {
        "" => Err(cannot("it is empty")),
        password => Ok(password.to_owned()),
    }
}

/// In the order in which Podman looks, which ends with Docker's.
fn usual_files(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let folder = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(file) = folder("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = folder("HOME");
    let runtime = folder("XDG_RUNTIME_DIR")
        .unwrap_or_else(|| format!("/run/containers/{}", rustix::process::getuid().as_raw()).into());
    let config = folder("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let docker = folder("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
    [
        Some(runtime.join("containers/auth.json")),
        config.map(|folder| folder.join("containers/auth.json")),
        docker.map(|folder| folder.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    auths: HashMap<String, serde_json::Value>,
}

fn in_file(path: &Path, content: &[u8], image: &Reference) -> Result<Option<RegistryAuth>, Error> {
    let file: File = serde_json::from_slice(content).map_err(|source| Error::Malformed {
        path: path.to_owned(),
        source,
    })?;
    let mut repositories: Vec<String> = narrower(image);
    // Podman may have credentials for a part of a registry, which count more.
    repositories.retain(|key| file.auths.contains_key(key));
    let registry = match image.registry() {
        "docker.io" | "index.docker.io" => DOCKER_HUB,
        registry => registry,
    };
    for key in repositories.iter().map(String::as_str).chain([registry]) {
        let failed = |why: String| Error::File {
            path: path.to_owned(),
            registry: image.registry().to_owned(),
            why,
        };
        match get_credential_from_reader(content, key) {
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                return Ok(Some(RegistryAuth::Basic(user, password)));
            }
            Ok(DockerCredential::IdentityToken(_)) => {
                let registry = image.registry().to_owned();
                return Err(Error::IdentityToken {
                    path: path.to_owned(),
                    registry,
                });
            }
            Err(CredentialRetrievalError::NoCredentialConfigured) => {}
            Err(CredentialRetrievalError::HelperFailure { stdout, stderr, .. })
                if (stdout.clone() + &stderr).contains("not found") => {}
            Err(CredentialRetrievalError::HelperFailure {
                helper,
                stdout,
                stderr,
            }) => {
                return Err(failed(format!(
                    "{helper} says: {}{}",
                    stdout.trim(),
                    stderr.trim()
                )));
            }
            Err(CredentialRetrievalError::HelperCommunicationError) => {
                return Err(failed(
                    "its credential helper (docker-credential-...) cannot be run".to_owned(),
                ));
            }
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    Ok(None)
}

/// `registry/a/b` and `registry/a` of an image `registry/a/b`.
fn narrower(image: &Reference) -> Vec<String> {
    let mut key = format!("{}/{}", image.registry(), image.repository());
    let mut keys = Vec::new();
    while let Some(slash) = key.rfind('/') {
        keys.push(key.clone());
        key.truncate(slash);
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(content: &str, image: &str) -> Result<Option<RegistryAuth>, Error> {
        in_file(Path::new("/f"), content.as_bytes(), &image.parse().unwrap())
    }

    fn basic(user: &str, password: &str) -> RegistryAuth {
        RegistryAuth::Basic(user.into(), password.into())
    }

    #[test]
    fn the_narrowest_entry_counts() {
        // user:registry, user:team and user:app.
        let content = r#"{"auths": {"ghcr.io": {"auth": "dXNlcjpyZWdpc3RyeQ=="}, "ghcr.io/team": {"auth": "dXNlcjp0ZWFt"},
            "ghcr.io/team/app": {"auth": "dXNlcjphcHA="}, "https://index.docker.io/v1/": {"auth": "aHViOmh1Yg=="}}}"#;
        assert_eq!(
            found(content, "ghcr.io/team/app:1").unwrap(),
            Some(basic("user", "app"))
        );
        assert_eq!(
            found(content, "ghcr.io/team/other:1").unwrap(),
            Some(basic("user", "team"))
        );
        assert_eq!(
            found(content, "ghcr.io/x:1").unwrap(),
            Some(basic("user", "registry"))
        );
        assert_eq!(found(content, "app").unwrap(), Some(basic("hub", "hub")));
        assert_eq!(found(content, "quay.io/x:1").unwrap(), None);
    }

    #[test]
    fn what_cannot_be_used_is_an_error() {
        let check = |content: &str, expected: &str| {
            let error = found(content, "ghcr.io/x").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("[", "/f is no credential file");
        check(
            r#"{"auths": {"ghcr.io": {"auth": "!"}}}"#,
            "cannot take the credentials for ghcr.io",
        );
        check(
            r#"{"auths": {"ghcr.io": {"identitytoken": "x"}}}"#,
            "an identity token",
        );
        check(
            r#"{"credHelpers": {"ghcr.io": "podwasm-none"}}"#,
            "helper (docker-credential-...) cannot be run",
        );
    }

    #[test]
    fn files_are_looked_for_where_podman_and_docker_look() {
        let of = |pairs: &[(&str, &str)]| {
            usual_files(|name| {
                pairs
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| value.into())
            })
        };
        let pairs = [("XDG_RUNTIME_DIR", "/r"), ("HOME", "/h")];
        assert_eq!(
            of(&pairs),
            [
                "/r/containers/auth.json",
                "/h/.config/containers/auth.json",
                "/h/.docker/config.json"
            ]
            .map(PathBuf::from)
        );
        assert_eq!(
            of(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d")])[2],
            PathBuf::from("/d/config.json")
        );
        assert_eq!(
            of(&[("REGISTRY_AUTH_FILE", "/a"), ("HOME", "/h")]),
            [PathBuf::from("/a")]
        );
    }
}
