//! dlopen: each library's own root, never one that is cached.
//!
//! `RootModule::load_from_file` keeps one library for each type, so that the second plugin would be the
//! first, silently. Hence libloading, and the header of each library by its own symbol.

use std::path::Path;

use abi_stable::library::AbiHeaderRef;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::host_side::{Loaded, one_line, open_root};
use crate::error::PluginError;

/// Why a library was not opened. One line each.
pub(crate) enum OpenError {
    /// The dynamic linker's word.
    Linker(String),
    /// Its ABI, or its constructor.
    Plugin(PluginError),
}

/// Opens a library for good, and makes the plugin whose root it exports as `root_symbol`. The caller has
/// checked who wrote the file: its code runs with the first line of this.
///
/// # Errors
/// See [`OpenError`]. The library stays open then too: its code ran, and what it left behind points into it.
pub(crate) fn open_library(path: &Path, root_symbol: &str, plugin_is_older: bool) -> Result<Loaded, OpenError> {
    // SAFETY: only root can have written the library, and the loader found it to be a plugin.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| OpenError::Linker(one_line(&error)))?;
    // SAFETY: `declare_plugin!` exports a `LibHeader` by this name, which begins with its `AbiHeader`; the
    // address of the symbol is then such a reference.
    let header = unsafe { library.get::<AbiHeaderRef>(root_symbol) }.map(|symbol| *symbol);
    // Never unloaded, whatever comes next.
    let _ = library.into_raw();
    let header = header.map_err(|error| OpenError::Linker(one_line(&error)))?;
    open_root(header, plugin_is_older).map_err(OpenError::Plugin)
}
