//! Loads WasmEdge's plugins, native code that adds host modules.
//!
//! They come from the node alone: a plugin is a folder of the bundle, by its name, and nothing that the image or its environment says
//! adds a place to look in. WasmEdge's own search, which would follow `WASMEDGE_PLUGIN_PATH`, is never started.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use podwasm_engine::line::quoted;
use thiserror::Error;
use wasmedge_sdk::Instance;
use wasmedge_sdk::error::WasmEdgeError;
use wasmedge_sys::plugin::PluginManager;

use crate::quiet;

/// Where the plugin's folders are mounted.
const FOLDER: &str = "/.podwasm/plugins";
/// What WasmEdge's plugins are called.
const PREFIX: &[u8] = b"libwasmedgePlugin";
const SUFFIX: &[u8] = b".so";

/// Why a plugin cannot be had.
#[derive(Debug, Error)]
pub enum PluginError {
    #[error("the plugin {0} offers no module")]
    Empty(String),
    #[error("the plugin {name} cannot be loaded: {why}")]
    Load { name: String, why: String },
    #[error("the plugin {0} is not available on this node")]
    Missing(String),
    #[error("the plugin {name} has a module that cannot be made")]
    Module {
        name: String,
        source: Box<WasmEdgeError>,
    },
    #[error("the plugin {0} does not fit WasmEdge 0.14.1, or is there twice")]
    NotForUs(String),
    #[error("the plugin {name} cannot be read")]
    Read { name: String, source: io::Error },
}

/// Loads the plugins and makes the host modules that they offer.
pub fn load(names: &[String]) -> Result<Vec<Instance>, PluginError> {
    let mut modules = Vec::new();
    for name in names {
        modules.extend(load_one(name)?);
    }
    Ok(modules)
}

fn load_one(name: &str) -> Result<Vec<Instance>, PluginError> {
    let shown = quoted(name.as_bytes());
    let files = files(name, &shown)?;
    let (plugins, libraries): (Vec<_>, Vec<_>) = files.into_iter().partition(|path| is_plugin(path));
    if plugins.is_empty() {
        return Err(PluginError::Missing(shown));
    }
    let known = PluginManager::names().len();
    for path in &plugins {
        open_with(path, libraries.clone()).map_err(|why| PluginError::Load {
            name: shown.clone(),
            why,
        })?;
        register(path).ok_or_else(|| PluginError::NotForUs(shown.clone()))?;
    }
    let modules = modules(known).map_err(|source| PluginError::Module {
        name: shown.clone(),
        source,
    })?;
    if modules.is_empty() {
        return Err(PluginError::Empty(shown));
    }
    Ok(modules)
}

/// What lies in a plugin's folder, sorted.
fn files(name: &str, shown: &str) -> Result<Vec<PathBuf>, PluginError> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(PluginError::Missing(shown.to_owned()));
    }
    let entries = fs::read_dir(Path::new(FOLDER).join(name)).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => PluginError::Missing(shown.to_owned()),
        _ => PluginError::Read {
            name: shown.to_owned(),
            source,
        },
    })?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    Ok(files)
}

fn is_plugin(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        let name = name.as_bytes();
        name.starts_with(PREFIX) && name.ends_with(SUFFIX)
    })
}

/// Opens a plugin. If it lacks libraries, those beside it are opened first, in the order in which they can be: so they are
/// found whether or not someone has given them a RUNPATH.
fn open_with(plugin: &Path, mut libraries: Vec<PathBuf>) -> Result<(), String> {
    loop {
        let Err(why) = open(plugin) else {
            return Ok(());
        };
        let before = libraries.len();
        libraries.retain(|library| open(library).is_err());
        if libraries.len() == before {
            return Err(why);
        }
    }
}

/// How the loader begins what it says of a library that is nowhere: `redirect_loader` in `assemble.sh` makes it end its search
/// at `/`, which it cannot read.
const NOWHERE: &str = "/: ";

fn open(library: &Path) -> Result<(), String> {
    let path = c_path(library);
    // SAFETY: running the constructors of the node's own libraries is what a plugin is for. The message is a C
    // string that lives until the next call.
    unsafe {
        let plugin = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if plugin.is_null() {
            let why = CStr::from_ptr(libc::dlerror()).to_string_lossy();
            return Err(if why.starts_with(NOWHERE) {
                "it needs a library that is neither beside it nor in the bundle".to_owned()
            } else {
                why.into_owned()
            });
        }
        quiet::silence(plugin);
    }
    Ok(())
}

/// WasmEdge says nothing of a plugin that it does not take.
fn register(path: &Path) -> Option<()> {
    let before = PluginManager::names().len();
    let path = c_path(path);
    // SAFETY: the path is a C string.
    unsafe { wasmedge_sys::ffi::WasmEdge_PluginLoadFromPath(path.as_ptr()) };
    (PluginManager::names().len() > before).then_some(())
}

/// The host modules of the plugins but for the first few.
fn modules(skip: usize) -> Result<Vec<Instance>, Box<WasmEdgeError>> {
    let mut modules = Vec::new();
    for name in PluginManager::names().into_iter().skip(skip) {
        let plugin = PluginManager::find(name)?;
        for module in plugin.mod_names() {
            modules.push(plugin.mod_instance(module)?);
        }
    }
    Ok(modules)
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path from the file system, or of one of our names")
}
