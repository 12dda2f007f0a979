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

/// The files of a directory that end in `.json`, sorted; an absent directory has none.
///
/// # Errors
/// The directory cannot be read.
pub fn json_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("listing {}", dir.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("listing {}", dir.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
