//! Loads the module and runs it.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::{fs, io, iter, mem};

use podwasm_engine::header::{NotAModule, check_header};
use podwasm_engine::line::{line, quoted, with_causes};
use podwasm_engine::outcome::Outcome;
use podwasm_engine::resolver;
use podwasm_engine::settings::{PAGE_BYTES, Settings};
use thiserror::Error;
use wasmedge_sdk::config::Config;
use wasmedge_sdk::error::{
    CoreCommonError, CoreError, CoreExecutionError, CoreInstantiationError, WasmEdgeError,
};
use wasmedge_sdk::wasi::WasiModule;
use wasmedge_sdk::{
    AsInstance as _, ExternalInstanceType, ImportType, Instance, Module, Store, Vm, WasmEdgeResult,
};

use crate::folders::FolderError;
use crate::plugins::{self, PluginError};
use crate::process::Process;
use crate::{compiled, configuration, faults, heap, sockets, streams, wasi};

/// What a WASI command exports to be started by.
const ENTRY: &str = "_start";
/// The module's bytes, in its folder.
const MODULE: &str = "module.wasm";
/// What a guest calls the memory that WASI's functions read and write.
const MEMORY: &str = "memory";
/// The namespace of WASI's functions, and here also of WasmEdge's sockets.
const WASI: &str = "wasi_snapshot_preview1";

/// Why a module was not started.
#[derive(Debug, Error)]
enum StartError {
    #[error("WasmEdge cannot be set up")]
    Engine(#[source] Box<WasmEdgeError>),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("it cannot be linked")]
    Link(#[source] Box<WasmEdgeError>),
    #[error("it is malformed")]
    Malformed(#[source] Box<WasmEdgeError>),
    #[error("its memory cannot be mapped: {0} KiB, in 12 GiB of address space")]
    Memory(u64),
    #[error("it needs {needed} KiB of memory from the start, and the limit is {limit} KiB")]
    MemoryLimit { needed: u64, limit: u64 },
    #[error("it exports no function {ENTRY}, so it is a library and not a program")]
    NoEntry,
    #[error(transparent)]
    NotAModule(#[from] NotAModule),
    #[error("its {ENTRY} takes parameters or returns values")]
    OddEntry,
    #[error(transparent)]
    Plugin(#[from] PluginError),
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it imports {0}, which this engine does not have")]
    UnknownImport(String),
}

/// A module that can be instantiated.
struct Loaded {
    module: Module,
    config: Config,
    /// Its bytes but for its functions, where they are in memory anyhow.
    embedded: &'static [u8],
}

/// Runs the module in this folder until the guest ends.
pub fn run(folder: &Path, process: &Process, settings: &Settings) -> Outcome {
    try_run(folder, process, settings).unwrap_or_else(|error| Outcome::CannotStart(with_causes(&error)))
}

fn try_run(folder: &Path, process: &Process, settings: &Settings) -> Result<Outcome, StartError> {
    let Loaded {
        module,
        config,
        embedded,
    } = match load_compiled(folder, process, settings)? {
        Some(loaded) => loaded,
        None => load_interpreted(folder, settings)?,
    };
    check_entry(&module)?;
    check_memory_limit(&module, settings)?;
    let mut plugins = plugins::load(&settings.plugins)?;
    let mut wasi = WasiModule::create(None, None, None).map_err(StartError::Engine)?;
    if !settings.sockets {
        sockets::refuse(&mut wasi);
    }
    let needs_dns_server = settings.sockets && needs_dns_server(&module);
    wasi::initialise(&mut wasi, process, settings, needs_dns_server)?;
    let mut vm = vm(&config, &mut wasi, &mut plugins).map_err(StartError::Engine)?;
    heap::limit_stack(settings);
    // Where a module has a function to run at instantiation, the guest may end here already.
    let registered =
        heap::without_dropped_data(embedded, || vm.register_module(None, module.clone()).map(drop));
    if let Err(error) = registered {
        mem::forget(vm);
        return instantiation_error(*error, &module, &wasi, &plugins);
    }
    let end = if has_ended(&vm) {
        Ok(Vec::new())
    } else {
        check_memory(&vm, &module)?;
        // The instance has copies of what it needs of it.
        drop(module);
        heap::give_back();
        vm.run_func(None, ENTRY, iter::empty())
    };
    // Dropping it would unmap the guest's memory, just before the process ends.
    mem::forget(vm);
    Ok(outcome(end, &wasi))
}

/// Where native code cannot be used, that is said, and the module is interpreted.
fn load_compiled(
    folder: &Path,
    process: &Process,
    settings: &Settings,
) -> Result<Option<Loaded>, StartError> {
    let Some(path) = compiled::find(folder, settings) else {
        return Ok(None);
    };
    let config = configuration::of(settings, false).map_err(StartError::Engine)?;
    match compiled::load(&path, &config) {
        Ok((module, embedded)) => {
            faults::expect(process.program());
            Ok(Some(Loaded {
                module,
                config,
                embedded,
            }))
        }
        Err(error) => {
            let (path, why) = (quoted(path.as_os_str().as_bytes()), with_causes(&error));
            let message = format!("{path} cannot be loaded, so the module is interpreted: {why}");
            streams::write_stderr(line(&message).as_bytes());
            Ok(None)
        }
    }
}

/// Never hands a path to WasmEdge: it would load an ELF file as a library and so run native code of the image.
fn load_interpreted(folder: &Path, settings: &Settings) -> Result<Loaded, StartError> {
    let config = configuration::of(settings, true).map_err(StartError::Engine)?;
    let bytes = fs::read(folder.join(MODULE)).map_err(StartError::Read)?;
    check_header(&bytes)?;
    let module = Module::from_bytes(Some(&config), bytes).map_err(StartError::Malformed)?;
    Ok(Loaded {
        module,
        config,
        embedded: &[],
    })
}

fn check_entry(module: &Module) -> Result<(), StartError> {
    match module.get_export(ENTRY) {
        Some(ExternalInstanceType::Func(ty)) if ty.args_len() == 0 && ty.returns_len() == 0 => Ok(()),
        Some(ExternalInstanceType::Func(_)) => Err(StartError::OddEntry),
        _ => Err(StartError::NoEntry),
    }
}

type WasiVm<'a> = Vm<'a, Instance>;

fn vm<'a>(
    config: &Config,
    wasi: &'a mut WasiModule,
    plugins: &'a mut [Instance],
) -> WasmEdgeResult<WasiVm<'a>> {
    let plugins = plugins
        .iter_mut()
        .map(|instance| (instance.name().unwrap_or_default(), instance));
    let instances: HashMap<_, _> = plugins.chain([(WASI.to_owned(), wasi.as_mut())]).collect();
    Ok(Vm::new(Store::new(Some(config), instances)?))
}

fn needs_dns_server(module: &Module) -> bool {
    let imports = module.imports();
    let names = imports.iter().filter(|import| import.module_name() == WASI);
    resolver::needs_server(names.map(ImportType::name))
}

/// The SDK takes `proc_exit` for a success, and the instance that is not there for one.
fn has_ended(vm: &WasiVm<'_>) -> bool {
    vm.active_module().is_none_or(|instance| instance.func_len() == 0)
}

fn instantiation_error(
    error: WasmEdgeError,
    module: &Module,
    wasi: &WasiModule,
    plugins: &[Instance],
) -> Result<Outcome, StartError> {
    // Without the memory it asked the kernel for, WasmEdge finds that the module's data do not fit.
    let memory_bytes = minimum_memory_bytes(module);
    if !heap::can_map_guest_memory(memory_bytes) {
        return Err(StartError::Memory(memory_bytes >> 10));
    }
    match error {
        WasmEdgeError::Core(CoreError::Execution(_)) => Ok(outcome::<()>(Err(error.into()), wasi)),
        WasmEdgeError::Core(CoreError::Instantiation(CoreInstantiationError::UnknownImport)) => Err(
            first_unknown_import(module, plugins.iter().chain([wasi.as_ref()]))
                .map_or_else(|| StartError::Link(error.into()), StartError::UnknownImport),
        ),
        error => Err(StartError::Link(error.into())),
    }
}

fn first_unknown_import<'a>(module: &Module, hosts: impl Iterator<Item = &'a Instance>) -> Option<String> {
    let known: HashMap<_, _> = hosts
        .map(|host| {
            (
                host.name().unwrap_or_default(),
                host.func_names().unwrap_or_default(),
            )
        })
        .collect();
    let is_known = |import: &ImportType| {
        let names = known.get(&*import.module_name());
        names.is_some_and(|names| names.iter().any(|name| *name == import.name()))
    };
    let imports = module.imports();
    let unknown = imports.iter().find(|import| !is_known(import))?;
    let (from, name) = (unknown.module_name(), unknown.name());
    Some(format!(
        "{} from {}",
        quoted(name.as_bytes()),
        quoted(from.as_bytes())
    ))
}

/// WasmEdge would silently give the guest less.
fn check_memory_limit(module: &Module, settings: &Settings) -> Result<(), StartError> {
    let needed = minimum_memory_bytes(module);
    let limit = u64::from(settings.memory_pages) * PAGE_BYTES;
    if needed <= limit {
        return Ok(());
    }
    Err(StartError::MemoryLimit {
        needed: needed >> 10,
        limit: limit >> 10,
    })
}

/// WasmEdge goes on with no memory at all when the kernel refuses it.
fn check_memory(vm: &WasiVm<'_>, module: &Module) -> Result<(), StartError> {
    let minimum_bytes = minimum_memory_bytes(module);
    let memory = vm
        .active_module()
        .and_then(|instance| instance.get_memory_ref(MEMORY).ok());
    let bytes = memory.map_or(0, |memory| u64::from(memory.size()) * PAGE_BYTES);
    if bytes >= minimum_bytes {
        Ok(())
    } else {
        Err(StartError::Memory(minimum_bytes >> 10))
    }
}

fn minimum_memory_bytes(module: &Module) -> u64 {
    match module.get_export(MEMORY) {
        Some(ExternalInstanceType::Memory(ty)) => u64::from(ty.minimum()) * PAGE_BYTES,
        _ => 0,
    }
}

fn outcome<T>(end: WasmEdgeResult<T>, wasi: &WasiModule) -> Outcome {
    match end.map_err(|error| *error) {
        // The SDK takes the end by `proc_exit` for a success; without one, WASI's code is 0.
        Ok(_) | Err(WasmEdgeError::Core(CoreError::Common(CoreCommonError::Terminated))) => {
            Outcome::Exited(wasi.exit_code())
        }
        Err(WasmEdgeError::Core(CoreError::Execution(CoreExecutionError::Unreachable))) => {
            Outcome::Trapped("unreachable executed".into())
        }
        Err(error) => Outcome::Trapped(error.to_string()),
    }
}
