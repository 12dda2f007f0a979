//! Opens a library that passed every refusal. From here on its code runs.

use std::path::Path;
use std::sync::Arc;

use super::error::LoadError;
use super::identity::Found;
use crate::abi::{OpenError, open_library};
use crate::contract::Wire;

/// Opens the library and makes its plugin.
///
/// # Errors
/// `Open`: the dynamic linker refused. `Refused`: its ABI differs, or its constructor failed.
pub(super) fn open(path: &Path, found: &Found) -> Result<Arc<dyn Wire>, LoadError> {
    match open_library(path, &found.root_symbol, found.is_older) {
        Ok(plugin) => Ok(Arc::new(plugin)),
        Err(OpenError::Linker(why)) => Err(LoadError::Open { file: path.into(), why }),
        Err(OpenError::Plugin(error)) => Err(LoadError::Refused { file: path.into(), why: error.message }),
    }
}
