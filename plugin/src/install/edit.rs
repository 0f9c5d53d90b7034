//! What has to change in containerd's configuration for NRI to be on: text in, text out.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, value};

/// NRI, as containerd's configuration calls it.
const PLUGIN: &str = "io.containerd.nri.v1.nri";
/// The name of the file that switches NRI on.
const DROP_IN: &str = "podwasm-nri.toml";
/// The format that containerd 1.7 writes; 2.0 has the next.
const VERSION: i64 = 2;

/// Why a configuration is not touched.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// NRI is disabled as a plugin, which no import can undo.
    #[error("it lists {PLUGIN} under disabled_plugins: take it out there")]
    DisabledPlugin,
    /// It is no TOML.
    #[error("it is no TOML: {0}")]
    Malformed(String),
    /// It has a shape that this does not know.
    #[error("its imports are no list of file names")]
    OddImports,
    /// It is of another format.
    #[error(
        "it is of version {0}, and only version 2 is known here; `containerd config migrate` brings older ones up to date"
    )]
    Version(i64),
}

/// What the effective configuration says, as `containerd config dump` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Whether NRI is on.
    pub is_on: bool,
    /// NRI's socket.
    pub socket: PathBuf,
    /// All settings of NRI.
    settings: String,
}

impl Effective {
    /// Reads what `containerd config dump` printed.
    pub fn parse(dump: &str) -> Result<Self, Refusal> {
        let document = parse(dump)?;
        let settings = document
            .get("plugins")
            .and_then(|plugins| plugins.get(PLUGIN))
            .and_then(Item::as_table_like);
        let Some(settings) = settings else {
            return Err(Refusal::DisabledPlugin);
        };
        let socket = settings.get("socket_path").and_then(Item::as_str);
        let mut copy = Table::new();
        for (key, item) in settings.iter().filter(|(key, _)| *key != "disable") {
            copy.insert(key, item.clone());
        }
        Ok(Self {
            is_on: settings.get("disable").and_then(Item::as_bool) == Some(false),
            socket: socket.unwrap_or("/var/run/nri/nri.sock").into(),
            settings: copy.to_string(),
        })
    }
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The configuration's new text; none where it can stay as it is.
    pub config: Option<String>,
    /// The file that switches NRI on.
    pub drop_in: PathBuf,
    /// Its text.
    pub drop_in_text: String,
}

/// What switches NRI on. `config` is the configuration's text, if there is one, and `path` where it is.
///
/// containerd takes all of a plugin's settings from the file that it reads last, so the new one repeats those that were in force.
pub fn enable(config: Option<&str>, path: &Path, effective: &Effective) -> Result<Edit, Refusal> {
    let mut document = parse(config.unwrap_or("version = 2\n"))?;
    check_version(&document)?;
    if list(&document, "disabled_plugins")?
        .iter()
        .any(|name| name == PLUGIN)
    {
        return Err(Refusal::DisabledPlugin);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let imports = list(&document, "imports")?;
    let imported = imports.iter().find_map(|pattern| imported_by(pattern, folder));
    let has_to_change = imported.is_none();
    let drop_in = imported.unwrap_or_else(|| folder.join(DROP_IN));
    if has_to_change {
        add_import(&mut document, &drop_in);
    }
    Ok(Edit {
        config: has_to_change.then(|| document.to_string()),
        drop_in_text: format!(
            "# Written by podwasm, which takes it away when it is uninstalled: NRI is switched on.\n\
             version = {VERSION}\n\n[plugins.\"{PLUGIN}\"]\ndisable = false\n{}",
            effective.settings
        ),
        drop_in,
    })
}

/// A configuration that somebody has changed since, without the import.
pub fn without_import(config: &str, drop_in: &Path) -> Result<String, Refusal> {
    let mut document = parse(config)?;
    let name = drop_in.to_string_lossy();
    if let Some(imports) = document.get_mut("imports").and_then(Item::as_array_mut) {
        imports.retain(|item| item.as_str() != Some(&*name));
        if imports.is_empty() {
            document.remove("imports");
        }
    }
    Ok(document.to_string())
}

fn parse(text: &str) -> Result<DocumentMut, Refusal> {
    let parsed = text.parse::<DocumentMut>();
    parsed.map_err(|error| Refusal::Malformed(error.message().to_owned()))
}

fn check_version(document: &DocumentMut) -> Result<(), Refusal> {
    // What names none is of the first.
    match document.get("version").and_then(Item::as_integer).unwrap_or(1) {
        VERSION => Ok(()),
        other => Err(Refusal::Version(other)),
    }
}

fn list(document: &DocumentMut, key: &str) -> Result<Vec<String>, Refusal> {
    let Some(item) = document.get(key) else {
        return Ok(Vec::new());
    };
    let array = item.as_array().ok_or(Refusal::OddImports)?;
    let names = array.iter().map(|name| name.as_str().map(str::to_owned));
    names.collect::<Option<_>>().ok_or(Refusal::OddImports)
}

/// Where a pattern such as `conf.d/*.toml` would find our file.
fn imported_by(pattern: &str, folder: &Path) -> Option<PathBuf> {
    let at = pattern
        .strip_suffix("/*.toml")
        .or_else(|| pattern.strip_suffix("/*"))?;
    let is_plain = !at.contains(['*', '?', '[', '\\']);
    is_plain.then(|| folder.join(at).join(DROP_IN))
}

fn add_import(document: &mut DocumentMut, drop_in: &Path) {
    let name = drop_in.to_string_lossy().into_owned();
    if let Some(imports) = document.get_mut("imports").and_then(Item::as_array_mut) {
        imports.push(name);
        return;
    }
    let mut imports = Array::new();
    imports.push(name);
    document.insert("imports", value(imports));
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = r#"
version = 2
[plugins]
  [plugins."io.containerd.nri.v1.nri"]
    disable = true
    plugin_path = "/opt/own/plugins"
    socket_path = "/run/own/nri.sock"
"#;

    fn enabled(config: Option<&str>) -> Result<Edit, Refusal> {
        let effective = Effective::parse(DUMP).unwrap();
        enable(config, Path::new("/etc/containerd/config.toml"), &effective)
    }

    #[test]
    fn one_import_is_added_and_all_else_stays() {
        let config = "# ours\nversion = 2 # two\n\n[plugins]\n  [plugins.\"x\"]\n    a   = 1 # odd\n";
        let edit = enabled(Some(config)).unwrap();
        let expected = "# ours\nversion = 2 # two\nimports = [\"/etc/containerd/podwasm-nri.toml\"]\n\n[plugins]\n  [plugins.\"x\"]\n    a   = 1 # odd\n";
        assert_eq!(edit.config.unwrap(), expected);
        assert_eq!(edit.drop_in, Path::new("/etc/containerd/podwasm-nri.toml"));
    }

    #[test]
    fn settings_that_were_in_force_stay() {
        let text = enabled(Some("version = 2\n")).unwrap().drop_in_text;
        let effective = Effective::parse(&text).unwrap();
        assert!(effective.is_on);
        assert_eq!(effective.socket, Path::new("/run/own/nri.sock"));
        assert!(text.contains("plugin_path = \"/opt/own/plugins\""), "{text}");
    }

    #[test]
    fn a_folder_that_is_imported_is_used() {
        for (pattern, folder) in [
            ("/etc/containerd/conf.d/*.toml", "/etc/containerd/conf.d"),
            ("conf.d/*.toml", "/etc/containerd/conf.d"),
            ("/etc/other.d/*", "/etc/other.d"),
        ] {
            let edit = enabled(Some(&format!(
                "version = 2\nimports = [\"a.toml\", \"{pattern}\"]\n"
            )))
            .unwrap();
            assert_eq!(
                (edit.config, edit.drop_in),
                (None, Path::new(folder).join(DROP_IN))
            );
        }
    }

    #[test]
    fn other_imports_stay() {
        let config = "version = 2\nimports = [\"/a.toml\", \"/b*/*.toml\"]\n";
        let text = enabled(Some(config)).unwrap().config.unwrap();
        let expected =
            "version = 2\nimports = [\"/a.toml\", \"/b*/*.toml\", \"/etc/containerd/podwasm-nri.toml\"]\n";
        assert_eq!(text, expected);
        assert_eq!(
            without_import(&text, Path::new("/etc/containerd/podwasm-nri.toml")).unwrap(),
            config
        );
    }

    #[test]
    fn without_a_configuration_one_is_made() {
        let edit = enabled(None).unwrap();
        let expected = "version = 2\nimports = [\"/etc/containerd/podwasm-nri.toml\"]\n";
        assert_eq!(edit.config.unwrap(), expected);
    }

    #[test]
    fn what_is_not_understood_is_not_touched() {
        for (config, reason) in [
            ("a = \n", "no TOML"),
            ("disabled_plugins = [\"cri\"]\n", "version 1"),
            ("version = 3\n", "version 3"),
            ("version = 2\nimports = \"x\"\n", "no list"),
            ("version = 2\nimports = [1]\n", "no list"),
            (
                "version = 2\ndisabled_plugins = [\"io.containerd.nri.v1.nri\"]\n",
                "disabled_plugins",
            ),
        ] {
            let error = enabled(Some(config)).unwrap_err().to_string();
            assert!(error.contains(reason), "{config}: {error}");
        }
        assert!(matches!(
            Effective::parse("version = 2\n"),
            Err(Refusal::DisabledPlugin)
        ));
    }

    #[test]
    fn what_was_changed_since_keeps_its_changes() {
        let config = enabled(Some("version = 2\n")).unwrap().config.unwrap() + "root = \"/data\"\n";
        let undone = without_import(&config, Path::new("/etc/containerd/podwasm-nri.toml")).unwrap();
        assert_eq!(undone, "version = 2\nroot = \"/data\"\n");
    }
}
