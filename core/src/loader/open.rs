//! Opens a library that passed every refusal. From here on its code runs.

use std::path::Path;

use super::error::LoadError;
use super::identity::Found;
use crate::abi::{Loaded, OpenError, open_library};

/// Opens the library and makes its plugin.
///
/// # Errors
/// `Open`: the dynamic linker refused. `Refused`: its ABI differs, or its constructor failed.
pub(super) fn open(path: &Path, found: &Found) -> Result<Loaded, LoadError> {
    match open_library(path, &found.root_symbol, found.is_older) {
        Ok(plugin) => Ok(plugin),
        Err(OpenError::Linker(why)) => Err(LoadError::Open { file: path.into(), why }),
        Err(OpenError::Plugin(error)) => Err(LoadError::Refused { file: path.into(), why: error.message }),
    }
}
