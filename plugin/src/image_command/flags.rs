//! What is typed after `podwasm image`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Flags of `podwasm image`.
#[derive(Args, Debug)]
pub struct ImageFlags {
    /// What to do.
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Makes an OCI image from a module, as an archive or a folder.
    ///
    /// The same input makes the same digest, on every machine. The module is looked at first: what podwasm's engine could not run is
    /// not built.
    #[command(after_help = BUILD_HELP)]
    Build(Build),
    /// Makes an image that lists only wasi/wasm one that Kubernetes pulls, in its registry and without copying a layer.
    ///
    /// `docker buildx --platform wasi/wasm` makes such images when it adds provenance: an index that has nothing for Linux, which
    /// containerd refuses with "no match for platform in manifest". This pushes a new index with two more entries, for linux/amd64 and
    /// linux/arm64, that name the same layers. Everything that was listed before stays listed, under its old digest.
    #[command(after_help = FIX_HELP)]
    Fix(Fix),
    /// Says what an image in a registry, an archive or a file is, and what podwasm would do with it.
    ///
    /// It is `podwasm inspect` without a containerd: what is no file here is the name of an image in a registry. Exit codes and JSON
    /// are the same.
    #[command(after_help = INSPECT_HELP)]
    Inspect(InspectImage),
    /// Pushes a module, an archive or a folder to a registry.
    ///
    /// A module is built first, with the same flags as `podwasm image build`. What the registry already has is not sent again.
    #[command(after_help = PUSH_HELP)]
    Push(Push),
}

/// Of `podwasm image` itself.
pub const EXIT_CODES: &str = "\
Exit codes of build, fix and push:
  0  done, or there was nothing to do
  1  the module or image is not one: no module, one that cannot run, malformed
  2  it cannot be read or written, or the flags are wrong
  3  the registry: not reached, or it refused

Run `podwasm image COMMAND --help` for examples.";

const BUILD_HELP: &str = "\
Examples:
  podwasm image build app.wasm -o app.tar
      an image that runs everywhere, for: podman load, ctr images import, skopeo copy oci-archive:app.tar ...
  podwasm image build app.wasm -o app.tar --tag ghcr.io/team/app:1 --env LEVEL=info --file etc/app.toml:/etc/app.toml -- serve
      with a name, a variable, a file and arguments
  podwasm image build app.wasm -o layout --form artifact
      a folder with an OCI Wasm artifact, for wasm tools; a pod has to name a `command` for it

Forms:
  compat    linux/amd64 and linux/arm64 in an index; every containerd, Docker and Podman pulls it
  wasi      one manifest of platform wasi/wasm; Kubernetes and Docker Desktop pull it
  artifact  OCI Wasm artifact of the CNCF; Kubernetes pulls it, and a pod has to name a `command`";

const FIX_HELP: &str = "\
Examples:
  podwasm image fix ghcr.io/team/app:1 --dry-run
      says what would be pushed
  podwasm image fix ghcr.io/team/app:1
      moves the tag to the new index
  podwasm image fix ghcr.io/team/app:1 --to 1-linux
      leaves the tag alone and makes another

For the next build: docker buildx build --provenance=false, or --platform linux/amd64,linux/arm64.";

const INSPECT_HELP: &str = "\
Examples:
  podwasm image inspect ghcr.io/team/app:1
  podwasm image inspect app.tar --json
  podwasm image inspect localhost:5000/app --command /app.wasm";

const PUSH_HELP: &str = "\
Examples:
  podwasm image push app.wasm ghcr.io/team/app:1
      builds and pushes
  podwasm image push app.tar ghcr.io/team/app:1
      pushes what was built before
  podwasm image push app.wasm localhost:5000/app
      a registry on this machine's loopback needs no TLS and no flag
  echo $TOKEN | podwasm image push app.wasm ghcr.io/team/app:1 --username me --password-stdin
      without a credential file

Credentials are those of `docker login` and `podman login`: --authfile, $REGISTRY_AUTH_FILE,
$XDG_RUNTIME_DIR/containers/auth.json, ~/.config/containers/auth.json, $DOCKER_CONFIG/config.json or
~/.docker/config.json, with their credential helpers; the first that has some for the registry counts.";

/// Flags of `podwasm image build`.
#[derive(Args, Debug)]
pub struct Build {
    /// The module: a .wasm for WASI preview 1.
    pub module: PathBuf,
    /// Where to write it: an archive if it ends with .tar, else a folder. What is there is replaced when the new one is whole.
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// The name that the image gets where the archive is loaded.
    #[arg(short, long, value_name = "NAME")]
    pub tag: Option<String>,
    /// What the image is like.
    #[command(flatten)]
    pub recipe: RecipeFlags,
    /// Prints one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What an image is like.
#[derive(Args, Clone, Debug)]
pub struct RecipeFlags {
    /// The form of the image.
    #[arg(long, value_enum, default_value_t)]
    pub form: Form,
    /// Where the module is in the image; by default at the root under its own name.
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// The entrypoint, a word each time; by default the module's path.
    #[arg(long, value_name = "WORD", action = clap::ArgAction::Append)]
    pub entrypoint: Vec<String>,
    /// An environment variable. May be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_and_value, action = clap::ArgAction::Append)]
    pub env: Vec<(String, String)>,
    /// A label. May be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value, action = clap::ArgAction::Append)]
    pub label: Vec<(String, String)>,
    /// An annotation of the image. May be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value, action = clap::ArgAction::Append)]
    pub annotation: Vec<(String, String)>,
    /// Who runs it: a user or number, and a group after a colon.
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Where it is started.
    #[arg(long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// A file or folder to put into the image too. May be given several times.
    #[arg(long, value_name = "HOST:IMAGE", value_parser = host_and_image, action = clap::ArgAction::Append)]
    pub file: Vec<(PathBuf, String)>,
    /// Builds what podwasm's engine could not run too, for other engines.
    #[arg(long)]
    pub force: bool,
    /// The arguments, after `--`.
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub args: Vec<String>,
}

/// The forms that images are made in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// An OCI Wasm artifact, as the CNCF's guidance has it.
    Artifact,
    /// linux/amd64 and linux/arm64 in an index.
    #[default]
    Compat,
    /// One manifest of platform wasi/wasm.
    Wasi,
}

impl Form {
    /// As it is typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Artifact => "artifact",
            Self::Compat => "compat",
            Self::Wasi => "wasi",
        }
    }
}

/// Flags of `podwasm image push`.
#[derive(Args, Debug)]
pub struct Push {
    /// A module, or an OCI image layout (folder or archive).
    pub source: PathBuf,
    /// The image's name: registry, repository and tag.
    pub name: String,
    /// Which image of a layout that holds several, by its name or digest.
    #[arg(long, value_name = "NAME")]
    pub r#ref: Option<String>,
    /// Another repository of the registry, whose layers are taken instead of sent. May be given several times.
    #[arg(long, value_name = "REPOSITORY", action = clap::ArgAction::Append)]
    pub mount_from: Vec<String>,
    /// What the image is like.
    #[command(flatten)]
    pub recipe: RecipeFlags,
    /// How the registry is reached.
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// Prints one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `podwasm image fix`.
#[derive(Args, Debug)]
pub struct Fix {
    /// The image's name: registry, repository and tag.
    pub name: String,
    /// The tag to push to, instead of the image's own.
    #[arg(long, value_name = "TAG")]
    pub to: Option<String>,
    /// Says what would be pushed, and pushes nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// How the registry is reached.
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// Prints one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `podwasm image inspect`.
#[derive(Args, Debug)]
pub struct InspectImage {
    /// The name of an image in a registry, an OCI image layout (folder or archive), or a file.
    pub target: String,
    /// Prints one JSON object.
    #[arg(long)]
    pub json: bool,
    /// The pod's command, instead of the image's entrypoint.
    #[arg(long, num_args = 1.., value_name = "WORD", action = clap::ArgAction::Set)]
    pub command: Vec<String>,
    /// Which image of a layout that holds several, by its name or digest.
    #[arg(long, value_name = "NAME")]
    pub r#ref: Option<String>,
    /// How the registry is reached.
    #[command(flatten)]
    pub registry: RegistryFlags,
}

/// How a registry is reached.
#[derive(Args, Clone, Debug, Default)]
pub struct RegistryFlags {
    /// A file with certificates of authorities to trust too, in PEM.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Speaks plain HTTP; the default for a registry on this machine's loopback.
    #[arg(long)]
    pub plain_http: bool,
    /// Speaks TLS, also to a registry on the loopback. `--ca` implies it.
    #[arg(long, conflicts_with = "plain_http")]
    pub tls: bool,
    /// A credential file, as Docker and Podman write it, instead of theirs.
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// The user, instead of what a credential file says.
    #[arg(long, value_name = "USER", requires = "password_stdin")]
    pub username: Option<String>,
    /// Reads the password from standard input.
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("it has no name, `=` and value")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn host_and_image(text: &str) -> Result<(PathBuf, String), String> {
    let pair = text
        .rsplit_once(':')
        .filter(|(host, image)| !host.is_empty() && image.starts_with('/'));
    let (host, image) = pair.ok_or("it is not HOST:IMAGE with an absolute path in the image")?;
    Ok((host.into(), image.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Command, Flags};
    use clap::Parser as _;

    fn parse(words: &[&str]) -> Result<ImageCommand, clap::Error> {
        let words = ["podwasm", "image"].iter().chain(words);
        match Flags::try_parse_from(words)?.command {
            Command::Image(flags) => Ok(flags.command),
            _ => unreachable!("it is this command"),
        }
    }

    #[test]
    fn what_is_built() {
        let words = [
            "build", "app.wasm", "-o", "app.tar", "--env", "A=b=c", "--file", "a:b:/c", "--", "--port", "80",
        ];
        let ImageCommand::Build(build) = parse(&words).unwrap() else {
            panic!("it is another command")
        };
        assert_eq!(build.recipe.form, Form::Compat);
        assert_eq!(build.recipe.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(build.recipe.file, [(PathBuf::from("a:b"), "/c".to_owned())]);
        assert_eq!(build.recipe.args, ["--port", "80"]);
    }

    #[test]
    fn what_is_half_said_is_an_error() {
        for words in [
            &["build", "app.wasm"][..],
            &["build", "app.wasm", "-o", "x", "--env", "A"],
            &["build", "app.wasm", "-o", "x", "--file", "a:b"],
            &["push", "app.wasm", "x", "--username", "me"],
            &["push", "app.wasm", "x", "--tls", "--plain-http"],
            &["fix"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
