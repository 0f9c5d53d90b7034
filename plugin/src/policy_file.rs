//! Where the policy comes from, and following its changes.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::policy::Policy;

/// How often the file is looked at. A `ConfigMap` is replaced by moving links, which file watches miss.
const INTERVAL: Duration = Duration::from_secs(2);
/// What a `ConfigMap` can hold.
const MAX_BYTES: u64 = 1 << 20;
/// Where NRI keeps the configuration of plugins.
const NRI_FOLDER: &str = "/etc/nri/conf.d";

/// The plugin's usual index and name, by which NRI's folder keeps its policy.
pub const USUAL: (&str, &str) = ("10", "podwasm");

/// The policy in force; whoever holds it sees changes.
pub type Current = watch::Sender<Arc<Policy>>;

/// The file to use: the one that was named, else the plugin's own in NRI's folder, if it is there.
pub fn find(named: Option<PathBuf>, idx: &str, name: &str) -> Option<PathBuf> {
    let usual = || {
        let files = [format!("{idx}-{name}.conf"), format!("{name}.conf")];
        files
            .iter()
            .map(|file| Path::new(NRI_FOLDER).join(file))
            .find(|path| path.exists())
    };
    named.or_else(usual)
}

/// Reads the policy for the first time. A mistake is an error.
pub fn read(path: Option<&Path>) -> anyhow::Result<Current> {
    Ok(watch::Sender::new(Arc::new(match path {
        None => Policy::default(),
        Some(path) => read_text(path)?.1,
    })))
}

/// The text of a policy's file, and what it says.
pub fn read_text(path: &Path) -> anyhow::Result<(String, Policy)> {
    let text = read_bounded(path).with_context(|| format!("cannot read the policy {}", path.display()))?;
    let policy =
        Policy::parse(&text).with_context(|| format!("the policy {} cannot be followed", path.display()))?;
    Ok((text, policy))
}

/// A file that is too large is not read to its end.
pub fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(text)
}

/// Follows changes of the file for ever, from the text that was seen last. A bad file leaves the old policy in force, and is said
/// once. `tell` is told of each text that was taken over.
pub async fn follow(path: PathBuf, mut seen: Option<String>, current: Arc<Current>, tell: impl Fn(String)) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let text = read_bounded(&path).ok();
        if text != seen {
            if take(&path, text.as_deref(), &current)
                && let Some(text) = &text
            {
                tell(text.clone());
            }
            seen = text;
        }
    }
}

/// Takes a text over, and says whether it could.
fn take(path: &Path, text: Option<&str>, current: &Current) -> bool {
    let path = path.display();
    match text.map(Policy::parse) {
        None => warn!(%path, "the policy cannot be read; the old one stays in force"),
        Some(Err(error)) => {
            warn!(%path, error = &error as &dyn std::error::Error, "the new policy has mistakes; the old one stays in force");
        }
        Some(Ok(policy)) => {
            current.send_replace(Arc::new(policy));
            info!(%path, "policy read again");
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_bad_file_leaves_the_old_policy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "sockets: false").unwrap();
        let current = read(Some(file.path())).unwrap();
        assert!(!current.borrow().sockets);
        take(file.path(), Some("sockets: perhaps"), &current);
        assert!(!current.borrow().sockets);
        take(file.path(), None, &current);
        assert!(!current.borrow().sockets);
        take(file.path(), Some("sockets: true"), &current);
        assert!(current.borrow().sockets);
    }

    #[test]
    fn a_file_may_be_as_large_as_a_config_map() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let policy = |bytes: u64| {
            format!(
                "sockets: false\n{}",
                "#".repeat(usize::try_from(bytes).unwrap() - 15)
            )
        };
        fs::write(file.path(), policy(MAX_BYTES)).unwrap();
        assert!(!read(Some(file.path())).unwrap().borrow().sockets);
        fs::write(file.path(), policy(MAX_BYTES + 1)).unwrap();
        let error = format!("{:#}", read(Some(file.path())).unwrap_err());
        assert!(error.contains("more than 1048576 bytes"), "{error}");
    }

    #[test]
    fn a_bad_file_at_the_start_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "\nsockets: perhaps").unwrap();
        let error = format!("{:#}", read(Some(file.path())).unwrap_err());
        assert!(
            error.contains("line 2") && error.contains(file.path().to_str().unwrap()),
            "{error}"
        );
        assert!(read(Some(Path::new("/no/such/file"))).is_err());
        assert!(read(None).is_ok());
    }
}
