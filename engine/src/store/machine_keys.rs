//! Public keys of installed machines, a file each: by its key a machine may have its image, to be updated. An install that ends
//! well leaves the key of the order; it is worth something until it is revoked, or another install leaves another.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use systemimager_core::HostName;

use super::files_with;
use crate::config::Config;
use crate::key;
use crate::sys::atomic;

/// Where they are.
pub fn dir(config: &Config) -> PathBuf {
    config.state().join("machine-keys")
}

fn file(dir: &Path, host: &HostName) -> PathBuf {
    dir.join(format!("{host}.pub"))
}

/// Keeps the key of a machine, in place of an earlier one.
///
/// # Errors
/// The disk is full, or the directory cannot be written.
pub fn put(config: &Config, host: &HostName, key: &str) -> Result<()> {
    let dir = dir(config);
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(atomic::write(&file(&dir, host), format!("{key}\n").as_bytes(), 0o644)?)
}

/// Takes it away; false: there was none.
///
/// # Errors
/// The directory cannot be written.
pub fn remove(config: &Config, host: &HostName) -> Result<bool> {
    let file = file(&dir(config), host);
    match std::fs::remove_file(&file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("removing {}", file.display())),
    }
}

/// All of them. A file that holds none is warned about and passed over.
///
/// # Errors
/// The directory cannot be read; an absent one is empty.
pub fn list(config: &Config) -> Result<Vec<(HostName, String)>> {
    let mut keys = Vec::new();
    for path in files_with(&dir(config), "pub")? {
        let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".pub"));
        let Some(Ok(host)) = name.map(HostName::try_from) else { continue };
        match std::fs::read_to_string(&path) {
            Ok(text) if key::is_public(text.trim_end()) => keys.push((host, text.trim_end().to_owned())),
            Ok(_) => tracing::warn!("{} is no public key; passed over", path.display()),
            // Revoked since the directory was read.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }
    keys.sort();
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    #[test]
    fn a_key_a_machine_until_it_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        assert_eq!(list(&config).unwrap(), []);
        let www1 = HostName::try_from("www1").unwrap();
        let keys = [Key::of_seed(&[1; 32]).unwrap(), Key::of_seed(&[2; 32]).unwrap()];
        for key in &keys {
            put(&config, &www1, key.public()).unwrap();
            assert_eq!(list(&config).unwrap(), [(www1.clone(), key.public().to_owned())]);
        }
        std::fs::write(super::dir(&config).join("www2.pub"), "command=\"id\" x").unwrap();
        assert_eq!(list(&config).unwrap().len(), 1);
        assert!(remove(&config, &www1).unwrap());
        assert!(!remove(&config, &www1).unwrap());
        assert_eq!(list(&config).unwrap(), []);
    }
}
