//! What lies on the image server's disk: images, masters, hosts, host links, orders.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub mod addresses;
pub mod clients;
pub mod copy;
pub mod declared_list;
pub mod edit;
pub mod hooks;
pub mod host_links;
pub mod host_set;
pub mod hosts_file;
pub mod image_store;
pub mod machine_keys;
pub mod macs;
pub mod master;
pub mod master_text;
pub mod orders;
pub mod overrides;
mod proof;
pub mod remove;
pub mod rename;
pub mod revision;
pub mod serials;
pub mod server_keys;
pub mod staging;
pub mod users;

/// A file's contents; none where it is absent.
///
/// # Errors
/// It cannot be read.
pub fn read_or_empty(path: &Path) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Ok(contents) => Ok(contents),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// The files of a directory that end in `.json`, sorted; an absent directory has none.
///
/// # Errors
/// The directory cannot be read.
pub fn json_files(dir: &Path) -> Result<Vec<PathBuf>> {
    files_with(dir, "json")
}

/// The same with another ending.
///
/// # Errors
/// As [`json_files`].
pub fn files_with(dir: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("listing {}", dir.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("listing {}", dir.display()))?.path();
        if path.extension().is_some_and(|extension| extension == ending) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
