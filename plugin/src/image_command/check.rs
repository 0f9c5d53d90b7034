//! Whether a file is a module that a container could run, before an image is made of it; and if not, what to do.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};

use wasmparser::{Validator, WasmFeatures};

use crate::inspect::imports::{Imports, Provider, imports};
use crate::inspect::show::size;
use crate::module::{self, Kind};

/// What nodes take unless their policy says otherwise (`max_module_size`).
const USUAL_MAX_BYTES: u64 = 256 << 20;
/// Nothing larger is read into memory to be validated.
const MAX_BYTES: u64 = 2 << 30;
const BUILD_FOR_WASI: &str =
    "compile it for WASI preview 1, for example with cargo build --target wasm32-wasip1";

/// Why no image is made of a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A component of the component model.
    #[error(
        "it is a component, and podwasm runs core modules: {BUILD_FOR_WASI} (not wasm32-wasip2), or take the module out of it \
         with wasm-tools component unbundle"
    )]
    Component,
    /// It imports what the engine does not have.
    #[error("{why}; --force builds it for another engine")]
    Import {
        /// What it imports, and from where.
        why: String,
    },
    /// A library.
    #[error(
        "it exports no function _start, so it is a library and not a program: build it as a binary; --force builds an image \
         for another engine"
    )]
    Library,
    /// It is not whole, or breaks WebAssembly's rules.
    #[error("it is no valid module: {why}; compile or download it again")]
    Malformed {
        /// What is wrong.
        why: String,
    },
    /// A program for this kind of machine.
    #[error("it is a native program and no WebAssembly module: {BUILD_FOR_WASI}")]
    Native,
    /// Something else.
    #[error("it is no WebAssembly module: it does not start with \\0asm; {BUILD_FOR_WASI}")]
    Other,
    /// It could not be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// WebAssembly's text format.
    #[error("it is WebAssembly text and no module: make one with wat2wasm or wasm-tools parse")]
    Text,
    /// Too large to be looked at.
    #[error("it has {}, more than the {} that a module may have", size(*bytes), size(MAX_BYTES))]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
}

impl Error {
    /// Whether it is the module's fault, as against the disk's.
    pub fn is_of_the_module(&self) -> bool {
        !matches!(self, Self::Read(_))
    }
}

/// Looks at the whole file. What is worth knowing of a module that is good is returned.
pub fn check(file: &mut File, force: bool) -> Result<Vec<String>, Error> {
    let bytes = file.metadata()?.len();
    let outline = match module::kind(file, bytes)? {
        Kind::CoreModule(outline) => outline,
        Kind::Component => return Err(Error::Component),
        Kind::Elf | Kind::Script => return Err(Error::Native),
        Kind::Empty => {
            let why = "it is empty".to_owned();
            return Err(Error::Malformed { why });
        }
        Kind::Malformed { why } => return Err(Error::Malformed { why }),
        Kind::Other if is_text(file)? => return Err(Error::Text),
        Kind::Other => return Err(Error::Other),
    };
    if bytes > MAX_BYTES {
        return Err(Error::TooLarge { bytes });
    }
    if !outline.is_command && !force {
        return Err(Error::Library);
    }
    let content = validated(file)?;
    let imports = imports(&content);
    let mut notes = Vec::new();
    match lacking(&imports) {
        Some(why) if !force => return Err(Error::Import { why }),
        Some(why) => notes.push(why),
        None => notes.extend(plugins(&imports)),
    }
    if bytes > USUAL_MAX_BYTES {
        notes.push(format!(
            "it has {}: nodes refuse modules above {} unless their policy's max_module_size says otherwise",
            size(bytes),
            size(USUAL_MAX_BYTES)
        ));
    }
    Ok(notes)
}

fn is_text(file: &mut File) -> io::Result<bool> {
    let mut beginning = Vec::new();
    file.rewind()?;
    file.by_ref().take(4096).read_to_end(&mut beginning)?;
    let text = String::from_utf8_lossy(&beginning);
    let first = text
        .lines()
        .map(str::trim_start)
        .find(|line| !line.is_empty() && !line.starts_with(";;"));
    Ok(first.is_some_and(|line| line.starts_with("(module") || line.starts_with("(component")))
}

/// The bytes, every one of which follows the rules. What an engine makes of young proposals is its own affair.
fn validated(file: &mut File) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    file.rewind()?;
    file.by_ref().take(MAX_BYTES).read_to_end(&mut content)?;
    let valid = Validator::new_with_features(WasmFeatures::all()).validate_all(&content);
    valid.map_err(|error| Error::Malformed {
        why: format!("{} at byte {}", error.message(), error.offset()),
    })?;
    Ok(content)
}

/// Why the engine could not start it.
fn lacking(imports: &Imports) -> Option<String> {
    imports
        .namespaces
        .iter()
        .find_map(|import| match &import.provider {
            Provider::Engine => {
                let name = import.lacking.first()?;
                Some(format!(
                    "it imports {name} from {}, which podwasm's engine does not have",
                    import.namespace
                ))
            }
            Provider::Nobody => Some(format!(
                "it imports from {}, which podwasm's engine does not have",
                import.namespace
            )),
            Provider::Plugin(_) => None,
        })
}

fn plugins(imports: &Imports) -> impl Iterator<Item = String> {
    imports
        .namespaces
        .iter()
        .filter_map(|import| match &import.provider {
            Provider::Plugin(plugin) => Some(format!(
                "it needs the plugin {plugin}: the pod has to ask for it with plugins: [{plugin}]"
            )),
            Provider::Engine | Provider::Nobody => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn looked_at(bytes: &[u8], force: bool) -> Result<Vec<String>, Error> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        check(&mut file, force)
    }

    /// Exports `_start`, whose body is the given bytes.
    fn module(body: &[u8]) -> Vec<u8> {
        let length = u8::try_from(body.len()).unwrap();
        let mut bytes =
            b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\0\x0a".to_vec();
        bytes.extend([length + 2, 1, length]);
        bytes.extend(body);
        bytes
    }

    fn check_error(bytes: &[u8], expected: &str) {
        let error = looked_at(bytes, true).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_program_is_good() {
        assert_eq!(
            looked_at(&module(b"\0\x0b"), false).unwrap(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_no_module_is_said_with_what_to_do() {
        check_error(b"\0asm\x0d\0\x01\0", "wasm-tools component unbundle");
        check_error(b"\x7fELF\x02\x01\x01", "wasm32-wasip1");
        check_error(b"#!/bin/sh\n", "native program");
        check_error(b"", "it is empty");
        check_error(b";; hello\n\n  (module)", "wat2wasm");
        check_error(b"PK\x03\x04", "does not start with");
    }

    #[test]
    fn a_broken_module_is_no_module() {
        let good = module(b"\0\x0b");
        check_error(&good[..good.len() - 1], "the file has only");
        // Its outline is whole, and its only function takes from an empty stack.
        check_error(&module(b"\0\x1a\x0b"), "nothing on stack at byte");
        let mut trailing = good;
        trailing.extend(b"garbage");
        check_error(&trailing, "no valid module");
    }

    #[test]
    fn what_the_engine_cannot_run_is_built_only_for_others() {
        let library = b"\0asm\x01\0\0\0";
        assert!(matches!(looked_at(library, false), Err(Error::Library)));
        assert!(looked_at(library, true).is_ok());
        let mut strange = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x07\x01\x01a\x01b\0\0".to_vec();
        strange.extend(b"\x03\x02\x01\0\x07\x0a\x01\x06_start\0\x01\x0a\x04\x01\x02\0\x0b");
        let error = looked_at(&strange, false).unwrap_err().to_string();
        assert!(error.contains("it imports from a,"), "{error}");
        assert_eq!(looked_at(&strange, true).unwrap().len(), 1);
    }
}
