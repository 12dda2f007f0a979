//! Opens plugins from files. Everything that can be refused is refused before a file's code runs:
//! opening a shared object runs its constructors.
//!
//! Two steps that run nothing ([`identity`](self) reads what the file says of itself, then who may write
//! it is looked at), and one that does (dlopen). A library is never unloaded: its threads, its
//! thread-locals and the data it handed out may outlive any moment at which that would seem safe.

mod error;
mod identity;
mod open;
mod pages;
mod trust;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::abi::Identification;
use crate::registry::{Again, Origin, Plugin, Registry};

pub use error::LoadError;

/// What a plugin file says of itself. Runs none of its code.
///
/// # Errors
/// It is not a plugin that this program could load (see [`LoadError`]); its id and its owner are not looked at.
pub fn examine(file: &Path) -> Result<Identification, LoadError> {
    Ok(identity::read(file)?.identification)
}

/// Opens a plugin file and adds it to the registry.
///
/// Refused before any of its code runs, in this order: not a shared object; not a plugin; another
/// architecture; an incompatible contract; built with panic=abort; an id that is taken; others than root
/// may write the file, its directory or one above; another owner than root; a symbolic link.
///
/// # Errors
/// Why it was refused, in one line. The registry is as before.
pub fn load_file<'r>(registry: &'r mut Registry, file: &Path) -> Result<&'r Plugin, LoadError> {
    let found = identity::read(file)?;
    let identification = found.identification.clone();
    let (kind, id) = (identification.kind, identification.id.clone());
    if let Some(other) = registry.get(kind, &id) {
        return Err(LoadError::IdTaken { file: file.into(), name: other.name(), by: other.origin.to_string() });
    }
    let path = trust::check(file, &found.inode)?;
    let wire = open::open(&path, &found)?;
    let again = wire.again();
    let again: Again = Arc::new(move || Ok(Arc::new(again()?)));
    registry
        .add_wire(identification, Origin::File(path), Arc::new(wire), Some(again))
        .and_then(|()| registry.find(kind, &id))
        .map_err(|error| LoadError::Refused { file: file.into(), why: error.message })
}

/// Loads every `*.so` of a directory, in the order of their names. One that is refused does not stop the others.
///
/// The answer has a row for each file; a directory that cannot be read is one row, with its own path.
pub fn load_dir(registry: &mut Registry, directory: &Path) -> Vec<(PathBuf, Result<Identification, LoadError>)> {
    let files = match plugin_files(directory) {
        Ok(files) => files,
        Err(error) => {
            return vec![(
                directory.to_owned(),
                Err(LoadError::Unreadable { file: directory.into(), why: error.to_string() }),
            )];
        }
    };
    files
        .into_iter()
        .map(|file| {
            let result = load_file(registry, &file).map(|plugin| plugin.identification.clone());
            (file, result)
        })
        .collect()
}

fn plugin_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "so") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
